"""The second opinion in metrics.jsonl: by hand, over ranks, and over a resume."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.config.over_optimisation import OverOptimisationSpec
from polyray.learner.group_metrics import MEAN_SECOND_OPINION as MEAN
from polyray.learner.group_metrics import add_second_opinion, second_opinion_metrics
from polyray.learner.over_optimisation import SecondOpinionWatch
from polyray.learner.reduce import Sums
from polyray.learner.run_files import RunFiles
from polyray.types import METRIC_KEYS, ScoredGroup, StepMetrics, TrainingBatch
from tests.unit.tiny_policy import random_group, train_config

NAN = float("nan")
SPEC = OverOptimisationSpec(window=10, min_rise=0.05, max_fall=0.05)


def group(group_id: int, rewards: list[float], second: list[float] | None) -> ScoredGroup:
    components = {} if second is None else {"second_opinion": tuple(second)}
    return replace(random_group(group_id, rewards), components=components)


def metrics(*groups: ScoredGroup) -> StepMetrics:
    sums = Sums()
    for one in groups:
        add_second_opinion(sums, one)
    return second_opinion_metrics(sums)


def test_means_and_correlation_cover_items_with_both_scores() -> None:
    first = group(0, [0.1, 0.5, NAN, 0.9], [0.2, 0.3, 0.9, NAN])
    second = group(1, [0.4, 0.8], [0.9, 0.5])
    found = metrics(first, second)
    opinions = [0.2, 0.3, 0.9, 0.5]
    assert found[MEAN] == pytest.approx(np.mean(opinions))
    assert found["second_opinion_std"] == pytest.approx(np.std(opinions))
    assert found["second_opinion_missing"] == pytest.approx(1 / 5)
    # Deviations from each group's mean: (-.2, .2), (-.2, .2) against (-.05, .05), (.2, -.2).
    x, y = np.array([-0.2, 0.2, -0.2, 0.2]), np.array([-0.05, 0.05, 0.2, -0.2])
    assert found["second_opinion_correlation"] == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_groups_of_different_level_do_not_make_a_correlation() -> None:
    found = metrics(group(0, [0.1, 0.2], [0.2, 0.1]), group(1, [0.8, 0.9], [0.9, 0.8]))
    assert found["second_opinion_correlation"] == pytest.approx(-1)


def test_a_second_opinion_that_is_missing_is_null_and_never_zero() -> None:
    for missing in (None, [NAN, NAN]):
        found = metrics(group(0, [0.1, 0.5], missing))
        assert found == {
            MEAN: None,
            "second_opinion_std": None,
            "second_opinion_missing": 1.0,
            "second_opinion_correlation": None,
        }
    assert second_opinion_metrics(Sums()) == {}
    assert metrics(group(0, [0.5, 0.5], [0.1, 0.2]))["second_opinion_correlation"] is None


def line(step: int, first: float, second: float | None, spread: float = 0.1) -> dict[str, Any]:
    return {
        "step": step,
        "reward_mean": first,
        "reward_std": spread,
        MEAN: second,
        "second_opinion_std": None if second is None else 2 * spread,
    }


def parting(steps: int = 14) -> list[dict[str, Any]]:
    wiggle = 0.002 * np.cos(np.arange(steps) * 5.0)
    return [line(t, 0.4 + 0.02 * t + wiggle[t], 0.6 - 0.02 * t + wiggle[t]) for t in range(steps)]


def observed(lines: list[dict[str, Any]], spec: OverOptimisationSpec | None = SPEC) -> list[StepMetrics]:
    watch = SecondOpinionWatch(spec, [])
    return [watch.observe(row) for row in lines]


def test_the_gap_is_in_standard_deviations_since_the_first_steps() -> None:
    rows = [line(t, 0.5, 0.5) for t in range(5)] + [line(5, 0.7, 0.4)]
    gaps = [added["second_opinion_gap"] for added in observed(rows, None)]
    assert gaps[:5] == [0.0] * 5
    assert gaps[5] == pytest.approx(0.2 / 0.1 - -0.1 / 0.2)
    assert observed([line(0, 0.5, None)])[0]["second_opinion_gap"] is None
    assert observed([line(0, 0.5, 0.5, spread=0.0)])[0]["second_opinion_gap"] is None


def test_the_alarm_goes_off_when_the_window_is_full_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        alarms = [added["over_optimisation"] for added in observed(parting())]
    assert alarms == [0] * 9 + [1] * 5
    assert len(caplog.records) == 1 and "10 steps" in caplog.records[0].message


def test_no_alarm_if_both_rise_or_without_a_monitor() -> None:
    rows = [line(t, 0.4 + 0.02 * t, 0.4 + 0.02 * t) for t in range(14)]
    assert not any(added["over_optimisation"] for added in observed(rows))
    assert all(set(added) == {"second_opinion_gap"} for added in observed(parting(), None))
    assert observed([{"step": 0, "reward_mean": 0.5, "reward_std": 0.1}]) == [{}]


def test_steps_without_a_second_opinion_are_passed_over() -> None:
    rows = parting()
    rows.insert(3, line(99, 0.5, None))
    assert [added["over_optimisation"] for added in observed(rows)] == [0] * 10 + [1] * 5


def test_a_resumed_watch_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = train_config(
        second_opinion={"type": "heuristic"},
        over_optimisation=SPEC.model_dump(),
        rollouts_logged_per_step=0,
    )
    timings = {
        "generate_s": 0.1,
        "score_s": 0.1,
        "deliver_s": 0.1,
        "idle_generate": 0.1,
        "learn_s": 1,
        "step_s": 2,
    }
    batch = TrainingBatch(0, (), 0, {"groups_used": 1, "groups_dropped": 0, "staleness_mean": 0})
    rest: StepMetrics = {key: 0.25 for key in METRIC_KEYS if key not in {*timings, "idle_learn"}}

    def run(directory: Path, *starts: range) -> list[StepMetrics]:
        written = []
        for steps in starts:
            files = RunFiles(directory, config)
            files.cut_to(steps.start)
            written = written[: steps.start] + [
                files.write_step(t, batch, {**rest, **parting()[t]}, timings, ()) for t in steps
            ]
        return written

    whole = run(tmp_path / "whole", range(14))
    assert [row["over_optimisation"] for row in whole] == [0] * 9 + [1] * 5
    assert run(tmp_path / "resumed", range(7), range(4, 12), range(11, 14)) == whole


def test_an_alarm_needs_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match=r"over_optimisation.*second_opinion"):
        train_config(over_optimisation={"window": 10})
    with pytest.raises(ValueError, match=r"second_opinion.*service"):
        train_config(second_opinion={"type": "heuristic", "service": {"port": 0}})
