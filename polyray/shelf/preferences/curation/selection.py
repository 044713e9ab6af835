"""The best N texts that differ: by engagement under a minimum distance, or by maximal marginal relevance. Pure.

Not here: where embeddings come from. Called by pipeline.py.

    threshold   in the order of engagement, each text at least `min_distance` from all chosen before it: of all sets
                that obey the limits, the one that comes first when texts are compared from the best on
    mmr         next is the argmax of (1 - w) * percentile of engagement + w * distance to the nearest chosen one
                (w = diversity_weight; the first is the one with most engagement), again with the limits; after
                Carbonell and Goldstein, SIGIR 1998

Distance is 1 - cosine.
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
        embed: positions -> [n, D] embeddings of unit length. `threshold` asks for as many as it needs, `mmr` for all.
        spec: how many, and the limits.
        first: positions that are chosen despite the limits (a person wants them); they count.
    """
    order = best_first(records)
    wanted = sorted(first, key=order.index)
    if spec.method == "threshold":
        return _by_threshold(records, embed, spec, order, wanted)
    return _by_relevance(records, embed, spec, order, wanted)


def best_first(records: Sequence[EngagementRecord]) -> list[int]:
    """Positions by engagement, the most first; equal ones by record_id."""
    return sorted(range(len(records)), key=lambda at: (-records[at].engagement, records[at].record_id))


def _by_threshold(
    records: Sequence[EngagementRecord],
    embed: Embed,
    spec: SelectionSpec,
    order: Sequence[int],
    wanted: Sequence[int],
) -> list[int]:
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


def _by_relevance(
    records: Sequence[EngagementRecord],
    embed: Embed,
    spec: SelectionSpec,
    order: Sequence[int],
    wanted: Sequence[int],
) -> list[int]:
    limits = _Limits(records, spec)
    rows = np.asarray(embed(range(len(records))), np.float64)
    nearest = np.full(len(records), np.inf)
    percentiles = engagement_percentiles([record.engagement for record in records])
    waiting = np.array(order)
    queue = list(wanted)
    while queue or len(limits.taken) < spec.count:
        if queue:
            chosen = queue.pop(0)
        else:
            allowed = [limits.allow(at) for at in waiting.tolist()]
            waiting = waiting[allowed] if len(waiting) else waiting
            far = waiting[nearest[waiting] >= spec.min_distance]
            if not len(far):
                break
            share = spec.diversity_weight if limits.taken else 0.0
            distance = nearest[far] if limits.taken else 0.0
            # argmax takes the first of equal values: the one with more engagement.
            chosen = int(far[int(np.argmax((1 - share) * percentiles[far] + share * distance))])
        limits.take(chosen)
        np.minimum(nearest, 1.0 - rows @ rows[chosen], out=nearest)
    return limits.taken


def engagement_percentiles(engagement: Sequence[float]) -> np.ndarray:
    """[N] in (0, 1): the share of records with less, and half of those with equal engagement."""
    values = np.asarray(engagement, np.float64)
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return (below + up_to) / (2.0 * len(values))


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
