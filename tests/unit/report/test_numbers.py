from __future__ import annotations

import pytest

from polyray.report.numbers import Interval, bounds, decimal, is_number, percent, signed


def test_signs_are_real_minus_signs_and_zero_has_none() -> None:
    assert (decimal(-0.016), decimal(-0.0001), signed(0.296), signed(-0.25, 2), signed(0.0001)) == (
        "\N{MINUS SIGN}0.016", "0.000", "+0.296", "\N{MINUS SIGN}0.25", "0.000",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [
        (0.1, 0.2, "higher"),
        (-0.2, -0.1, "lower"),
        (-0.1, 0.2, "no difference shown"),
        (0.0, 0.2, "no difference shown"),
    ],
)
def test_direction_needs_an_interval_without_zero(low: float, high: float, direction: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert interval.direction == direction
    assert interval.excludes_zero == (direction != "no difference shown")


def test_bounds_that_exclude_zero_are_never_written_as_zero() -> None:
    assert bounds(Interval(-0.009, -0.0191, -0.0004)) == "[\N{MINUS SIGN}0.0191, \N{MINUS SIGN}0.0004]"
    assert bounds(Interval(0.001, -0.0001, 0.002), with_sign=True) == "[0.000, +0.002]"


def test_intervals_of_metrics_and_of_comparisons() -> None:
    assert Interval.of({"value": 1, "low": 0, "high": 2}) == Interval(1.0, 0.0, 2.0)
    assert Interval.of({"difference": -1, "low": -2, "high": 0}).value == -1.0


def test_percent_and_numbers() -> None:
    assert percent(0.813) == "81 %"
    assert [is_number(value) for value in (1, 0.5, None, float("nan"), True, "1")] == [True, True] + [
        False
    ] * 4
