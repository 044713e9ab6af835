"""Rules of monitors over lines: limits, trends, drops, divergence, missing values and resumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from polyray.config.monitors import MonitorSpec, preset_monitors
from polyray.learner.monitors import Monitors, is_raised


def monitor(**fields: Any) -> MonitorSpec:
    return MonitorSpec.model_validate({"name": "own", "metric": "x", **fields})


def raised(values: Sequence[float | tuple[float, ...]], **rule: Any) -> bool:
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return is_raised(monitor(rule=rule).rule, rows)


def alarms(lines: Sequence[dict[str, Any]], *specs: MonitorSpec, of_rounds: bool = False) -> list[int]:
    """The alarm of the first monitor on each line."""
    watched = Monitors(specs, [], of_rounds=of_rounds)
    return [next(iter(watched.observe(line).values())) for line in lines]


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        ([1, 1, 1, 9, 9], {"above": 5}, False),
        ([1, 1, 9, 9, 9], {"above": 5}, True),
        ([1, 5, 5, 5, 9], {"above": 5}, False),
        ([9, 1, 1, 1, 9], {"below": 5}, True),
        ([9, 9, 9, 9], {"above": 5}, False),
        ([9, 9, 9, 1, 1, 1, 1], {"above": 5}, False),
        ([3, 4], {"above": 2, "window": 1}, True),
    ],
)
def test_limit_compares_median_of_full_window(
    values: list[float], rule: dict[str, Any], expected: bool
) -> None:
    assert raised(values, **{"window": 5, **rule}) is expected


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=9),
    st.sampled_from(["drawn", "rising", "falling"]),
    st.sampled_from([(1.5, 0.0), (0.5, 0.0), (-0.5, 1.0), (0.4, 1.0)]),
)
def test_limit_with_healthy_value_equals_its_definition(
    values: list[float], order: str, limits: tuple[float, float]
) -> None:
    values = values if order == "drawn" else sorted(values, reverse=order == "falling")
    limit, healthy = limits
    rises = limit > healthy
    median = sorted(values)[len(values) // 2] if len(values) % 2 else float(np.median(values))
    beyond = median > limit if rises else median < limit
    test: Any = kendalltau(range(len(values)), values, alternative="greater" if rises else "less")
    moves = len(set(values)) > 1 and test.pvalue <= 0.01
    expected = bool(beyond or (moves and (median - healthy) / (limit - healthy) > 0.2))
    side = "above" if rises else "below"
    assert raised(values, **{side: limit}, healthy=healthy, window=len(values)) is expected


@pytest.mark.parametrize(("start", "expected"), [(0.02, True), (0.002, False)])
def test_limit_with_healthy_value_ignores_trends_near_it(start: float, expected: bool) -> None:
    """Medians 0.029 and 0.011, both rising at every step; a fifth of the way is 0.02."""
    rising = [start + 0.002 * step for step in range(10)]
    assert raised(rising, above=0.1, healthy=0, window=10) is expected
    assert raised([1 - value for value in rising], below=0.9, healthy=1, window=10) is expected
    assert not raised(rising[::-1], above=0.1, healthy=0, window=10)


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        ([0.8, 0.39, 0.41, 0.39, 0.39, 0.2, 0.5], {}, [0, 0, 0, 0, 1, 1, 0]),
        ([0.8, 0.5, 0.5], {"share": 0.25, "in_a_row": 1}, [0, 1, 1]),
        ([0.8, 0.61, 0.61], {"share": 0.25, "in_a_row": 1}, [0, 0, 0]),
        ([0.8, 0.4, 0.4], {}, [0, 0, 0]),
        ([None, 0.8, 0.1, None, 0.1], {}, [0, 0, 0, 0, 1]),
        ([0.0, 0.0, 0.0], {}, [0, 0, 0]),
        ([-1.0, -3.0, -3.0], {}, [0, 0, 0]),
    ],
)
def test_drop_needs_values_in_a_row_below_share_of_first(
    values: list[float | None], rule: dict[str, Any], expected: list[int]
) -> None:
    spec = monitor(metric="validation/diversity", rule={"type": "drop", **rule})
    lines = [{} if value is None else {"diversity": value} for value in values]
    assert alarms(lines, spec, of_rounds=True) == expected


@pytest.mark.parametrize(
    ("first", "second", "rule", "expected"),
    [
        (1, -1, {}, True),
        (1, 1, {}, False),
        (-1, -1, {}, False),
        (1, 0, {}, False),
        (0, -1, {}, False),
        (1, -1, {"min_rise": 0.19}, False),
        (1, -1, {"min_rise": 0.17}, True),
        (1, -1, {"max_fall": 0.19}, False),
        (1, -1, {"max_fall": 0.17}, True),
    ],
)
def test_diverge_needs_rise_and_fall_over_a_full_window(
    first: int, second: int, rule: dict[str, Any], expected: bool
) -> None:
    """Each changes by 0.02 x 9 = 0.18 over the last ten of fourteen values."""
    rows = [(0.4 + first * 0.02 * t, 0.6 + second * 0.02 * t) for t in range(14)]
    assert raised(rows, type="diverge", other="y", window=10, **rule) is expected
    assert not raised(rows[5:], type="diverge", other="y", window=10, **rule)


def test_trend_rules_have_few_false_alarms() -> None:
    """At most a false alarm in a hundred windows, up to chance: 0 to 9 of 300 is what a correct test gives."""
    draw = np.random.default_rng(0)
    windows = [0.05 * draw.lognormal(0, 0.3, 10) for _ in range(300)]
    assert sum(raised(list(window), above=0.1, healthy=0, window=10) for window in windows) <= 9


@pytest.mark.parametrize("missing", [{}, {"x": None}, {"x": float("nan")}, {"x": "text"}])
def test_line_without_number_is_passed_over_and_keeps_the_alarm(missing: dict[str, Any]) -> None:
    spec = monitor(rule={"above": 1, "window": 2})
    lines = [{"x": 2}, missing, {"x": 2}, missing, {"x": 0}, {"x": 0}]
    assert alarms(lines, spec) == [0, 0, 1, 1, 0, 0]


def test_diverge_passes_over_lines_with_one_of_two_values() -> None:
    spec = monitor(rule={"type": "diverge", "other": "y", "window": 10})
    lines: list[dict[str, Any]] = [{"x": 0.4 + 0.02 * t, "y": 0.6 - 0.02 * t} for t in range(14)]
    lines.insert(3, {"x": 99.0, "y": None})
    assert alarms(lines, spec) == [0] * 10 + [1] * 5


def test_each_monitor_observes_lines_of_its_own_kind() -> None:
    both = preset_monitors("mismatch", "low_ess", "collapse")
    assert set(Monitors(both, []).observe({})) == {"monitor/mismatch", "monitor/low_ess"}
    assert set(Monitors(both, [], of_rounds=True).observe({})) == {"monitor/collapse"}


@pytest.mark.parametrize("cut", [0, 3, 6, 8, 12, 19])
def test_resumed_monitors_equal_unbroken_ones_and_warn_once(
    cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    values = [0.1] * 5 + [2.0] * 4 + [0.1] * 5 + [2.0] * 6
    specs = (
        monitor(rule={"above": 1, "window": 3}),
        monitor(name="two", rule={"below": 0.5, "window": 3}),
    )
    lines: list[dict[str, Any]] = [{"x": value} for value in values]
    whole = Monitors(specs, [])
    expected = [line | whole.observe(line) for line in lines]
    assert [line["monitor/own"] for line in expected] == [0] * 6 + [1] * 4 + [0] * 5 + [1] * 5
    assert len(caplog.records) == 4  # two alarms, each raised twice
    caplog.clear()
    resumed = Monitors(specs, expected[:cut])
    assert [line | resumed.observe(line) for line in lines[cut:]] == expected[cut:]
    again = sum(
        expected[step][key] > (expected[step - 1][key] if step else 0)
        for step in range(cut, len(expected))
        for key in ("monitor/own", "monitor/two")
    )
    assert len(caplog.records) == again


def test_misspelt_metric_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    watched = Monitors([monitor(metric="kl_rolout", rule={"above": 1})], [])
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            watched.observe({"kl_rollout": 0.1})
    (message,) = caplog.messages
    assert "kl_rolout" in message and "monitors" in message
    caplog.clear()
    rare = Monitors([monitor(rule={"above": 1})], [])
    for step in range(50):
        rare.observe({"x": 0.1} if step == 7 else {})
    assert not caplog.messages
