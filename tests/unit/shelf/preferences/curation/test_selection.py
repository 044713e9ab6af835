"""The best N against brute force over all subsets, and against a naive recomputation of every step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from polyray.config.curate import SelectionSpec
from polyray.shelf.preferences.curation.selection import Embed, diversity, engagement_percentiles, select
from polyray.shelf.preferences.engagement import EngagementRecord
from tests.unit.shelf.preferences.curation.builders import record


def case(seed: int, number: int = 9) -> tuple[list[EngagementRecord], np.ndarray]:
    rng = np.random.default_rng(seed)
    records = [
        record(
            f"r{at}",
            engagement=float(rng.integers(0, 5)),
            prompt_id=f"p{rng.integers(3)}",
            cluster_id=f"c{rng.integers(2)}",
        )
        for at in range(number)
    ]
    rows = rng.normal(size=(number, 3))
    return records, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of(rows: np.ndarray) -> Embed:
    return lambda positions: rows[list(positions)]


def feasible(
    subset: tuple[int, ...], records: list[EngagementRecord], rows: np.ndarray, spec: SelectionSpec
) -> bool:
    far = all(1 - rows[a] @ rows[b] >= spec.min_distance for a, b in combinations(subset, 2))
    prompts = [records[at].prompt_id for at in subset]
    return (
        far
        and len(subset) <= spec.count
        and all(prompts.count(name) <= (spec.max_per_prompt or 99) for name in prompts)
    )


def subsets(number: int) -> list[tuple[int, ...]]:
    return [subset for size in range(number + 1) for subset in combinations(range(number), size)]


SPECS = [
    SelectionSpec(count=4, min_distance=0.6, max_per_prompt=None),
    SelectionSpec(count=4, min_distance=0.3, max_per_prompt=2),
    SelectionSpec(count=9, min_distance=1.0, max_per_prompt=1),
    SelectionSpec(count=2, min_distance=0.0, max_per_prompt=1),
]


@pytest.mark.parametrize("spec", SPECS)
def test_the_greedy_choice_is_the_first_feasible_set_of_all(spec: SelectionSpec) -> None:
    for seed in range(8):
        records, rows = case(seed)
        order = sorted(range(9), key=lambda at: (-records[at].engagement, records[at].record_id))
        candidates = [subset for subset in subsets(9) if feasible(subset, records, rows, spec)]
        expected = max(candidates, key=lambda subset: [at in subset for at in order])
        assert sorted(select(records, of(rows), spec)) == sorted(expected)


def test_without_distances_the_total_engagement_is_the_greatest_possible() -> None:
    spec = SelectionSpec(count=4, min_distance=0, max_per_prompt=2)  # a matroid: greedy is optimal
    for seed in range(8):
        records, rows = case(seed)
        best = max(
            sum(records[at].engagement for at in subset)
            for subset in subsets(9)
            if feasible(subset, records, rows, spec)
        )
        assert sum(records[at].engagement for at in select(records, of(rows), spec)) == best


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_mmr_step_by_step(weight: float) -> None:
    spec = SelectionSpec(count=5, method="mmr", min_distance=0.1, diversity_weight=weight, max_per_prompt=2)
    for seed in range(8):
        records, rows = case(seed)
        scores = engagement_percentiles([r.engagement for r in records])
        order = sorted(range(9), key=lambda at: (-records[at].engagement, records[at].record_id))
        expected: list[int] = []
        while len(expected) < spec.count:
            allowed = [
                at for at in order if at not in expected and feasible((*expected, at), records, rows, spec)
            ]
            if not allowed:
                break
            nearest = {at: min((1 - rows[at] @ rows[b] for b in expected), default=0.0) for at in allowed}
            share = weight if expected else 0.0
            values = [(1 - share) * scores[at] + share * nearest[at] for at in allowed]
            expected.append(allowed[int(np.argmax(values))])
        assert select(records, of(rows), spec) == expected


@pytest.mark.parametrize("method", ["threshold", "mmr"])
def test_wanted_ones_are_chosen_and_count(method: str) -> None:
    records, rows = case(1)
    spec = SelectionSpec(
        count=3, method="mmr" if method == "mmr" else "threshold", min_distance=0.2, max_per_prompt=9
    )
    worst = sorted(range(9), key=lambda at: (records[at].engagement, records[at].record_id))[:2]
    chosen = select(records, of(rows), spec, worst)
    assert set(worst) < set(chosen) and len(chosen) == 3
    assert all(1 - rows[chosen[2]] @ rows[at] >= 0.2 for at in worst)


def test_the_order_of_the_records_is_of_no_importance() -> None:
    records, rows = case(3)
    for spec in (SPECS[1], SelectionSpec(count=4, method="mmr", min_distance=0)):
        expected = {records[at].record_id for at in select(records, of(rows), spec)}
        turned = select(records[::-1], of(rows[::-1]), spec)
        assert {records[::-1][at].record_id for at in turned} == expected


def test_percentiles() -> None:
    assert engagement_percentiles([5, 1, 1, 3]).tolist() == [0.875, 0.25, 0.25, 0.625]


def test_diversity_of_known_vectors() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = diversity(rows)
    assert found["mean_pairwise_distance"] == pytest.approx((1 + 1 + 2) / 3)
    assert found["mean_nearest_distance"] == pytest.approx(1.0)
    assert diversity(rows[:1]) == {"mean_pairwise_distance": None, "mean_nearest_distance": None}
    rng = np.random.default_rng(0)
    many = rng.normal(size=(1500, 4))  # more than one block
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    cosines = many @ many.T
    np.fill_diagonal(cosines, -1)
    assert diversity(many)["mean_nearest_distance"] == pytest.approx((1 - cosines.max(axis=1)).mean())


def test_no_more_is_embedded_than_is_needed() -> None:
    records = [record(f"r{at:04}", engagement=-at) for at in range(1000)]
    rows = np.eye(1000)
    asked: list[int] = []

    def embed(positions: Sequence[int]) -> np.ndarray:
        asked.extend(positions)
        return rows[list(positions)]

    assert select(records, embed, SelectionSpec(count=200, min_distance=0.5)) == list(range(200))
    assert 200 <= len(asked) < 400
    assert select(records, embed, SelectionSpec(count=400, min_distance=0.5)) == list(range(400))
