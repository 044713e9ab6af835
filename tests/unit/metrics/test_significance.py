"""Tests of differences and of equivalence, and Holm: against enumeration, scipy and degenerate data."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import (
    holm,
    mann_whitney,
    sign_flip_permutation_test,
    tost_non_inferiority,
)
from polyray.metrics.clusters import cluster_totals
from polyray.metrics.significance import standard_error

stats: Any = scipy.stats  # its results are typed as bunches of anything


def p_by_enumeration(sums: list[int]) -> float:
    observed = sum(sums)
    flipped = [
        sum(s * v for s, v in zip(signs, sums, strict=True)) for signs in product((1, -1), repeat=len(sums))
    ]
    return float(np.mean([abs(total) >= abs(observed) for total in flipped]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_sign_flips_of_few_differences_equal_enumeration(differences) -> None:
    # In tenths, whose sums are rounded: ties must be found all the same.
    found = sign_flip_permutation_test([d / 10 for d in differences])
    assert found.exact and found.num_units == len(differences)
    assert found.statistic == pytest.approx(np.mean(differences) / 10, abs=1e-12)
    assert found.p_value == pytest.approx(p_by_enumeration(differences), abs=1e-15)


def test_sign_flips_turn_whole_clusters() -> None:
    differences, clusters = [1, 2, 4, -1, 3], ["a", "b", "a", "c", "b"]
    found = sign_flip_permutation_test(differences, clusters)
    assert found.p_value == p_by_enumeration([5, 5, -1])
    assert found.num_units == 3


def test_random_sign_flips_agree_with_scipys_permutation_test() -> None:
    differences = np.random.default_rng(0).normal(0.25, 1, 60)
    found = sign_flip_permutation_test(differences, permutations=20_000)
    generator = np.random.default_rng(1)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=generator
    ).pvalue
    assert not found.exact
    error = np.sqrt(expected * (1 - expected) / 20_000)
    assert found.p_value == pytest.approx(expected, abs=6 * error + 1e-4)


def test_random_sign_flips_count_the_observed_one_and_share_a_seed() -> None:
    assert sign_flip_permutation_test(np.ones(200), permutations=999).p_value == 1 / 1000
    differences = np.random.default_rng(2).normal(0.1, 1, 50)
    assert sign_flip_permutation_test(differences, seed=4) == sign_flip_permutation_test(differences, seed=4)
    sliced = sign_flip_permutation_test(np.tile([1.0, -1.0], 3000), permutations=500)
    assert sliced.p_value == 1.0


def test_standard_error_of_clusters_of_one_is_that_of_the_mean() -> None:
    values = np.random.default_rng(7).normal(size=25)
    alone = cluster_totals(values, None)
    assert standard_error(alone) == pytest.approx(stats.sem(values))
    # Clusters of equal size are prompts made of their means.
    tripled = cluster_totals(np.repeat(values, 3), np.repeat(np.arange(25), 3))
    assert standard_error(tripled) == pytest.approx(stats.sem(values))
    assert standard_error(cluster_totals(np.array([0.1 + 0.2, 0.3, 0.3]), None)) == 0.0, (
        "equal but for rounding"
    )


def test_standard_error_of_unequal_clusters_is_that_of_their_ratio() -> None:
    rng = np.random.default_rng(8)
    means, errors = [], []
    for _ in range(600):
        sizes = rng.integers(1, 9, 40)
        values = np.repeat(rng.normal(size=40), sizes) + 0.2
        means.append(values.mean())
        errors.append(standard_error(cluster_totals(values, np.repeat(np.arange(40), sizes))))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_mann_whitney_equals_scipy() -> None:
    rng = np.random.default_rng(9)
    for a, b, method in (
        (rng.random(6), rng.random(20), "exact"),
        (rng.integers(0, 4, 40), rng.integers(1, 5, 30), "asymptotic"),
    ):
        found = mann_whitney(a, b)
        expected = stats.mannwhitneyu(a, b, method=method)
        assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
        assert found.exact == (method == "exact")


def test_tests_of_equal_values_have_p_one() -> None:
    found = sign_flip_permutation_test([0.0] * 20)
    assert (found.statistic, found.p_value) == (0.0, 1.0)
    assert mann_whitney([0.5] * 4, [0.5] * 3).p_value == 1.0


P_VALUES = st.lists(st.integers(0, 100).map(lambda value: value / 100), min_size=1, max_size=9)


def rejected_by_holm(p_values: list[float], level: float) -> set[int]:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected: set[int] = set()
    for step, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - step):
            break
        rejected.add(i)
    return rejected


@settings(max_examples=50, deadline=None)
@given(P_VALUES, st.sampled_from([0.013, 0.051, 0.207]))
def test_holm_rejects_as_the_stepwise_procedure(p_values, level) -> None:
    assert set(np.flatnonzero(holm(p_values) <= level)) == rejected_by_holm(p_values, level)


def test_holm_multiplies_by_the_tests_left_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]).tolist() == [1.0, 1.0]


def test_tost_p_values_equal_shifted_one_sided_t_tests() -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.1, 40)
    found = tost_non_inferiority(differences, 0.05)
    lower = stats.ttest_1samp(differences, -0.05, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, 0.05, alternative="less").pvalue
    assert found.p_non_inferior == pytest.approx(lower)
    assert found.p_equivalent == pytest.approx(max(lower, upper))
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_tost_verdict_follows_from_the_interval() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(150):
        found = tost_non_inferiority(rng.normal(rng.normal(0, 0.1), 0.1, 12), 0.08)
        assert found.non_inferior == (found.low > -0.08)
        assert found.equivalent == (found.low > -0.08 and found.high < 0.08)
        seen.add((found.non_inferior, found.equivalent))
    assert seen == {(True, True), (True, False), (False, False)}


def test_tost_counts_a_cluster_of_equal_values_once() -> None:
    differences = np.random.default_rng(3).normal(0, 0.1, 15)
    single = tost_non_inferiority(differences, 0.1)
    clustered = tost_non_inferiority(np.repeat(differences, 4), 0.1, clusters=np.repeat(np.arange(15), 4))
    assert clustered.p_equivalent == pytest.approx(single.p_equivalent)
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high))


def test_tost_without_spread_compares_with_the_margin() -> None:
    kept, lost, gained = (tost_non_inferiority([value] * 5, 0.1) for value in (-0.05, -0.2, 0.2))
    assert (kept.non_inferior, kept.equivalent) == (True, True)
    assert (lost.non_inferior, lost.equivalent) == (False, False)
    assert (gained.non_inferior, gained.equivalent) == (True, False)
    assert json.loads(json.dumps(kept.as_json(), allow_nan=False))["margin"] == 0.1
