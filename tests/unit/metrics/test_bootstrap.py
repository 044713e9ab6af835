"""Bootstrap intervals: known cases, clusters, pairing, reproducibility."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from polyray.metrics import (
    DifferenceInterval,
    MeanInterval,
    bootstrap_mean,
    hierarchical_intervals,
    paired_bootstrap,
    paired_hierarchical_bootstrap,
)
from polyray.metrics.bootstrap import mean_intervals


def test_constant_values_have_an_interval_without_width() -> None:
    assert bootstrap_mean([0.5] * 10) == MeanInterval(0.5, 0.5, 0.5)
    a = np.random.default_rng(0).random(30)
    shifted = paired_bootstrap(a + 0.25, a)
    assert (shifted.difference, shifted.low, shifted.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-15)


def test_two_prompts_have_a_known_resampling_distribution() -> None:
    # Resamples of (0, 1) have means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean([0.0, 1.0], confidence=0.9) == MeanInterval(0.5, 0.0, 1.0)
    assert bootstrap_mean([0.0, 1.0], confidence=0.3) == MeanInterval(0.5, 0.5, 0.5)


def test_interval_of_many_prompts_is_the_normal_one() -> None:
    values = np.random.default_rng(1).random(2000)
    interval = bootstrap_mean(values, resamples=4000)
    half_width = 1.96 * values.std() / np.sqrt(2000)
    assert interval.value == pytest.approx(values.mean(), abs=1e-15)
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_values_that_agree_within_clusters_widen_the_interval() -> None:
    # 40 clusters of 10 equal values are worth 40 prompts: the interval is sqrt(10) times wider.
    per_cluster = np.random.default_rng(2).random(40)
    values, clusters = np.repeat(per_cluster, 10), [f"pair-{i // 10}" for i in range(400)]
    naive, clustered = bootstrap_mean(values), bootstrap_mean(values, clusters)
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.1)
    assert clustered.value == naive.value


def test_larger_clusters_weigh_more() -> None:
    # A cluster of three zeros and one of a single 1: resampled means are 0 (1/4), 1/4 (1/2) and 1 (1/4).
    values, clusters = [0, 0, 0, 1], ["a", "a", "a", "b"]
    assert bootstrap_mean(values, clusters, confidence=0.3) == MeanInterval(0.25, 0.25, 0.25)
    assert bootstrap_mean(values, clusters, confidence=0.9) == MeanInterval(0.25, 0.0, 1.0)


def test_pairing_removes_what_both_models_share() -> None:
    rng = np.random.default_rng(3)
    prompt_difficulty = rng.random(300)
    a, b = prompt_difficulty + 0.02 + 0.01 * rng.standard_normal(300), prompt_difficulty
    paired = paired_bootstrap(a, b)
    assert paired.difference == pytest.approx(np.mean(a - b), abs=1e-12)
    assert 0.018 < paired.low < paired.difference < paired.high < 0.022
    assert paired.high - paired.low < 0.1 * (bootstrap_mean(a).high - bootstrap_mean(a).low)


def test_exchanging_the_models_mirrors_the_interval() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(50), rng.random(50)
    clusters = np.arange(50) // 3
    forth, back = paired_bootstrap(a, b, clusters), paired_bootstrap(b, a, clusters)
    mirrored = (-back.difference, -back.high, -back.low)
    assert (forth.difference, forth.low, forth.high) == pytest.approx(mirrored, abs=1e-12)


def test_the_seed_decides_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(80), rng.random(80)
    first = paired_bootstrap(a, b, seed=7)
    np.random.seed(0)
    assert paired_bootstrap(a, b, seed=7) == first
    assert paired_bootstrap(a, b, seed=8) != first
    assert isinstance(first, DifferenceInterval)


def test_many_prompts_are_resampled_in_slices() -> None:
    # 5,000 prompts x 2,000 resamples do not fit into one slice of draws.
    interval = bootstrap_mean(np.tile([0.0, 1.0], 2500))
    assert interval.low == pytest.approx(0.5 - 1.96 * 0.5 / np.sqrt(5000), abs=0.002)
    assert interval.high == pytest.approx(0.5 + 1.96 * 0.5 / np.sqrt(5000), abs=0.002)


def test_wider_confidence_is_a_wider_interval() -> None:
    values = np.random.default_rng(6).random(100)
    narrow, wide = bootstrap_mean(values, confidence=0.5), bootstrap_mean(values, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def skewed_pair(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.random(count)
    return shared + rng.exponential(0.5, count) ** 2, shared


@pytest.mark.parametrize(("seed", "count", "confidence"), [(0, 12, 0.95), (1, 60, 0.9), (2, 200, 0.99)])
def test_bca_is_scipys_on_the_same_resamples(seed, count, confidence) -> None:
    a, b = skewed_pair(seed, count)
    drawn = np.random.default_rng(5).integers(count, size=(700, count), dtype=np.int32)
    resampled = SimpleNamespace(bootstrap_distribution=(a - b)[drawn].mean(axis=1))
    expected: Any = stats.bootstrap(
        (a - b,),
        np.mean,
        n_resamples=0,
        confidence_level=confidence,
        method="BCa",
        bootstrap_result=resampled,
    )
    found = paired_bootstrap(a, b, resamples=700, confidence=confidence, seed=5)
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    percentile = paired_bootstrap(a, b, resamples=700, confidence=confidence, seed=5, method="percentile")
    assert percentile.low < found.low and percentile.high < found.high  # skewed to the right


def test_bca_is_scipys_paired_one_within_monte_carlo_error() -> None:
    a, b = skewed_pair(3, 80)
    expected: Any = stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        paired=True,
        method="BCa",
        n_resamples=6000,
        rng=np.random.default_rng(0),
    )
    found = paired_bootstrap(a, b, resamples=6000, seed=1)
    interval = expected.confidence_interval
    width = interval.high - interval.low
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.05 * width)


def test_bca_over_clusters_is_the_ratio_of_totals() -> None:
    # scipy resamples rows; with (total, size) per cluster as a row its statistic is the same ratio.
    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 25, 90)
    values = rng.exponential(size=25)[clusters] + 0.1 * rng.exponential(size=90)
    names = np.unique(clusters)
    totals = np.array([values[clusters == name].sum() for name in names])
    sizes = np.array([(clusters == name).sum() for name in names])
    drawn = np.random.default_rng(6).integers(len(names), size=(500, len(names)), dtype=np.int32)
    resampled = SimpleNamespace(bootstrap_distribution=totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    expected: Any = stats.bootstrap(
        (totals, sizes),
        lambda t, s, axis: t.sum(axis=axis) / s.sum(axis=axis),
        paired=True,
        n_resamples=0,
        method="BCa",
        bootstrap_result=resampled,
    )
    found = bootstrap_mean(values, clusters, resamples=500, seed=6, method="bca")
    interval = expected.confidence_interval
    assert found.value == pytest.approx(values.mean(), abs=1e-14)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_bca_of_degenerate_data() -> None:
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


def test_bca_covers_a_skewed_mean_better_than_the_percentiles() -> None:
    rng = np.random.default_rng(7)
    covered = {"bca": 0, "percentile": 0}
    for _ in range(300):
        values = rng.lognormal(size=25)
        for method in ("bca", "percentile"):
            interval = bootstrap_mean(values, resamples=400, confidence=0.9, method=method)
            covered[method] += interval.low <= np.exp(0.5) <= interval.high
    assert covered["percentile"] < covered["bca"] <= 285


def test_bca_mirrors_when_the_models_are_exchanged() -> None:
    a, b = skewed_pair(8, 40)
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_many_columns_share_their_resamples() -> None:
    rng = np.random.default_rng(9)
    columns = [rng.random(50) for _ in range(4)]
    clusters = np.arange(50) // 2
    for column, interval in zip(columns, mean_intervals(columns, clusters, 300, 0.95, 2, "bca"), strict=True):
        assert interval == bootstrap_mean(column, clusters, 300, 0.95, 2, "bca")


def test_one_seed_is_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(10)
    values, other = rng.random(40), rng.random(40)
    clusters = np.arange(40) // 4
    assert hierarchical_intervals([values], clusters, seed=3)[0] == bootstrap_mean(values, clusters, seed=3)
    found = paired_hierarchical_bootstrap(values, other, clusters, seed=3)
    plain = paired_bootstrap(values, other, clusters, seed=3, method="percentile")
    assert (found.difference, found.low, found.high) == pytest.approx(
        (plain.difference, plain.low, plain.high), abs=1e-12
    )


def test_seeds_and_prompts_both_add_their_variance() -> None:
    # values = seed effect + prompt effect: the variance of the mean is the sum of the two, each / its number.
    rng = np.random.default_rng(11)
    seed_effects, prompt_effects = rng.normal(size=(30, 1)), 3 * rng.normal(size=(1, 200))
    (interval,) = hierarchical_intervals([seed_effects + prompt_effects], resamples=6000)
    expected = 1.96 * np.sqrt(seed_effects.var() / 30 + prompt_effects.var() / 200)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.06)


def test_seeds_that_agree_do_not_multiply_the_prompts() -> None:
    # Five equal rows are one row: five answers to a prompt are not five prompts.
    values = np.random.default_rng(12).random(60)
    (repeated,), plain = hierarchical_intervals([np.tile(values, (5, 1))]), bootstrap_mean(values)
    assert (repeated.value, repeated.low, repeated.high) == pytest.approx(
        (plain.value, plain.low, plain.high), abs=1e-12
    )


def test_paired_seeds_share_prompts_but_not_seeds() -> None:
    rng = np.random.default_rng(13)
    prompts = 5 * rng.random((1, 80))
    a, b = prompts + rng.normal(size=(12, 1)) + 0.5, prompts + rng.normal(size=(9, 1))
    found = paired_hierarchical_bootstrap(a, b, resamples=6000)
    # The prompts cancel; what is left is the seeds of a and the seeds of b.
    expected = 1.96 * np.sqrt(a.mean(axis=1).var() / 12 + b.mean(axis=1).var() / 9)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.08)
    many = paired_hierarchical_bootstrap(np.tile(a, (1, 40)), np.tile(b, (1, 40)), resamples=600)
    assert (many.high - many.low) / 2 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([0.1, float("nan")]), r"values\[1\]=nan"),
        (lambda: bootstrap_mean([]), "values has 0"),
        (lambda: paired_bootstrap([0.1, 0.2], [0.1]), "b has 1 entries but there are 2"),
        (lambda: bootstrap_mean([0.1, 0.2], ["a"]), "clusters has 1 entries but there are 2"),
        (lambda: bootstrap_mean([0.1, 0.2], [["a", "b"]]), r"clusters has shape \(1, 2\)"),
        (lambda: bootstrap_mean([0.1, 0.2], resamples=0), "resamples=0 must be at least 1"),
        (lambda: bootstrap_mean([0.1, 0.2], method="normal"), "method='normal' is none of percentile, bca"),  # pyright: ignore
        (lambda: bootstrap_mean([0.1, 0.2], ["a", None]), "clusters holds None"),  # pyright: ignore
        (lambda: bootstrap_mean([0.1, 0.2], [1.0, float("nan")]), "clusters holds None, NaN"),
        (lambda: hierarchical_intervals([[[0.1, float("nan")]]]), r"values_SP\[0, 1\]=nan"),
        (lambda: hierarchical_intervals([np.zeros((0, 3))]), r"values_SP has shape \(0, 3\)"),
        (lambda: hierarchical_intervals([[[0.1, 0.2]]], resamples=0), "resamples=0"),
        (lambda: paired_hierarchical_bootstrap([0.1, 0.2], [[0.1]]), "b_SP has 1 entries but there are 2"),
        (lambda: bootstrap_mean([0.1, 0.2], confidence=95), "confidence=95 must lie between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
