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
    pass_at_k,
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


def test_oracle_constant_and_reversed_selector() -> None:
    qualities = np.array([0.2, 0.9, 0.1, 1.0, 0.9])
    assert usq_at_k(qualities, qualities, 3) == pytest.approx(best_at_k(qualities, 3), abs=1e-15)
    assert usq_at_k(np.zeros(5), qualities, 3) == pytest.approx(qualities.mean(), abs=1e-15)
    expected_worst = np.mean([min(subset) for subset in combinations(qualities, 3)])
    assert usq_at_k(-qualities, qualities, 3) == pytest.approx(expected_worst, abs=1e-14)


def test_a_selector_wrong_in_the_tail_gets_worse_with_k() -> None:
    scores, qualities = [5, 4, 3, 2, 1], [0.0, 1.0, 1.0, 1.0, 0.0]
    curve = [usq_at_k(scores, qualities, k) for k in (1, 2, 5)]
    assert curve == pytest.approx([0.6, 0.6, 0.0], abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_a_selector_that_knows_the_truth_gives_best_at_k_and_pass_at_k(correct, data) -> None:
    k = data.draw(st.integers(1, len(correct)))
    expected = pass_at_k(len(correct), sum(correct), k)
    assert usq_at_k(correct, correct, k) == pytest.approx(expected, abs=1e-13)
    assert best_at_k(correct, k) == pytest.approx(expected, abs=1e-13)
    assert oracle_at_k(correct, k) == best_at_k(correct, k)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=9), st.data())
def test_bounds_and_symmetries_of_usq(samples, data) -> None:
    scores, qualities = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    k = data.draw(st.integers(1, len(scores)))
    usq = usq_at_k(scores, qualities, k)
    worst, best = -best_at_k(-qualities, k), oracle_at_k(qualities, k)
    assert worst - 1e-12 <= usq <= best + 1e-12
    order = data.draw(st.permutations(range(len(scores))))
    assert usq_at_k(scores[order], qualities[order], k) == pytest.approx(usq, abs=1e-12)
    assert usq_at_k(np.exp(scores), 2 * qualities - 1, k) == pytest.approx(2 * usq - 1, abs=1e-12)


def test_bounds_by_hand() -> None:
    # Pairs of (0, 1, 4): best 1, 4, 4; blind pick 5/3; the selector prefers the first: 0, 0, 1.
    scores, qualities = [3, 2, 1], [0.0, 1.0, 4.0]
    assert random_at_k(qualities, 2) == pytest.approx(5 / 3, abs=1e-15)
    assert oracle_at_k(qualities, 2) == pytest.approx(3.0, abs=1e-15)
    assert usq_at_k(scores, qualities, 2) == pytest.approx(1 / 3, abs=1e-15)
    assert selection_efficiency(1 / 3, 3.0, 5 / 3) == pytest.approx(-1.0, abs=1e-14)
    picked = [usq_at_k(by, qualities, 2) for by in (scores, qualities, [0, 0, 0])]
    found = selection_efficiency(picked, [3.0] * 3, [5 / 3] * 3)
    assert found.tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-14)


def test_efficiency_is_nan_where_there_is_nothing_to_choose() -> None:
    found = selection_efficiency([0.1, 0.2, 0.3], [0.1, 0.2, 0.4], [0.1, 0.2 - 1e-15, 0.2])
    assert np.isnan(found).tolist() == [True, True, False] and found[2] == pytest.approx(0.5)


def test_few_subsets_are_enumerated() -> None:
    scores, qualities = np.array([0.3, 0.1, 0.9, 0.5, 0.2, 0.8]), np.array([0.2, 0.9, 0.1, 1.0, 0.0, 0.7])
    shown: list[tuple[int, ...]] = []

    def best_scored(candidates: tuple[int, ...]) -> int:
        shown.append(candidates)
        return max(candidates, key=lambda i: scores[i])

    exact = usq_at_k_sampled(best_scored, qualities, 3, subsets=comb(6, 3))
    assert exact == pytest.approx(usq_at_k(scores, qualities, 3), abs=1e-14)
    assert sorted(shown) == list(combinations(range(6), 3))


def test_a_selector_of_the_whole_set_is_sampled_without_bias() -> None:
    # Picks the candidate nearest to the set's mean: no score per sample does that.
    values = np.random.default_rng(0).random(12)

    def most_typical(candidates: tuple[int, ...]) -> int:
        members = values[list(candidates)]
        return candidates[int(np.argmin(np.abs(members - members.mean())))]

    exact = usq_at_k_sampled(most_typical, values, 4, subsets=comb(12, 4))
    sampled = [usq_at_k_sampled(most_typical, values, 4, subsets=200, seed=seed) for seed in range(25)]
    assert len(set(sampled)) > 20
    assert usq_at_k_sampled(most_typical, values, 4, subsets=200, seed=3) == sampled[3]
    error = np.std(sampled) / np.sqrt(len(sampled))
    assert np.mean(sampled) == pytest.approx(exact, abs=4 * error)
    assert np.std(sampled) <= (values.max() - values.min()) / (2 * np.sqrt(200))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: usq_at_k([1, 2], [0.5, 0.5], 3), r"k=3.*\b2\b"),
        (
            lambda: usq_at_k([1, 2, 3], [0.5, 0.5], 1),
            r"selector_scores_G.*\b3\b.*\b2\b",
        ),
        (lambda: usq_at_k([1, float("nan")], [0.5, 0.5], 1), r"selector_scores_G\[1\]=nan"),
        (lambda: usq_at_k([1, 2], [0.5, float("nan")], 1), r"qualities_G\[1\]=nan"),
        (lambda: random_at_k([0.5, 0.5], 3), r"k=3.*\b2\b"),
        (lambda: oracle_at_k([0.5, 0.5], 3), r"k=3.*\b2\b"),
        (lambda: usq_at_k([1], [0.5, 0.5], 1), r"selector_scores_G.*\b1\b"),
        (lambda: usq_at_k_sampled(lambda shown: 7, [0.5, 0.6], 1), r"select .*\b7\b.*\(0,\)"),
        (lambda: usq_at_k_sampled(max, [0.5, 0.6], 1, subsets=0), r"subsets=0.*\b1\b"),
        (lambda: usq_at_k_sampled(max, [0.5, 0.6], 3), r"k=3.*\b2\b"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
