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
from collections.abc import Sequence

import numpy as np

from polyray.config.curate import SelectionSpec
from polyray.data.engagement import EngagementRecord
from polyray.metrics.diversity import mean_pairwise_cosine_distance

_BLOCK_ROWS = 1024


def select(
    records: Sequence[EngagementRecord],
    embeddings: np.ndarray,
    spec: SelectionSpec,
    first: Sequence[int] = (),
) -> list[int]:
    """Positions of the chosen records in the order in which they were chosen, at most `spec.count`.

    Args:
        records: what may be chosen.
        embeddings: [N, D], unit length, in the same order.
        first: positions that are chosen whatever the limits say (a person wants them); they count.

    Raises:
        ValueError: another number of embeddings.
    """
    if len(embeddings) != len(records):
        raise ValueError(f"{len(embeddings)} embeddings for {len(records)} records; give one each")
    rows = np.asarray(embeddings, np.float64)
    order = sorted(range(len(records)), key=lambda at: (-records[at].engagement, records[at].record_id))
    choice = _Choice(records, rows, spec)
    for at in sorted(first, key=order.index):
        choice.take(at)
    if spec.method == "threshold":
        for at in order:
            if len(choice.taken) >= spec.count:
                break
            if choice.allows(at):
                choice.take(at)
        return choice.taken
    percentiles = engagement_percentiles([record.engagement for record in records])
    waiting = np.array(order)
    while len(choice.taken) < spec.count:
        waiting = waiting[[choice.allows(at) for at in waiting.tolist()]] if len(waiting) else waiting
        if not len(waiting):
            break
        value = percentiles[waiting]
        if choice.taken:
            nearest = choice.nearest[waiting]
            value = (1 - spec.diversity_weight) * value + spec.diversity_weight * nearest
        choice.take(int(waiting[int(np.argmax(value))]))  # of equal values the one with more engagement
    return choice.taken


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


class _Choice:
    """What is chosen so far, and what the limits still allow."""

    def __init__(self, records: Sequence[EngagementRecord], rows: np.ndarray, spec: SelectionSpec) -> None:
        self._records, self._rows, self._spec = records, rows, spec
        self.taken: list[int] = []
        self.nearest = np.full(len(records), np.inf)
        """Distance of every record to the nearest chosen one."""
        self._of_prompt: Counter[str] = Counter()
        self._of_cluster: Counter[str] = Counter()
        self._is_taken = np.zeros(len(records), bool)

    def allows(self, at: int) -> bool:
        """Whether record number `at` may be chosen now."""
        record, spec = self._records[at], self._spec
        return not (
            self._is_taken[at]
            or self.nearest[at] < spec.min_distance
            or (spec.max_per_prompt is not None and self._of_prompt[record.prompt_id] >= spec.max_per_prompt)
            or (
                spec.max_per_cluster is not None
                and self._of_cluster[record.cluster_id] >= spec.max_per_cluster
            )
        )

    def take(self, at: int) -> None:
        """Chooses it."""
        self.taken.append(at)
        self._is_taken[at] = True
        self._of_prompt[self._records[at].prompt_id] += 1
        self._of_cluster[self._records[at].cluster_id] += 1
        np.minimum(self.nearest, 1.0 - self._rows @ self._rows[at], out=self.nearest)
