"""Watchdog process: ends an engine's processes and files with it, even if it is killed.

vLLM's EngineCore and workers outlive a parent that gets SIGKILL, and files in shared memory outlive everything.
The watchdog reads a pipe, through which its owner names shared memory that must go, too. When the writing end closes,
because its owner closed it or died, it kills every process that carries the owner's mark in its environment, removes
their shared memory and the owner's directory, and ends. It is no child of its owner, because Ray kills an actor's
children with it. Standard library only: it runs this very file, without the environment's packages.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "POLYRAY_ENGINE_MARK"
"""Environment variable of the processes that belong to one owner."""
RESOURCE_TRACKER = b"multiprocessing.resource_tracker"
"""Python's own; it ends by itself once its users are gone, and removes their shared memory first."""
SHARED_MEMORY = Path("/dev/shm")
BLOCKS = f"{SHARED_MEMORY}/psm_"
KILL_S = 10.0
POLL_S = 0.05
START_TIMEOUT_S = 30.0


class Watchdog:
    """Started by the owner, before there is anything to watch over."""

    def __init__(self) -> None:
        root = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.directory = Path(tempfile.mkdtemp(prefix=f"polyray-engine-{os.getpid()}-", dir=root))
        """Place for the owner's files, in this node's shared memory or else the temporary directory."""
        self.mark = self.directory.name
        reading, self._writing = os.pipe()
        command = [sys.executable, "-S", "-E", __file__, self.mark, str(self.directory)]
        try:
            starter = subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE, start_new_session=True)
        finally:
            os.close(reading)
        output, _ = starter.communicate(timeout=START_TIMEOUT_S)
        self.pid = int(output)

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Processes that are started inside, and all below them, belong to the owner, and so does the shared memory
        that they have at the end of the block, even if they are killed before it."""
        os.environ[MARK] = self.mark
        try:
            yield
        finally:
            del os.environ[MARK]
        shared = {file for pid in marked_processes(self.mark) for file in shared_memory_of(pid)}
        os.write(self._writing, b"".join(os.fsencode(file) + b"\0" for file in shared))

    def close(self) -> None:
        """Remove the directory; the watchdog does the rest at once, and ends. May be called again."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1


def marked_processes(mark: str) -> list[int]:
    """Live processes that carry the mark, but for Python's resource trackers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # a process that ended meanwhile, and another user's, cannot be read
            marked = f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
            if marked and RESOURCE_TRACKER not in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def shared_memory_of(pid: int) -> set[Path]:
    """Shared memory that `multiprocessing.shared_memory` has mapped into a process, and may leave behind."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {Path(line[line.index(BLOCKS) :]) for line in lines if BLOCKS in line}


def _watch(mark: str, directory: str) -> None:
    """Wait until the pipe closes, then kill and remove. A second look finds processes that were just starting."""
    left = {Path(os.fsdecode(name)) for name in sys.stdin.buffer.read().split(b"\0") if name}
    deadline = time.monotonic() + KILL_S
    while (pids := marked_processes(mark)) and time.monotonic() < deadline:
        for pid in pids:
            left |= shared_memory_of(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    for file in left:
        file.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if started := os.fork():  # this parent prints the pid and ends, so that the watchdog has none here
        print(started, flush=True)
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.chdir("/")
    _watch(*sys.argv[1:])
