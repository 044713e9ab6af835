"""Weights, transforms and temperatures of preferences against integrals, gradients and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from polyray.metrics.preference import (
    MAX_TEMPERATURE,
    certainty_weights,
    fitted_temperature,
    gap_weights,
    log_counts,
    log_odds_variance,
    normal_scores,
)


def test_log_odds_variance_equals_that_of_the_posterior() -> None:
    clicks, shown, rate, weight = 3, 90, 0.02, 150.0
    a, b = clicks + rate * weight, shown - clicks + (1 - rate) * weight

    def moment(power: int) -> float:
        return integrate.quad(
            lambda p: math.log(p / (1 - p)) ** power * stats.beta.pdf(p, a, b), 0, 1, limit=200
        )[0]

    found = log_odds_variance(np.array([clicks]), np.array([shown]), rate, weight)
    assert found[0] == pytest.approx(moment(2) - moment(1) ** 2, rel=1e-6)


def test_certainty_weight_equals_the_gradient_of_the_expected_loss() -> None:
    gaps, variances = np.array([0.0, 0.2, 1.0, 6.0]), np.array([0.5, 0.04, 0.5, 0.1])
    weights = certainty_weights(gaps, variances)
    for gap, variance, weight in zip(gaps, variances, weights, strict=True):
        q = stats.norm.cdf(gap / math.sqrt(variance))

        def expected(d: float, q: float = float(q)) -> float:
            return q * math.log1p(math.exp(-d)) + (1 - q) * math.log1p(math.exp(d))

        slope = (expected(1e-5) - expected(-1e-5)) / 2e-5
        assert slope == pytest.approx(-weight / 2, abs=1e-6)  # the loss itself has slope -1/2 there


def test_gap_weights_and_count_transforms_equal_their_formulas() -> None:
    np.testing.assert_allclose(gap_weights(np.array([1.0, 3.0, 300.0]), 3.0), [0.25, 0.5, 300 / 303])
    with pytest.raises(ValueError, match="scale=0"):
        gap_weights(np.array([1.0]), 0.0)
    np.testing.assert_allclose(log_counts([-3, 0, 9]), [-math.log(4), 0, math.log(10)])
    np.testing.assert_allclose(normal_scores([5, 100, 5, 7]), stats.norm.ppf([0.25, 0.875, 0.25, 0.625]))


def test_fitted_temperature_recovers_the_true_one() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=40_000) * 2
    wins = rng.random(logits.size) < 1 / (1 + np.exp(-logits / 3.0))
    observed = np.where(wins, logits, -logits)
    found = fitted_temperature(observed)
    assert found == pytest.approx(3.0, rel=0.05)

    q = (observed.size + 1) / (observed.size + 2)

    def loss(t: float) -> float:
        return float((q * np.log1p(np.exp(-observed / t)) + (1 - q) * np.log1p(np.exp(observed / t))).mean())

    assert loss(found) <= min(loss(t) for t in np.linspace(2, 4, 41)) + 1e-12
    # Three pairs of difference 2, all right: sigmoid(2 / T) = 4 / 5.
    assert fitted_temperature(np.full(3, 2.0)) == pytest.approx(2 / math.log(4), rel=1e-5)
    assert fitted_temperature(np.array([1.0, -1.0, 2.0, -3.0])) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)
    with pytest.raises(ValueError, match=r"\b0 pairs"):
        fitted_temperature(np.array([]))
