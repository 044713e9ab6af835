"""Rank correlations against scipy, bootstrap intervals against resampling by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from polyray.metrics import correlation
from polyray.metrics.correlation import bootstrap_correlation, group_correlations, without_group_means


@pytest.mark.parametrize("largest_by_signs", [500, 0])
def test_group_correlations_equal_scipy(largest_by_signs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "_SIGNS_UP_TO", largest_by_signs)
    generator = np.random.default_rng(1)
    groups = generator.integers(0, 12, 150)
    outcomes = generator.integers(0, 6, 150).astype(float)
    scores = np.round(outcomes + generator.normal(0, 3, 150))
    found = group_correlations(scores, outcomes, groups)
    spearmanr: Any = stats.spearmanr
    kendalltau: Any = stats.kendalltau
    expected = [
        (spearmanr(scores[groups == g], outcomes[groups == g]).statistic,
         kendalltau(scores[groups == g], outcomes[groups == g]).statistic)
        for g in range(12)
    ]  # fmt: skip
    assert np.allclose(found.spearman_Q, [rho for rho, _ in expected])
    assert np.allclose(found.kendall_Q, [tau for _, tau in expected])
    assert groups[found.groups_Q].tolist() == list(range(12)) and found.num_groups == 12


def test_group_correlations_choose_groups_by_outcomes_alone() -> None:
    outcomes = [1.0, 2, 3, 1, 2, 1, 2, 3]
    groups = ["a", "a", "a", "b", "b", "c", "c", "c"]
    varied = group_correlations([1.0, 2, 3, 1, 2, 3, 2, 1], outcomes, groups)
    constant = group_correlations([7.0] * 8, outcomes, groups)
    assert varied.groups_Q.tolist() == constant.groups_Q.tolist() == [0, 5], "b has two outcomes only"
    assert np.allclose(varied.spearman_Q, [1, -1]) and np.allclose(varied.kendall_Q, [1, -1])
    assert constant.spearman_Q.tolist() == constant.kendall_Q.tolist() == [0.0, 0.0]
    assert varied.num_groups == 3


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_bootstrap_correlation_equals_resampling_of_scipys(kind: correlation.Kind) -> None:
    generator = np.random.default_rng(5)
    clusters = generator.integers(0, 40, 300)
    a = generator.normal(size=300) + 3 * generator.normal(size=40)[clusters] + 1e4
    b = np.round(a - 1e4 + generator.normal(0, 2, 300))
    found = bootstrap_correlation(a, b, clusters, kind, resamples=1500, seed=2)
    assert found is not None
    function: Any = stats.pearsonr if kind == "pearson" else stats.spearmanr
    assert found.value == pytest.approx(function(a, b).statistic, abs=1e-9)
    drawn = []
    for _ in range(600):
        chosen = np.concatenate([np.flatnonzero(clusters == c) for c in generator.integers(0, 40, 40)])
        drawn.append(function(a[chosen], b[chosen]).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)
    whole = bootstrap_correlation(a, b, None, kind, resamples=1500, seed=2)
    assert whole is not None and whole.high - whole.low < 0.8 * (found.high - found.low)


def test_correlation_of_constant_values_is_none_and_of_constant_resamples_zero() -> None:
    assert bootstrap_correlation([1.0, 1, 1], [1.0, 2, 3]) is None
    found = bootstrap_correlation([0.0, 0, 0, 1], [0.0, 0, 0, 1], resamples=400)
    assert found is not None and found.value == pytest.approx(1.0) and found.low == 0.0


def test_without_group_means_subtracts_the_mean_of_each_group() -> None:
    assert without_group_means([1.0, 3, 10], ["a", "a", "b"]).tolist() == [-1.0, 1.0, 0.0]
