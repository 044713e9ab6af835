"""Difference tests against enumeration and scipy; the level under the null; degenerate differences."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import mann_whitney, paired_t, sign_flip_permutation_test, wilcoxon_signed_rank

stats: Any = scipy.stats  # its results are typed as bunches of anything

ALTERNATIVES = ("two-sided", "greater", "less")


def p_by_enumeration(sums: list[int], alternative: str) -> float:
    observed = sum(sums)
    flipped = [
        sum(s * v for s, v in zip(signs, sums, strict=True)) for signs in product((1, -1), repeat=len(sums))
    ]
    extreme = {
        "two-sided": [abs(f) >= abs(observed) for f in flipped],
        "greater": [f >= observed for f in flipped],
        "less": [f <= observed for f in flipped],
    }[alternative]
    return float(np.mean(extreme))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.sampled_from(ALTERNATIVES))
def test_sign_flips_are_enumerated(differences, alternative) -> None:
    # In tenths, whose sums are rounded: ties must be found all the same.
    found = sign_flip_permutation_test([d / 10 for d in differences], alternative=alternative)
    assert found.exact and found.num_units == len(differences)
    assert found.statistic == pytest.approx(np.mean(differences) / 10, abs=1e-12)
    assert found.p_value == pytest.approx(p_by_enumeration(differences, alternative), abs=1e-15)


def test_sign_flips_of_whole_clusters() -> None:
    differences, clusters = [1, 2, 4, -1, 3], ["a", "b", "a", "c", "b"]
    found = sign_flip_permutation_test(differences, clusters)
    assert found.p_value == p_by_enumeration([5, 5, -1], "two-sided")
    assert found.num_units == 3


def test_three_clusters_cannot_be_significant() -> None:
    assert sign_flip_permutation_test([1, 1, 1]).p_value == 0.25


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_random_flips_agree_with_scipys_permutation_test(alternative) -> None:
    differences = np.random.default_rng(0).normal(0.25, 1, 60)
    found = sign_flip_permutation_test(differences, alternative=alternative, permutations=20_000)
    expected = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        alternative=alternative,
        rng=np.random.default_rng(1),
    ).pvalue
    assert not found.exact
    error = np.sqrt(expected * (1 - expected) / 20_000)
    assert found.p_value == pytest.approx(expected, abs=6 * error + 1e-4)


def test_random_flips_are_never_certain_and_always_the_same() -> None:
    found = sign_flip_permutation_test(np.ones(200), permutations=999)
    assert found.p_value == 1 / 1000
    differences = np.random.default_rng(2).normal(0.1, 1, 50)
    assert sign_flip_permutation_test(differences, seed=4) == sign_flip_permutation_test(differences, seed=4)
    sliced = sign_flip_permutation_test(np.tile([1.0, -1.0], 3000), permutations=500)
    assert sliced.p_value == 1.0


def test_the_level_holds_under_the_null() -> None:
    rng = np.random.default_rng(3)
    p_values = [sign_flip_permutation_test(rng.normal(size=10)).p_value for _ in range(400)]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_clusters_keep_the_level_that_prompts_lose() -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(12), 10)
    naive, clustered = [], []
    for _ in range(80):
        differences = np.repeat(rng.normal(size=12), 10) + 0.1 * rng.normal(size=120)
        naive.append(sign_flip_permutation_test(differences, permutations=200).p_value)
        clustered.append(sign_flip_permutation_test(differences, clusters).p_value)
    assert np.mean(np.array(naive) < 0.05) > 0.3
    assert np.mean(np.array(clustered) < 0.05) < 0.13


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_wilcoxon_is_scipys(alternative) -> None:
    rng = np.random.default_rng(5)
    few, many = rng.normal(0.3, 1, 20), rng.normal(0.1, 1, 80)
    found = wilcoxon_signed_rank(few, alternative=alternative)
    assert found.exact
    assert found.p_value == pytest.approx(stats.wilcoxon(few, alternative=alternative, method="exact").pvalue)
    found = wilcoxon_signed_rank(np.append(many, [0.0, 0.0]), alternative=alternative)
    assert (found.exact, found.num_units) == (False, 80)
    expected = stats.wilcoxon(many, alternative=alternative, method="asymptotic", correction=True)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))


def test_wilcoxon_ranks_differences_that_differ_by_rounding_as_ties() -> None:
    rounded = [0.3 - 0.2, 0.4 - 0.3, 0.2 - 0.1, -0.1, 0.5, 0.7]
    assert len(set(rounded)) > 4
    found = wilcoxon_signed_rank(rounded)
    equal = wilcoxon_signed_rank([1, 1, 1, -1, 5, 7])
    assert (found.statistic, found.p_value) == (equal.statistic, equal.p_value)


def test_wilcoxon_over_clusters_ranks_their_means() -> None:
    rng = np.random.default_rng(6)
    differences, clusters = rng.normal(size=30), np.arange(30) // 3
    means = differences.reshape(10, 3).mean(axis=1)
    assert wilcoxon_signed_rank(differences, clusters).p_value == pytest.approx(stats.wilcoxon(means).pvalue)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_t_is_scipys_paired_one(alternative) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.random(25), rng.random(25)
    found, expected = paired_t(a - b, alternative=alternative), stats.ttest_rel(a, b, alternative=alternative)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    # Clusters of equal size are prompts made of their means.
    tripled, clusters = np.repeat(a - b, 3), np.repeat(np.arange(25), 3)
    clustered = paired_t(tripled, clusters, alternative)
    assert (clustered.statistic, clustered.p_value) == pytest.approx((expected.statistic, expected.pvalue))


def test_the_error_of_unequal_clusters_is_that_of_their_ratio() -> None:
    rng = np.random.default_rng(8)
    estimates, errors = [], []
    for _ in range(600):
        sizes = rng.integers(1, 9, 40)
        values = np.repeat(rng.normal(size=40), sizes) + 0.2
        found = paired_t(values, np.repeat(np.arange(40), sizes))
        estimates.append(values.mean())
        errors.append(values.mean() / found.statistic)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.1)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_mann_whitney_is_scipys(alternative) -> None:
    rng = np.random.default_rng(9)
    for a, b, method in (
        (rng.random(6), rng.random(20), "exact"),
        (rng.integers(0, 4, 40), rng.integers(1, 5, 30), "asymptotic"),
    ):
        found = mann_whitney(a, b, alternative)
        expected = stats.mannwhitneyu(a, b, alternative=alternative, method=method)
        assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
        assert found.exact == (method == "exact")


def test_no_difference_at_all() -> None:
    for test in (sign_flip_permutation_test, wilcoxon_signed_rank, paired_t):
        found = test([0.0] * 20)
        assert (found.statistic, found.p_value) == (0.0, 1.0)
    assert mann_whitney([0.5] * 4, [0.5] * 3).p_value == 1.0


def test_the_same_difference_everywhere() -> None:
    found = paired_t([0.1 + 0.2, 0.3, 0.3])  # equal but for rounding
    assert (found.statistic, found.p_value) == (np.inf, 0.0)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["statistic"] is None
    assert paired_t([-1.0, -1.0], alternative="greater").p_value == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_permutation_test([0.1, float("nan")]), r"differences\[1\]=nan"),
        (lambda: sign_flip_permutation_test([0.1], permutations=0), r"permutations=0.*\b1\b"),
        (lambda: sign_flip_permutation_test([0.1], ["a", "b"]), r"clusters.*\b2\b.*\b1\b"),
        (
            lambda: wilcoxon_signed_rank([0.1], alternative="larger"),  # pyright: ignore
            "alternative='larger'",
        ),
        (lambda: mann_whitney([0.1], [0.2], "larger"), "alternative='larger'"),  # pyright: ignore
        (lambda: mann_whitney([], [0.2]), r"\ba .*\b0\b"),
        (lambda: paired_t([0.1, 0.3], ["a", "a"]), r"\b1 cluster"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
