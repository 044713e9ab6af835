"""Fair queue of an engine that several runs share: weighted round robin over runs.

Every message costs its run something (a group: its samples over the run's share), and the run that has had the
least comes next, so that runs which always have work get samples in proportion to their shares. A run that was
idle returns level with the others: it saves up no unused time.

An engine that holds a single version must load a run's weights first, so a run keeps such an engine until it has
nothing left to do, or until its slice is over while others wait. A run whose version was just loaded keeps it for as
long as bringing its weights back would take, until it sends groups: the engine loses at most twice what it would
with foresight. Used by worker.py; without threads and without an engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

MessageT = TypeVar("MessageT")

LOAD_SHARE = 0.03
"""Largest share of an engine's time for loads that only bring a run's weights back."""


class FairQueue(Generic[MessageT]):
    """Messages by run, in the order they came."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._queues: dict[str, deque[tuple[MessageT, float]]] = {}
        """Messages of each run with their costs; the run with the least recent turn is first."""
        self._had: dict[str, float] = {}
        """Cost of all that a run has had."""
        self._level = 0.0
        """What the run of the last turn had had before it."""
        self._current: str | None = None
        self._began = 0.0
        self.slice_s = 0.0
        """Longest time that a run may keep others waiting, in seconds; see `load_took`."""
        self._expected_until = 0.0
        """Time until which the engine waits for the current run's next message."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(self._queues.values())

    @property
    def num_runs(self) -> int:
        """Runs that had a message here and were not forgotten."""
        return len(self._queues)

    def put(self, run: str, message: MessageT, cost: float = 0.0) -> None:
        """Append to the run's queue."""
        queue = self._queues.setdefault(run, deque())
        if not queue:
            waiting = (self._had[other] for other, theirs in self._queues.items() if theirs)
            level = min(waiting, default=self._level)
            self._had[run] = max(self._had.get(run, 0.0), level)
        queue.append((message, cost))

    def take(self, may: Callable[[MessageT], bool]) -> MessageT | None:
        """Next message that `may` be had now: of the current run within its slice, else of the run that has had the
        least. None where there is none, or the engine waits for the current run."""
        if self.patience_s:
            return None
        runs = [run for run, queue in self._queues.items() if queue]
        if not (goes_on := self._current in runs and not self.slice_is_over):
            runs.sort(key=lambda run: (self._had[run], run == self._current))
        for run in runs:
            message, cost = self._queues[run][0]
            if (run == self._current or not goes_on) and may(message):
                if not goes_on:
                    self._began = self._clock()
                self._queues[run].popleft()
                self._queues[run] = self._queues.pop(run)
                self._level = self._had[run]
                self._had[run] += cost
                self._current, self._expected_until = run, 0.0
                return message
        return None

    @property
    def slice_is_over(self) -> bool:
        """Whether the current run has had its time while others wait."""
        return self._others_wait and self._clock() - self._began >= self.slice_s

    def load_took(self, seconds: float) -> None:
        """The current run's new version took so long. Makes slices so long that such a load at the start of each is
        LOAD_SHARE of it; one begins here, unless others wait already."""
        self.slice_s = seconds / LOAD_SHARE
        self._expected_until = self._clock() + seconds
        if not self._others_wait:
            self._began = self._clock()

    @property
    def patience_s(self) -> float:
        """Seconds that the engine still waits for the current run's next message, before it turns to another run."""
        if self._current is None or self._queues.get(self._current):
            return 0.0
        return max(0.0, self._expected_until - self._clock())

    def forget(self, run: str) -> list[MessageT]:
        """The run has ended: what it still had waiting."""
        self._had.pop(run, None)
        return [message for message, _ in self._queues.pop(run, ())]

    def drain(self) -> list[MessageT]:
        """Remove and return all messages, run by run."""
        return [message for run in list(self._queues) for message in self.forget(run)]

    @property
    def _others_wait(self) -> bool:
        return any(queue for run, queue in self._queues.items() if run != self._current)
