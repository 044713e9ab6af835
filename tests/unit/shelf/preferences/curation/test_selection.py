"""The best N against brute force over all subsets, and against a naive recomputation of every step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from polyray.config.curate import SelectionSpec
from polyray.shelf.preferences.curation.selection import Embed, diversity, select
from polyray.shelf.preferences.engagement import EngagementRecord
from tests.unit.shelf.preferences.curation.builders import record

SUBSETS = [subset for size in range(10) for subset in combinations(range(9), size)]
SPECS = [
    SelectionSpec(count=4, min_distance=0.6, max_per_prompt=None),
    SelectionSpec(count=4, min_distance=0.3, max_per_prompt=2),
    SelectionSpec(count=9, min_distance=1.0, max_per_prompt=1),
    SelectionSpec(count=2, min_distance=0.0, max_per_prompt=1),
    SelectionSpec(count=4, min_distance=0, max_per_prompt=2),
]


def case(seed: int) -> tuple[list[EngagementRecord], np.ndarray, list[int]]:
    """Nine records, their embeddings, and their positions from the best to the worst."""
    rng = np.random.default_rng(seed)
    records = [
        record(f"r{at}", engagement=float(rng.integers(0, 5)), prompt_id=f"p{rng.integers(3)}")
        for at in range(9)
    ]
    rows = rng.normal(size=(9, 3))
    order = sorted(range(9), key=lambda at: (-records[at].engagement, records[at].record_id))
    return records, rows / np.linalg.norm(rows, axis=1, keepdims=True), order


def of(rows: np.ndarray) -> Embed:
    return lambda positions: rows[list(positions)]


def feasible(
    subset: tuple[int, ...], records: list[EngagementRecord], rows: np.ndarray, spec: SelectionSpec
) -> bool:
    prompts = [records[at].prompt_id for at in subset]
    return (
        all(1 - rows[a] @ rows[b] >= spec.min_distance for a, b in combinations(subset, 2))
        and len(subset) <= spec.count
        and all(prompts.count(name) <= (spec.max_per_prompt or 99) for name in prompts)
    )


@pytest.mark.parametrize("spec", SPECS)
def test_select_by_threshold_is_the_first_feasible_set(spec: SelectionSpec) -> None:
    for seed in range(8):
        records, rows, order = case(seed)
        candidates = [subset for subset in SUBSETS if feasible(subset, records, rows, spec)]
        chosen = select(records, of(rows), spec)
        assert sorted(chosen) == sorted(max(candidates, key=lambda subset: [at in subset for at in order]))
        if not spec.min_distance:  # a matroid: greedy is optimal

            def total(subset: Sequence[int], records: list[EngagementRecord] = records) -> float:
                return sum(records[at].engagement for at in subset)

            assert total(chosen) == max(map(total, candidates))


def test_select_keeps_wanted_records_and_ignores_order() -> None:
    records, rows, order = case(1)
    spec = SelectionSpec(count=3, min_distance=0.2, max_per_prompt=9)
    chosen = select(records, of(rows), spec, order[-2:])
    assert set(order[-2:]) < set(chosen) and len(chosen) == 3
    assert all(1 - rows[chosen[2]] @ rows[at] >= 0.2 for at in order[-2:])
    turned = select(records[::-1], of(rows[::-1]), spec)
    assert {8 - at for at in turned} == set(select(records, of(rows), spec))


def test_diversity_matches_distances_of_all_pairs() -> None:
    assert diversity(np.eye(1)) == {"mean_pairwise_distance": None, "mean_nearest_distance": None}
    many = np.random.default_rng(0).normal(size=(1500, 4))  # more than one block
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    for rows in (np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), many):
        distances = 1 - rows @ rows.T
        found = diversity(rows)
        assert found["mean_pairwise_distance"] == pytest.approx(
            distances[np.triu_indices(len(rows), 1)].mean()
        )
        np.fill_diagonal(distances, 9)
        assert found["mean_nearest_distance"] == pytest.approx(distances.min(axis=1).mean())


def test_select_by_threshold_embeds_few_more_than_it_chooses() -> None:
    records = [record(f"r{at:04}", engagement=-at) for at in range(600)]
    asked: list[int] = []

    def embed(positions: Sequence[int]) -> np.ndarray:
        asked.extend(positions)
        return np.eye(600)[list(positions)]

    assert select(records, embed, SelectionSpec(count=100, min_distance=0.5)) == list(range(100))
    assert 100 <= len(asked) < 600
