"""Calibration against formulas written out, a general optimiser, and scores whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from polyray.metrics.calibration import MAX_SLOPE, best_temperature, pair_calibration, sigmoid


def true_gaps(num: int, stretch: float, seed: int = 0) -> np.ndarray:
    """Gaps of a score that is right with probability sigmoid(gap / stretch)."""
    generator = np.random.default_rng(seed)
    stated = generator.normal(0, 2, num)
    return np.where(generator.random(num) < sigmoid(np.abs(stated)), 1, -1) * np.abs(stated) * stretch


def test_losses_and_bins_equal_sums_by_hand() -> None:
    gaps = np.log([3.0, 1 / 3, 9.0, 9.0])  # stated: .75 right, .75 wrong, .9 right, .9 right
    found = pair_calibration(gaps, num_bins=2, resamples=200)
    assert found.brier.value == pytest.approx((0.25**2 + 0.75**2 + 2 * 0.1**2) / 4)
    assert found.log_loss.value == pytest.approx(-(np.log(0.75) + np.log(0.25) + 2 * np.log(0.9)) / 4)
    assert [(item.num_pairs, item.accuracy) for item in found.bins] == [(2, 0.5), (2, 1.0)]
    assert [item.confidence for item in found.bins] == pytest.approx([0.75, 0.9])
    assert found.expected_error.value == pytest.approx((2 * 0.25 + 2 * 0.1) / 4)


def test_tie_counts_half_right_with_confidence_one_half() -> None:
    found = pair_calibration([0.0, 0.0], resamples=100)
    assert [(item.confidence, item.accuracy, item.num_pairs) for item in found.bins] == [(0.5, 0.5, 2)]
    assert found.brier.value == 0.25 and found.expected_error.value == 0.0
    assert found.log_loss.value == pytest.approx(np.log(2))


def test_calibrated_scores_have_equal_bins_and_an_error_of_chance_level() -> None:
    errors = []
    for seed in range(60):
        found = pair_calibration(true_gaps(400, 1.0, seed), num_bins=8, resamples=100)
        assert [item.num_pairs for item in found.bins] == [50] * 8
        confidences = [item.confidence for item in found.bins]
        assert confidences == sorted(confidences)
        assert 0 <= found.expected_error.low <= found.expected_error.value <= found.expected_error.high
        errors.append(found.expected_error.value)
    by_chance = pair_calibration(true_gaps(400, 1.0), num_bins=8, resamples=100).error_by_chance
    assert np.mean(errors) == pytest.approx(by_chance, rel=0.12)


@pytest.mark.parametrize("stretch", [0.5, 1.0, 3.0])
def test_temperature_equals_a_general_optimiser(stretch: float) -> None:
    gaps = true_gaps(4000, stretch)
    found = pair_calibration(gaps, np.arange(4000) // 4, resamples=500)
    by_optimiser: Any = minimize_scalar(
        lambda log_t: np.logaddexp(0, -gaps / np.exp(log_t)).mean(), bounds=(-5, 5), method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    assert found.temperature.value == pytest.approx(np.exp(by_optimiser.x), rel=1e-4)
    assert found.temperature.low < stretch < found.temperature.high
    assert found.temperature.high / found.temperature.low < 1.3
    is_calibrated = stretch == 1.0
    assert (found.expected_error.value < 2 * found.error_by_chance) == is_calibrated


def test_temperature_interval_equals_that_of_refitting() -> None:
    gaps, clusters = true_gaps(600, 2.0, seed=4), np.arange(600) // 6
    found = pair_calibration(gaps, clusters, resamples=2000).temperature
    generator = np.random.default_rng(9)
    refitted = [
        best_temperature(np.concatenate([gaps[clusters == c] for c in generator.integers(0, 100, 100)]))
        for _ in range(400)
    ]
    low, high = np.quantile(refitted, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, rel=0.06), pytest.approx(high, rel=0.06))


def test_temperature_of_onesided_gaps_is_the_limit() -> None:
    assert best_temperature([1.0, 2.0]) == pytest.approx(1 / MAX_SLOPE), "always right"
    assert best_temperature([-1.0, -2.0]) == pytest.approx(MAX_SLOPE), "always wrong"
    assert pair_calibration([1.0, 2.0, 0.5], resamples=100).temperature.high < 1e-3
