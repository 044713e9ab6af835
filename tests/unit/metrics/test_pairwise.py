"""Pairs within groups against enumeration; hits by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from polyray.metrics.pairwise import pair_hits, within_group_pairs


def enumerated(outcomes: list[float], groups: list[str], min_gap: float) -> set[tuple[int, int]]:
    """(better, worse), by comparing everything with everything."""
    return {
        (a, b) if outcomes[a] > outcomes[b] else (b, a)
        for a, b in combinations(range(len(outcomes)), 2)
        if groups[a] == groups[b] and outcomes[a] != outcomes[b] and abs(outcomes[a] - outcomes[b]) >= min_gap
    }


@pytest.mark.parametrize("min_gap", [0.0, 1.0, 2.0, 2.5])
def test_pairs_of_all_groups_equal_enumeration(min_gap: float) -> None:
    generator = np.random.default_rng(3)
    outcomes = generator.integers(0, 5, 60).astype(float).tolist()
    groups = [f"g{number}" for number in generator.integers(0, 9, 60)]
    pairs = within_group_pairs(outcomes, groups, min_gap)
    found = set(zip(pairs.better_M.tolist(), pairs.worse_M.tolist(), strict=True))
    assert found == enumerated(outcomes, groups, min_gap)
    assert len(found) == len(pairs) > 20, "no pair twice"
    assert pairs.gaps_M.tolist() == [
        outcomes[a] - outcomes[b] for a, b in zip(pairs.better_M, pairs.worse_M, strict=True)
    ]
    assert pairs.num_left_out == 0


def test_pairs_of_a_large_group_are_thinned_by_seed_and_counted() -> None:
    outcomes, groups = np.append(np.arange(40.0), [0.0, 1.0]), ["big"] * 40 + ["small"] * 2
    pairs, again, other = (within_group_pairs(outcomes, groups, 0.0, 50, seed=seed) for seed in (1, 1, 2))
    assert pairs.num_left_out == 40 * 39 // 2 - 50
    assert len(pairs) == 51 and (pairs.better_M[-1], pairs.worse_M[-1]) == (41, 40)
    assert np.array_equal(pairs.better_M, again.better_M)
    assert not np.array_equal(pairs.better_M, other.better_M)


def test_pairs_of_a_group_too_large_to_enumerate_are_drawn() -> None:
    generator = np.random.default_rng(0)
    outcomes = generator.normal(size=5000)
    pairs = within_group_pairs(outcomes, np.zeros(5000, dtype=int), 0.5, max_per_group=300)
    assert len(pairs) == 300 and (pairs.gaps_M >= 0.5).all()
    assert len({*zip(pairs.better_M.tolist(), pairs.worse_M.tolist(), strict=True)}) == 300


def test_pair_hits_count_ties_half() -> None:
    assert pair_hits([2.0, 1.0, 3.0], [1.0, 1.0, 4.0]).tolist() == [1.0, 0.5, 0.0]
