"""Whose turn it is on an engine that several runs share: one queue per run, served round robin.

An engine that holds one version at a time must load a run's weights before that run's groups, so a run keeps the
engine until it has nothing left to do, or until its slice is over while others wait. Where one run is alone, its
queue is simply a queue. Used by worker.py; without threads and without an engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

MessageT = TypeVar("MessageT")

LOAD_SHARE = 0.03
"""Of an engine's time, at most, for loads that only bring a run's weights back."""


class Turns(Generic[MessageT]):
    """Messages by run, in the order they came."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._queues: dict[str, deque[MessageT]] = {}
        """Runs in the order of their next turns; the current one is first."""
        self._began = 0.0
        self.slice_s = 0.0
        """How long a run may keep others waiting; see `load_took`."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(self._queues.values())

    def put(self, run: str, message: MessageT) -> None:
        """At the end of the run's queue; a run that nobody knew comes last."""
        self._queues.setdefault(run, deque()).append(message)

    @property
    def current(self) -> str | None:
        """The run whose turn it is; None before the first message."""
        return next(iter(self._queues), None)

    def head(self) -> MessageT | None:
        """The current run's next message; None where it has none."""
        queue = next(iter(self._queues.values()), None)
        return queue[0] if queue else None

    def pop(self) -> MessageT:
        """Takes what `head` showed."""
        return next(iter(self._queues.values())).popleft()

    @property
    def slice_is_over(self) -> bool:
        """Whether the current run has had its time, and somebody waits for it to end."""
        others = any(queue for run, queue in self._queues.items() if run != self.current)
        return others and self._clock() - self._began >= self.slice_s

    def advance(self) -> bool:
        """The turn of the next run that has something to do, which may be the current one; False where none has."""
        for _ in range(len(self._queues)):
            first = next(iter(self._queues))
            self._queues[first] = self._queues.pop(first)
            if self.head() is not None:
                self._began = self._clock()
                return True
        return False

    def load_took(self, seconds: float) -> None:
        """Makes slices so long that a load of this length at the start of each is LOAD_SHARE of it."""
        self.slice_s = seconds / LOAD_SHARE

    def forget(self, run: str) -> list[MessageT]:
        """The run has ended: what it still had waiting."""
        return list(self._queues.pop(run, ()))

    def drain(self) -> Iterator[MessageT]:
        """Takes everything, run by run."""
        for queue in self._queues.values():
            while queue:
                yield queue.popleft()
