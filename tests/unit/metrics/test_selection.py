"""USQ@k, its bounds and its sampled form against enumeration of all k-subsets, ties included."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import (
    best_at_k,
    oracle_at_k,
    random_at_k,
    selection_efficiency,
    usq_at_k,
    usq_at_k_sampled,
)


def usq_by_enumeration(scores, qualities, k: int) -> float:
    values = []
    for subset in combinations(range(len(scores)), k):
        best = max(scores[i] for i in subset)
        values.append(np.mean([qualities[i] for i in subset if scores[i] == best]))
    return float(np.mean(values))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    "scores",
    [
        [0.3, 0.1, 0.9, 0.5, 0.2, 0.8, 0.4],
        [1, 0, 1, 0, 1, 1, 2],
        [0, 0, 0, 0, 0, 0, 0],
        [-np.inf, -np.inf, 3, np.inf, np.inf, 0, 0],
    ],
)
def test_usq_equals_enumeration(scores, k) -> None:
    qualities = [0.2, 0.9, 0.1, 1.0, 0.0, 0.7, 0.4]
    assert usq_at_k(scores, qualities, k) == pytest.approx(
        usq_by_enumeration(scores, qualities, k), abs=1e-14
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=9), st.data())
def test_usq_stays_in_its_bounds_and_keeps_its_symmetries(samples, data) -> None:
    scores, qualities = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    k = data.draw(st.integers(1, len(scores)))
    usq = usq_at_k(scores, qualities, k)
    worst, best = -best_at_k(-qualities, k), oracle_at_k(qualities, k)
    assert usq_at_k(qualities, qualities, k) == pytest.approx(best, abs=1e-12)
    assert worst - 1e-12 <= usq <= best + 1e-12
    order = data.draw(st.permutations(range(len(scores))))
    assert usq_at_k(scores[order], qualities[order], k) == pytest.approx(usq, abs=1e-12)
    assert usq_at_k(np.exp(scores), 2 * qualities - 1, k) == pytest.approx(2 * usq - 1, abs=1e-12)


def test_selection_efficiency_places_usq_between_blind_pick_and_oracle() -> None:
    # Pairs of (0, 1, 4): best 1, 4, 4; blind pick 5/3; a selector that prefers the first: 0, 0, 1.
    qualities = [0.0, 1.0, 4.0]
    assert random_at_k(qualities, 2) == pytest.approx(5 / 3, abs=1e-15)
    assert oracle_at_k(qualities, 2) == pytest.approx(3.0, abs=1e-15)
    picked = [usq_at_k(by, qualities, 2) for by in ([3, 2, 1], qualities, [0, 0, 0])]
    found = selection_efficiency(picked, [3.0] * 3, [5 / 3] * 3)
    assert np.asarray(found).tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-14)
    equal = np.asarray(selection_efficiency([0.1, 0.2, 0.3], [0.1, 0.2, 0.4], [0.1, 0.2 - 1e-15, 0.2]))
    assert np.isnan(equal).tolist() == [True, True, False] and equal[2] == pytest.approx(0.5)


def test_sampled_usq_enumerates_few_subsets_and_samples_many_without_bias() -> None:
    # The candidate nearest to the set's mean: no score per sample picks that one.
    values = np.random.default_rng(0).random(12)
    shown: list[tuple[int, ...]] = []

    def most_typical(candidates: tuple[int, ...]) -> int:
        shown.append(candidates)
        members = values[list(candidates)]
        return candidates[int(np.argmin(np.abs(members - members.mean())))]

    exact = usq_at_k_sampled(most_typical, values, 4, subsets=comb(12, 4))
    assert sorted(shown) == list(combinations(range(12), 4))
    assert exact == pytest.approx(
        np.mean([values[most_typical(s)] for s in combinations(range(12), 4)]), abs=1e-14
    )
    sampled = [usq_at_k_sampled(most_typical, values, 4, subsets=200, seed=seed) for seed in range(25)]
    assert len(set(sampled)) > 20
    assert usq_at_k_sampled(most_typical, values, 4, subsets=200, seed=3) == sampled[3]
    error = np.std(sampled) / np.sqrt(len(sampled))
    assert np.mean(sampled) == pytest.approx(exact, abs=4 * error)
    assert np.std(sampled) <= (values.max() - values.min()) / (2 * np.sqrt(200))
