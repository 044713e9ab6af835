"""Choice of the worker for the next group: the least loaded one with room and an allowed version.

Plain bookkeeping, O(log workers) per group: one heap per served version; outdated entries are removed when they
reach the top. Called by the coordinator for every group it starts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_KNOWN_PROMPTS = 100_000
"""Prompts whose lengths are remembered; beyond them the mean of all is used."""


@dataclass(slots=True)
class _Worker:
    index: int
    version: int | None = None
    groups: int = 0
    load: float = 0.0
    stamp: int = 0


class Dispatcher:
    """See the module. `window` is the number of groups a worker may have at a time; it may change."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._workers: dict[str, _Worker] = {}
        self._heaps: dict[int, list[tuple[float, int, int, str]]] = {}

    @property
    def window(self) -> int:
        """Groups a worker may have at a time."""
        return self._window

    @window.setter
    def window(self, groups: int) -> None:
        if groups != self._window:
            self._window = groups
            for name, worker in self._workers.items():
                self._offer(name, worker)

    def is_idle(self, name: str) -> bool:
        """Whether a worker has no group; unknown ones have none."""
        worker = self._workers.get(name)
        return worker is None or worker.groups == 0

    def serve(self, name: str, index: int, version: int) -> None:
        """From now on this worker samples with this version."""
        worker = self._workers.setdefault(name, _Worker(index))
        worker.version = version
        self._offer(name, worker)

    def remove(self, name: str) -> None:
        """Forget a worker and its groups."""
        self._workers.pop(name, None)

    def serve_nothing(self) -> None:
        """No worker serves anything that may be trained on (a new attempt); what they have in flight stays."""
        self._heaps.clear()
        for worker in self._workers.values():
            worker.version = None

    def started(self, name: str, weight: float = 1.0) -> None:
        """A group was sent to this worker."""
        worker = self._workers[name]
        worker.groups += 1
        worker.load += weight
        self._offer(name, worker)

    def ended(self, name: str, weight: float = 1.0) -> None:
        """A group came back or was lost; unknown workers are ignored (they were replaced)."""
        worker = self._workers.get(name)
        if worker is not None:
            worker.groups -= 1
            worker.load = max(0.0, worker.load - weight) if worker.groups else 0.0
            self._offer(name, worker)

    def choose(self, may_start: Callable[[int], bool]) -> str | None:
        """The worker for the next group; None where no worker has room or no version may start.

        Args:
            may_start: whether one more group of this version may be started now.
        """
        best: tuple[float, int, str] | None = None
        for version in list(self._heaps):
            top = self._top(version)
            if top is not None and (best is None or top < best) and may_start(version):
                best = top
        return None if best is None else best[2]

    def _offer(self, name: str, worker: _Worker) -> None:
        worker.stamp += 1
        if worker.version is not None and worker.groups < self._window:
            heap = self._heaps.setdefault(worker.version, [])
            heapq.heappush(heap, (worker.load, worker.index, worker.stamp, name))

    def _top(self, version: int) -> tuple[float, int, str] | None:
        heap = self._heaps[version]
        while heap:
            load, index, stamp, name = heap[0]
            worker = self._workers.get(name)
            if worker is not None and worker.stamp == stamp:
                return load, index, name
            heapq.heappop(heap)
        del self._heaps[version]
        return None


@dataclass(slots=True)
class ExpectedLengths:
    """Expected work of a group, from the groups of its prompt so far: 1 is the mean of all.

    Example:
        lengths = ExpectedLengths(); lengths.observe("p1", 300); lengths.observe("p2", 100)
        lengths.weight("p1")  # 1.5
    """

    _of_prompt: dict[str, tuple[int, int]] = field(default_factory=dict)
    _tokens: int = 0
    _groups: int = 0

    def observe(self, prompt_id: str, num_tokens: int) -> None:
        """A group of this prompt had `num_tokens` tokens."""
        self._tokens += num_tokens
        self._groups += 1
        if prompt_id in self._of_prompt or len(self._of_prompt) < MAX_KNOWN_PROMPTS:
            tokens, groups = self._of_prompt.get(prompt_id, (0, 0))
            self._of_prompt[prompt_id] = tokens + num_tokens, groups + 1

    def weight(self, prompt_id: str) -> float:
        """Expected tokens over the mean of all groups; 1 for a prompt that was never seen."""
        known = self._of_prompt.get(prompt_id)
        if known is None or self._tokens == 0:
            return 1.0
        return (known[0] / known[1]) / (self._tokens / self._groups)
