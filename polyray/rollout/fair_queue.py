"""Fair queue of an engine that several runs share: weighted round robin over runs.

Every message costs its run something (a group: its samples over the run's share), and the run that has had the
least comes next, so that runs which always have work get samples in proportion to their shares. A run that was
idle returns level with the others: it saves up no unused time.

An engine that keeps versions takes the requests of all runs as they come next. One that holds a single version must
load a run's weights first, so a run keeps the engine until it has nothing left to do, or until its slice is over
while others wait. A run whose version was just loaded keeps it for as long as bringing its weights back would take,
until it sends groups: the engine loses at most twice what it would with foresight. Used by worker.py; without threads
and without an engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MessageT = TypeVar("MessageT")

LOAD_SHARE = 0.03
"""Largest share of an engine's time for loads that only bring a run's weights back."""


@dataclass(slots=True)
class _Queue(Generic[MessageT]):
    """Messages of a run with their costs, and the cost of those that it has had."""

    messages: deque[tuple[MessageT, float]] = field(default_factory=deque)
    had: float = 0.0


class FairQueue(Generic[MessageT]):
    """Messages by run, in the order they came."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._queues: dict[str, _Queue[MessageT]] = {}
        """The current run is first; of runs with equal cost, the one with the least recent turn comes next."""
        self._began = 0.0
        self.slice_s = 0.0
        """Longest time that a run may keep others waiting, in seconds; see `load_took`."""
        self._expected_until = 0.0
        """Time until which the engine waits for the current run's next message."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(queue.messages for queue in self._queues.values())

    @property
    def num_runs(self) -> int:
        """Runs that had a message here and were not forgotten."""
        return len(self._queues)

    def put(self, run: str, message: MessageT, cost: float = 0.0) -> None:
        """Append to the run's queue; an unknown run comes last."""
        if self.current is None:
            self._began = self._clock()
        queue = self._queues.setdefault(run, _Queue())
        if not queue.messages:
            waiting = [other.had for other in self._queues.values() if other.messages]
            queue.had = max(queue.had, min(waiting, default=0.0))
        queue.messages.append((message, cost))

    @property
    def current(self) -> str | None:
        """The run that has the engine; None before the first message."""
        return next(iter(self._queues), None)

    def head(self) -> MessageT | None:
        """The current run's next message; None where it has none."""
        queue = next(iter(self._queues.values()), None)
        return queue.messages[0][0] if queue is not None and queue.messages else None

    def pop(self) -> MessageT:
        """Remove and return the message of `head`."""
        queue = next(iter(self._queues.values()))
        message, cost = queue.messages.popleft()
        queue.had += cost
        self._expected_until = 0.0
        return message

    def take(self, may: Callable[[MessageT], bool]) -> MessageT | None:
        """Next message that `may` be had now, of the run that has had the least."""
        return self.pop() if self._turn_to(may) else None

    def advance(self) -> bool:
        """The turn of the run with work that has had the least, maybe the current one; False where none has work."""
        if not self._turn_to(lambda message: True):
            return False
        self._began = self._clock()
        return True

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
        return 0.0 if self.head() is not None else max(0.0, self._expected_until - self._clock())

    def forget(self, run: str) -> list[MessageT]:
        """The run has ended: what it still had waiting."""
        queue = self._queues.pop(run, None)
        return [message for message, _ in queue.messages] if queue is not None else []

    def drain(self) -> Iterator[MessageT]:
        """Remove and return all messages, run by run."""
        for queue in self._queues.values():
            while queue.messages:
                yield queue.messages.popleft()[0]

    @property
    def _others_wait(self) -> bool:
        return any(queue.messages for run, queue in self._queues.items() if run != self.current)

    def _turn_to(self, may: Callable[[MessageT], bool]) -> bool:
        """Put the next run first and the current one last; False if no run may continue."""
        runs = [run for run, queue in self._queues.items() if queue.messages and may(queue.messages[0][0])]
        if not runs:
            return False
        last = self.current
        runs.sort(key=lambda run: (self._queues[run].had, run == last))
        chosen = runs[0]
        assert last is not None
        self._queues[last] = self._queues.pop(last)
        self._queues = {chosen: self._queues.pop(chosen), **self._queues}
        return True
