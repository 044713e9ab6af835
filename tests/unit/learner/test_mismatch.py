"""The alarm for engines and learner that drift apart: by its limits, by its growth, over a resume."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from polyray.config.mismatch import MismatchAlarmSpec, mismatch_text
from polyray.launch.watch import show_alarms
from polyray.learner.mismatch import MismatchWatch, is_mismatched
from polyray.runs.progress import ProgressDisplay
from tests.unit.tiny_policy import train_config

SPEC = MismatchAlarmSpec(window=10, kl_rollout=0.1, ess=0.6)
FLAT_KL, FLAT_ESS = [0.001] * 10, [0.99] * 10


def test_by_the_median_and_not_by_single_steps() -> None:
    assert not is_mismatched(FLAT_KL, FLAT_ESS, SPEC)
    assert not is_mismatched([0.001] * 6 + [9.0] * 4, FLAT_ESS, SPEC)
    assert is_mismatched([0.001] * 4 + [0.11] * 6, FLAT_ESS, SPEC)
    assert not is_mismatched(FLAT_KL, [0.99] * 6 + [0.1] * 4, SPEC)
    assert is_mismatched(FLAT_KL, [0.99] * 4 + [0.55] * 6, SPEC)
    assert not is_mismatched([0.2] * 9, [0.1] * 9, SPEC), "the window is not full"


@pytest.mark.parametrize(("start", "alarm"), [(0.02, True), (0.002, False)])
def test_growth_counts_once_it_is_past_a_share_of_the_limit(start: float, alarm: bool) -> None:
    """Medians 0.029 and 0.011, both rising at every step; a fifth of the limit is 0.02."""
    rising = [start + 0.002 * step for step in range(10)]
    assert is_mismatched(rising, FLAT_ESS, SPEC) is alarm
    assert not is_mismatched(rising[::-1], FLAT_ESS, SPEC)


def test_a_falling_effective_sample_is_growth_too() -> None:
    falling = [0.9 - 0.005 * step for step in range(10)]  # median 0.8775: 0.31 of the way to 0.6
    assert is_mismatched(FLAT_KL, falling, SPEC)
    assert not is_mismatched(FLAT_KL, falling[::-1], SPEC)
    assert not is_mismatched(FLAT_KL, falling, SPEC.model_copy(update={"ess": 0.0}))


def test_noise_around_a_level_below_the_limit_is_no_alarm() -> None:
    """At most a false alarm in a hundred windows, up to chance: 0 to 9 of 300 is what a correct test gives."""
    draw = np.random.default_rng(0)
    windows = [0.05 * draw.lognormal(0, 0.3, 10) for _ in range(300)]
    assert sum(is_mismatched(list(window), FLAT_ESS, SPEC) for window in windows) <= 9


def _line(step: int, kl: float | None) -> dict[str, Any]:
    return {"step": step, "kl_rollout": kl, "ess": 0.99}


def test_a_resumed_watch_goes_on_as_if_nothing_had_happened(caplog: pytest.LogCaptureFixture) -> None:
    values = [0.001] * 8 + [0.2] * 9 + [0.001] * 12
    lines: list[dict[str, Any]] = [_line(step, value) for step, value in enumerate(values)]
    lines.insert(5, _line(99, None))
    watch = MismatchWatch(SPEC, [])
    with caplog.at_level(logging.WARNING):
        for line in lines:
            line |= watch.observe(line)
    alarms = [line["mismatch_alarm"] for line in lines]
    first = alarms.index(1)
    assert first == 13  # the fifth 0.2: with five of ten the median is 0.1005
    assert watch.total == sum(alarms) > 0
    assert len(caplog.records) == 1
    for cut in (3, first, first + 2, len(lines) - 1):
        resumed = MismatchWatch(SPEC, lines[:cut])
        again = [
            resumed.observe({k: v for k, v in line.items() if k != "mismatch_alarm"}) for line in lines[cut:]
        ]
        assert [added["mismatch_alarm"] for added in again] == alarms[cut:]
        assert resumed.total == watch.total


def test_monitor_is_absent_without_an_alarm() -> None:
    assert MismatchWatch(None, []).observe(_line(0, 9.0)) == {}


def test_display_shows_the_alarm_once_with_its_fix(tmp_path: Path) -> None:
    stream = io.StringIO()
    display, shown = ProgressDisplay(console=Console(file=stream, width=1000)), set[str]()
    config = train_config()
    for metrics in ({}, {"mismatch_alarms": 1}, {"mismatch_alarms": 2}):
        show_alarms(config, {"alarms": 0, "metrics": metrics}, shown, display)
    assert config.mismatch_alarm is not None
    assert stream.getvalue().splitlines() == [mismatch_text(config.mismatch_alarm)]
    assert "rollout.max_staleness" in stream.getvalue()
