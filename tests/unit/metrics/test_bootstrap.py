"""Bootstrap intervals against scipy on the same resamples and against all resamples of tiny cases."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from polyray.metrics import (
    MeanInterval,
    bootstrap_mean,
    hierarchical_intervals,
    paired_bootstrap,
    paired_hierarchical_bootstrap,
)
from polyray.metrics.bootstrap import mean_intervals


@pytest.mark.parametrize(
    ("values", "clusters", "middle"), [([0, 1], None, 0.5), ([0, 0, 0, 1], ["a", "a", "a", "b"], 0.25)]
)
def test_interval_of_two_clusters_is_the_known_quantile(values, clusters, middle) -> None:
    # Resampled means are 0, the mean and 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean(values, clusters, confidence=0.9) == MeanInterval(middle, 0.0, 1.0)
    assert bootstrap_mean(values, clusters, confidence=0.3) == MeanInterval(middle, middle, middle)


def test_interval_of_more_draws_than_one_slice_is_the_normal_one() -> None:
    # 5,000 prompts x 2,000 resamples do not fit into one slice of draws.
    interval = bootstrap_mean(np.tile([0.0, 1.0], 2500))
    assert interval.low == pytest.approx(0.5 - 1.96 * 0.5 / np.sqrt(5000), abs=0.002)
    assert interval.high == pytest.approx(0.5 + 1.96 * 0.5 / np.sqrt(5000), abs=0.002)


def scipys_bca(columns, statistic, resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    """BCa interval of scipy on resampled statistics that are given."""
    found: Any = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        n_resamples=0,
        confidence_level=confidence,
        method="BCa",
        bootstrap_result=SimpleNamespace(bootstrap_distribution=resampled),
    )
    return found.confidence_interval.low, found.confidence_interval.high


@pytest.mark.parametrize(("seed", "count", "confidence"), [(0, 12, 0.95), (1, 60, 0.9), (2, 200, 0.99)])
def test_bca_of_pairs_equals_scipy_on_the_same_resamples(seed, count, confidence) -> None:
    rng = np.random.default_rng(seed)
    b = rng.random(count)
    a = b + rng.exponential(0.5, count) ** 2
    drawn = np.random.default_rng(5).integers(count, size=(700, count), dtype=np.int32)
    expected = scipys_bca((a - b,), np.mean, (a - b)[drawn].mean(axis=1), confidence)
    found = paired_bootstrap(a, b, resamples=700, confidence=confidence, seed=5)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert found.difference == pytest.approx(np.mean(a - b), abs=1e-12)
    percentile = paired_bootstrap(a, b, resamples=700, confidence=confidence, seed=5, method="percentile")
    assert percentile.low < found.low and percentile.high < found.high  # skewed to the right
    mirrored = paired_bootstrap(b, a, resamples=700, confidence=confidence, seed=5)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((found.low, found.high), abs=1e-12)


def test_bca_of_clusters_equals_scipys_ratio_of_totals() -> None:
    # scipy resamples rows; with (total, size) per cluster as a row its statistic is the same ratio.
    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 25, 90)
    values = rng.exponential(size=25)[clusters] + 0.1 * rng.exponential(size=90)
    names = np.unique(clusters)
    totals = np.array([values[clusters == name].sum() for name in names])
    sizes = np.array([(clusters == name).sum() for name in names])
    drawn = np.random.default_rng(6).integers(len(names), size=(500, len(names)), dtype=np.int32)
    expected = scipys_bca(
        (totals, sizes),
        lambda t, s, axis: t.sum(axis=axis) / s.sum(axis=axis),
        totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1),
        0.95,
    )
    found = bootstrap_mean(values, clusters, resamples=500, seed=6, method="bca")
    assert found.value == pytest.approx(values.mean(), abs=1e-14)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_bca_of_constant_single_and_onesided_data_is_finite() -> None:
    constant = paired_bootstrap([0.3] * 6, [0.1] * 6)
    assert (constant.difference, constant.low, constant.high) == pytest.approx((0.2, 0.2, 0.2), abs=1e-15)
    assert bootstrap_mean([0.0] * 9, method="bca") == MeanInterval(0.0, 0.0, 0.0)
    assert bootstrap_mean([1.0], method="bca") == MeanInterval(1.0, 1.0, 1.0)
    alone = bootstrap_mean([0.0, 1.0], ["a", "a"], method="bca")
    assert alone == MeanInterval(0.5, 0.5, 0.5)
    one_success = bootstrap_mean([1.0] + [0.0] * 30, method="bca")
    assert 0.0 <= one_success.low < one_success.value < one_success.high < 0.2
    # One resample lies on one side of the mean: the bias is kept finite.
    assert np.isfinite(bootstrap_mean([0.0, 1.0, 5.0], resamples=1, method="bca").low)


def test_hierarchical_bootstrap_of_one_seed_equals_the_plain_one() -> None:
    rng = np.random.default_rng(10)
    values, other = rng.random(40), rng.random(40)
    clusters = np.arange(40) // 4
    assert hierarchical_intervals([values], clusters, seed=3)[0] == bootstrap_mean(values, clusters, seed=3)
    found = paired_hierarchical_bootstrap(values, other, clusters, seed=3)
    plain = paired_bootstrap(values, other, clusters, seed=3, method="percentile")
    assert (found.difference, found.low, found.high) == pytest.approx(
        (plain.difference, plain.low, plain.high), abs=1e-12
    )


CLUSTERS = ("a", "b", "b")
A = ((0, 1, 2), (4, 9, 7))
B = ((3, 3, 1), (0, 2, 5))


def resampled_mean(rows, seeds, clusters) -> Fraction:
    """The mean over drawn seeds, with their repeats, of the mean over the prompts of drawn clusters."""
    prompts = [prompt for cluster in clusters for prompt, name in enumerate(CLUSTERS) if name == cluster]
    total = sum((Fraction(rows[seed][prompt]) for seed in seeds for prompt in prompts), Fraction(0))
    return total / (len(seeds) * len(prompts))


def enumerated(paired: bool) -> dict[Fraction, Fraction]:
    """Probability of each mean of A, or difference of A and B: seeds by themselves, the same clusters for both."""
    pairs = list(product(range(2), repeat=2))
    clusters_drawn = list(product("ab", repeat=2))
    if paired:
        drawn = [
            resampled_mean(A, seeds_a, clusters) - resampled_mean(B, seeds_b, clusters)
            for seeds_a, seeds_b, clusters in product(pairs, pairs, clusters_drawn)
        ]
    else:
        drawn = [resampled_mean(A, seeds, clusters) for seeds, clusters in product(pairs, clusters_drawn)]
    return {mean: Fraction(count, len(drawn)) for mean, count in Counter(drawn).items()}


def exact_quantile(distribution: dict[Fraction, Fraction], share: float) -> float | None:
    """None where the share is too near to a step for 20,000 resamples to decide."""
    reached = Fraction(0)
    for mean in sorted(distribution):
        reached += distribution[mean]
        if abs(float(reached) - share) < 0.012:
            return None
        if reached > share:
            return float(mean)
    raise AssertionError("shares add up to 1")


@pytest.mark.parametrize("paired", [False, True])
def test_hierarchical_interval_equals_quantiles_of_all_resamples(paired) -> None:
    distribution = enumerated(paired)
    checked = 0
    for confidence in np.arange(0.04, 0.99, 0.06).tolist():
        if paired:
            found = paired_hierarchical_bootstrap(A, B, CLUSTERS, 20_000, confidence)
        else:
            (found,) = hierarchical_intervals([A], CLUSTERS, 20_000, confidence)
        for share, bound in (((1 - confidence) / 2, found.low), ((1 + confidence) / 2, found.high)):
            expected = exact_quantile(distribution, share)
            if expected is not None:
                assert bound == pytest.approx(expected, abs=1e-12)
                checked += 1
    assert checked >= 12


def test_columns_and_matrices_of_one_call_share_their_resamples() -> None:
    rng = np.random.default_rng(3)
    matrices = [rng.random((seeds, 30)) for seeds in (3, 1, 2, 3)]
    clusters = np.arange(30) // 3
    found = hierarchical_intervals(matrices, clusters, 300, 0.9, seed=5)
    assert found == [hierarchical_intervals([matrix], clusters, 300, 0.9, seed=5)[0] for matrix in matrices]
    columns = list(rng.random((4, 30)))
    assert mean_intervals(columns, clusters, 300, 0.95, 2, "bca") == [
        bootstrap_mean(column, clusters, 300, 0.95, 2, "bca") for column in columns
    ]
