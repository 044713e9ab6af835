"""The alarm for a collapse of diversity: against the first round, in a row, whatever was interrupted."""

from __future__ import annotations

import re

import pytest

from polyray.config.dynamics import CollapseAlarmSpec
from polyray.learner.collapse import CollapseWatch


def alarms(values: list[float | None], **spec: float) -> list[float]:
    watch = CollapseWatch(CollapseAlarmSpec.model_validate(spec), [])
    return [
        watch.observe({} if value is None else {"diversity": value})["collapse_alarm"] for value in values
    ]


def test_an_alarm_needs_rounds_in_a_row_below_the_share() -> None:
    assert alarms([0.8, 0.39, 0.41, 0.39, 0.39, 0.2, 0.5]) == [0, 0, 0, 0, 1, 1, 0]
    assert alarms([0.8, 0.5, 0.5], drop=0.25, rounds=1) == [0, 1, 1]
    assert alarms([0.8, 0.61, 0.61], drop=0.25, rounds=1) == [0, 0, 0]


def test_rounds_without_a_value_are_passed_over() -> None:
    assert alarms([None, 0.8, 0.1, None, 0.1]) == [0, 0, 0, 0, 1]
    assert alarms([0.0, 0.0, 0.0]) == [0, 0, 0], "there was nothing to lose"


@pytest.mark.parametrize("cut", range(5))
def test_a_resumed_run_goes_on_as_if_nothing_had_been(cut: int) -> None:
    values = [{"diversity": value} for value in (0.8, 0.3, 0.3, 0.6, 0.3)]
    spec = CollapseAlarmSpec()
    whole = CollapseWatch(spec, [])
    expected = [whole.observe(line) for line in values]
    again = CollapseWatch(spec, values[:cut])
    assert [again.observe(line) for line in values[cut:]] == expected[cut:]


def test_collapse_alarm_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    alarms([0.8, 0.1, 0.1, 0.1, 0.1])
    (record,) = caplog.records
    assert re.search(r"\b0\.5\b.*\b2 rounds", record.getMessage())
    assert "(0.8 -> 0.1)" in record.getMessage()


def test_monitor_is_absent_without_an_alarm() -> None:
    assert CollapseWatch(None, []).observe({"diversity": 0.0}) == {}
