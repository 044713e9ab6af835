"""Identity of a process: a pid alone is not enough, because pids are reused.

Linux only (reads /proc). Used for things that must not outlive their process: adapter files, processes of an
engine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of this pid namespace.

    Example:
        ProcessIdentity(pid=4711, started=8423907)
    """

    pid: int
    started: int
    """Clock ticks between the boot and its start."""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this pid now; None where there is none, or only its exit status is left."""
        fields = _stat_fields(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def is_alive(self) -> bool:
        """True while this very process runs."""
        return ProcessIdentity.of(self.pid) == self


def this_process() -> ProcessIdentity:
    """Identity of the current process."""
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return identity


def pid_namespace() -> int:
    """The namespace in which this process' pids mean something; containers may share memory, but not pids."""
    return PID_NAMESPACE.stat().st_ino


def descendants(pid: int) -> set[ProcessIdentity]:
    """Every process below `pid`, at any depth."""
    parents: dict[int, list[ProcessIdentity]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))) and fields[0] not in "ZX":
            child = ProcessIdentity(int(entry.name), int(fields[19]))
            parents.setdefault(int(fields[1]), []).append(child)
    found: set[ProcessIdentity] = set()
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child.pid)
    return found


def _stat_fields(pid: int) -> list[str] | None:
    """/proc/<pid>/stat from the state on: a command's name may hold spaces and brackets itself."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
