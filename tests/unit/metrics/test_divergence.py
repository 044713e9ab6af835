"""Trends and the alarm: against counts by hand, the normal approximation, and simulated runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from polyray.metrics.divergence import Trend, monotone_trend, parted

WINDOW = 30


def brute_force_p_rise(values: list[float]) -> float:
    """Share of all orders of the values whose sum of signs is at least that of the given one."""

    def signs(order: tuple[float, ...]) -> int:
        return sum((b > a) - (b < a) for a, b in itertools.combinations(order, 2))

    observed = signs(tuple(values))
    orders = list(itertools.permutations(values))
    return sum(signs(order) >= observed for order in orders) / len(orders)


@pytest.mark.parametrize(
    "values", [[1, 2, 3, 4, 5, 6], [3, 1, 2, 6, 4, 5], [6, 5, 4, 3, 2, 1], [0.1, 0.9, 0.2, 0.8, 0.3]]
)
def test_p_value_of_a_short_series_equals_enumeration(values: list[float]) -> None:
    assert monotone_trend(values, "rise").p_value == pytest.approx(brute_force_p_rise(values))
    falling = brute_force_p_rise([-value for value in values])
    assert monotone_trend(values, "fall").p_value == pytest.approx(falling)


def test_p_value_of_a_long_series_is_mann_kendalls_approximation() -> None:
    draw = np.random.default_rng(0)
    values = 0.01 * np.arange(60) + draw.normal(0, 0.3, 60)
    statistic = sum(np.sign(values[j] - values[i]) for i in range(60) for j in range(i + 1, 60))
    z = statistic / math.sqrt(60 * 59 * (2 * 60 + 5) / 18)
    assert monotone_trend(values, "rise").p_value == pytest.approx(
        0.5 * math.erfc(z / math.sqrt(2)), abs=2e-3
    )


def test_change_is_the_median_slope_over_the_window() -> None:
    values = [0.0, 0.1, 0.5, 0.3, 0.2]
    slopes = [(values[j] - values[i]) / (j - i) for i in range(5) for j in range(i + 1, 5)]
    assert monotone_trend(values, "rise").change == pytest.approx(np.median(slopes) * 4)
    outlier = [*np.linspace(0.2, 0.5, 12), 9.0]
    assert monotone_trend(outlier, "rise").change == pytest.approx(0.3 * 12 / 11)
    assert monotone_trend([0.5] * 20, "rise") == monotone_trend([0.5] * 20, "fall") == Trend(0.0, 1.0)


def alarm(trained: np.ndarray, second: np.ndarray, min_rise: float = 0.0, max_fall: float = 0.0) -> bool:
    return parted(trained, second, min_rise=min_rise, max_fall=max_fall, significance=0.01)


def simulated(rise: float, fall: float, seed: int, correlation: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Step means with noise of 0.03 that the two rewards share in part, on lines that end `rise` and -`fall`."""
    draw = np.random.default_rng(seed)
    common, own, other = draw.normal(0, 0.03, (3, WINDOW))
    share = math.sqrt(correlation)
    rest = math.sqrt(1 - correlation)
    along = np.linspace(0, 1, WINDOW)
    return (
        0.4 + rise * along + share * common + rest * own,
        0.5 - fall * along + share * common + rest * other,
    )


def test_parted_raises_fewer_false_alarms_than_its_significance() -> None:
    runs = 150
    nothing = sum(alarm(*simulated(0.0, 0.0, seed)) for seed in range(runs))
    only_the_reward = sum(alarm(*simulated(0.3, 0.0, seed)) for seed in range(runs))
    only_the_second = sum(alarm(*simulated(0.0, 0.3, seed)) for seed in range(runs))
    both_rise = sum(alarm(*simulated(0.3, -0.3, seed)) for seed in range(runs))
    # At a true chance of 0.01 more than 6 of 150 come with a probability of 0.001.
    assert nothing <= 1 and both_rise == 0
    assert only_the_reward <= 6 and only_the_second <= 6


def test_parted_finds_real_parting() -> None:
    assert sum(alarm(*simulated(0.1, 0.1, seed)) for seed in range(30)) >= 27
    assert sum(alarm(*simulated(0.1, 0.1, seed, correlation=0.0)) for seed in range(30)) >= 27


def test_parted_ignores_significant_changes_below_the_limits() -> None:
    trained, second = np.linspace(0.4, 0.45, WINDOW), np.linspace(0.5, 0.47, WINDOW)
    assert alarm(trained, second, min_rise=0.04, max_fall=0.02)
    assert not alarm(trained, second, min_rise=0.06, max_fall=0.02)
    assert not alarm(trained, second, min_rise=0.04, max_fall=0.04)
    assert not alarm(second, trained) and not alarm(trained, trained)
