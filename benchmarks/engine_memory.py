"""Resident memory of the engines that a block starts, below this process.

RSS and not PSS: what an engine shares with others (libraries) would count less the more processes run beside it, and
more do on a shared fleet.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

from benchmarks.memory import PROC, descendants, parents

GB = 1e9
INTERVAL_S = 0.5
TITLE = b"ray::RolloutActor"
"""Ray's name for the process of an actor of this class."""


class EngineMemory:
    """Watches between enter and exit, in a thread.

    Example:
        with EngineMemory() as memory:
            ...
        memory.needed_bytes / GB  # 1.9
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._highest: dict[int, int] = {}
        self.peak_bytes = 0
        """Peak memory of all engines together."""

    @property
    def num_engines(self) -> int:
        """Processes that were seen."""
        return len(self._highest)

    @property
    def needed_bytes(self) -> int:
        """The highest of each engine, added up: whether they were there at the same time or not."""
        return sum(self._highest.values())

    def __enter__(self) -> EngineMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def sample(self, below: int) -> None:
        """One look at the engines below this process."""
        resident = {
            pid: engine_bytes(pid, self._proc) for pid in descendants({below}, parents(self._proc)) - {below}
        }
        engines = {pid: size for pid, size in resident.items() if size is not None}
        for pid, size in engines.items():
            self._highest[pid] = max(size, self._highest.get(pid, 0))
        self.peak_bytes = max(self.peak_bytes, sum(engines.values()))

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.sample(os.getpid())


def engine_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Resident bytes of an engine's process; None for any other, and for one that has ended."""
    try:
        if not (proc / str(pid) / "cmdline").read_bytes().startswith(TITLE):
            return None
        lines = (proc / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)
