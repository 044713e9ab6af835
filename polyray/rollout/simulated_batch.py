"""Sequences that decode together, in simulated seconds: when each is done. No clock, no tokens.

All running sequences get their tokens in lockstep, so one counter of decoded tokens and a heap of the counts at
which sequences end are enough: an hour of decoding costs as many operations as sequences ended in it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

ROUNDING_S = 1e-9
"""A sequence that would end within this has ended: sums of seconds are not exact."""


class DecodingBatch:
    """Batch in which at most `max_sequences` run; a step of n takes `step_s + n * sequence_s`."""

    def __init__(self, step_s: float, sequence_s: float, max_sequences: int) -> None:
        self._step_s = step_s
        self._sequence_s = sequence_s
        self._max_sequences = max_sequences
        self._decoded = 0.0
        """Tokens that a sequence which runs from the start would have."""
        self._ends: list[tuple[float, int]] = []
        self._waiting: deque[tuple[int, int]] = deque()
        self._missing: dict[int, int] = {}

    @property
    def num_running(self) -> int:
        """Sequences that get a token at the next step."""
        return len(self._ends)

    @property
    def current_step_s(self) -> float:
        """Seconds of a step as the batch is now."""
        return self._step_s + self._sequence_s * len(self._ends)

    def add(self, group_id: int, lengths: Sequence[int]) -> None:
        """A group of sequences joins: at once where there is room, else when others have ended."""
        self._missing[group_id] = len(lengths)
        self._waiting.extend((group_id, length) for length in lengths)
        self._admit()

    def remove(self, group_id: int) -> None:
        """Forgets a group; unknown ids are ignored."""
        if self._missing.pop(group_id, None) is not None:
            self._waiting = deque(item for item in self._waiting if item[0] != group_id)
            self._ends = [item for item in self._ends if item[1] != group_id]
            heapq.heapify(self._ends)
            self._admit()

    def step(self) -> list[int]:
        """One token for every running sequence; the groups that are complete."""
        self._decoded += 1
        return self._end()

    def next_end_s(self) -> float:
        """Seconds until the next sequence ends; infinite where none runs."""
        if not self._ends:
            return math.inf
        return max(0.0, self._ends[0][0] - self._decoded) * self.current_step_s

    def run(self, seconds: float) -> list[int]:
        """Decodes for so long; the groups that are complete, in order."""
        complete: list[int] = []
        while self._ends and (needed := self.next_end_s()) <= seconds + ROUNDING_S:
            seconds = max(0.0, seconds - needed)
            self._decoded = self._ends[0][0]
            complete += self._end()
        if self._ends:
            self._decoded += seconds / self.current_step_s
        return complete

    def _end(self) -> list[int]:
        complete: list[int] = []
        while self._ends and self._ends[0][0] <= self._decoded:
            _, group_id = heapq.heappop(self._ends)
            self._missing[group_id] -= 1
            if self._missing[group_id] == 0:
                del self._missing[group_id]
                complete.append(group_id)
        self._admit()
        return complete

    def _admit(self) -> None:
        if not self._missing:
            self._decoded = 0.0  # keeps the fractions exact over a long life
        while self._waiting and len(self._ends) < self._max_sequences:
            group_id, length = self._waiting.popleft()
            heapq.heappush(self._ends, (self._decoded + length, group_id))
