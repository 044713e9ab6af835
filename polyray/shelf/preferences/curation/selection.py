"""The best N texts that differ: by engagement under a minimum distance. Pure.

In the order of engagement, each text is at least `min_distance` (1 - cosine) from all chosen before it: of all sets
that obey the limits, the one that comes first when texts are compared from the best on.

Not here: where embeddings come from. Called by pipeline.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from polyray.config.curate import SelectionSpec
from polyray.metrics.diversity import mean_pairwise_cosine_distance
from polyray.shelf.preferences.engagement import EngagementRecord

Embed = Callable[[Sequence[int]], np.ndarray]
_BLOCK_ROWS = 256


def select(
    records: Sequence[EngagementRecord], embed: Embed, spec: SelectionSpec, first: Sequence[int] = ()
) -> list[int]:
    """Positions of the chosen records in the order in which they were chosen, at most `spec.count`.

    Args:
        records: the records to choose from.
        embed: positions -> [n, D] embeddings of unit length. It is asked for as many as are needed.
        spec: how many, and the limits.
        first: positions that are chosen despite the limits (a person wants them); they count.
    """
    order = best_first(records)
    wanted = sorted(first, key=order.index)
    limits = _Limits(records, spec)
    chosen = [np.asarray(row, np.float64) for row in embed(wanted)] if wanted else []
    for at in wanted:
        limits.take(at)
    for start in range(0, len(order), _BLOCK_ROWS):
        if len(limits.taken) >= spec.count:
            break
        block = [at for at in order[start : start + _BLOCK_ROWS] if limits.allow(at)]
        rows = np.asarray(embed(block), np.float64) if block else np.empty((0, 0))
        for at, row in zip(block, rows, strict=True):
            is_far = not chosen or bool((1.0 - np.stack(chosen) @ row >= spec.min_distance).all())
            if len(limits.taken) < spec.count and limits.allow(at) and is_far:
                limits.take(at)
                chosen.append(row)
    return limits.taken


def best_first(records: Sequence[EngagementRecord]) -> list[int]:
    """Positions by engagement, the most first; equal ones by record_id."""
    return sorted(range(len(records)), key=lambda at: (-records[at].engagement, records[at].record_id))


def diversity(embeddings: np.ndarray) -> dict[str, float | None]:
    """Mean distance of all pairs, and of each text to its nearest neighbour; None below two texts."""
    if len(embeddings) < 2:
        return {"mean_pairwise_distance": None, "mean_nearest_distance": None}
    rows = np.asarray(embeddings, np.float64)
    nearest = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        cosines = block @ rows.T
        cosines[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        nearest[start : start + len(block)] = 1.0 - cosines.max(axis=1)
    return {
        "mean_pairwise_distance": mean_pairwise_cosine_distance(rows),
        "mean_nearest_distance": float(nearest.mean()),
    }


class _Limits:
    """Records chosen so far, and the remaining limits on prompts and clusters."""

    def __init__(self, records: Sequence[EngagementRecord], spec: SelectionSpec) -> None:
        self._records, self._spec = records, spec
        self.taken: list[int] = []
        self._of_prompt: Counter[str] = Counter()
        self._is_taken: set[int] = set()

    def allow(self, at: int) -> bool:
        """Whether record number `at` may be chosen now, by the limits."""
        record, spec = self._records[at], self._spec
        return not (
            at in self._is_taken
            or (spec.max_per_prompt is not None and self._of_prompt[record.prompt_id] >= spec.max_per_prompt)
        )

    def take(self, at: int) -> None:
        """Chooses it."""
        self.taken.append(at)
        self._is_taken.add(at)
        self._of_prompt[self._records[at].prompt_id] += 1
