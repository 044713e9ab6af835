"""metrics.jsonl and rollouts.jsonl: one line per step in a fixed order, cut on resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyray.learner.run_files import RunFiles
from polyray.runs.jsonl import read_jsonl
from polyray.types import METRIC_KEYS, StepMetrics, TrainingBatch
from tests.unit.tiny_policy import random_group, train_config

NAN = float("nan")
ADVANTAGES = (np.array([0.125, 0.0, -0.5]), np.array([1.0, -1.0]))
COUNTERS = {"groups_used": 2, "groups_dropped": 1, "staleness_mean": 0.5}
TIMINGS = {
    "generate_s": 0.1,
    "score_s": 0.2,
    "deliver_s": 0.3,
    "idle_generate": 0.4,
    "learn_s": 1.0,
    "step_s": 4.0,
}


def _metrics() -> StepMetrics:
    elsewhere = {"step", "policy_version", *COUNTERS, *TIMINGS, "idle_learn"}
    metrics: StepMetrics = {key: 0.25 for key in METRIC_KEYS if key not in elsewhere}
    return metrics | {"reward/format": 0.75, "ess": 0.5}


def _files(run_dir: Path, rollouts_logged_per_step: int = 1) -> RunFiles:
    return RunFiles(run_dir, train_config(rollouts_logged_per_step=rollouts_logged_per_step))


def _batch() -> TrainingBatch:
    groups = (random_group(4, [1, NAN, 0.5], classes=[7, -1, -1]), random_group(5, [1, 0]))
    return TrainingBatch(3, groups, 2, COUNTERS)


def test_a_line_has_every_key_in_order_and_the_rest_behind(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.cut_to(0)
    line = files.write_step(3, _batch(), _metrics(), TIMINGS, ADVANTAGES)
    assert list(line) == [*METRIC_KEYS, "monitor/low_ess", "monitor/mismatch", "reward/format"]
    assert read_jsonl(tmp_path / "metrics.jsonl") == [line]
    assert (line["step"], line["policy_version"]) == (3, 4)
    assert (line["groups_used"], line["groups_dropped"], line["staleness_mean"]) == (2, 1, 0.5)
    assert (line["ess"], line["deliver_s"], line["reward/format"]) == (0.5, 0.3, 0.75)
    assert line["idle_learn"] == pytest.approx(1 - 1.0 / 4.0)


def test_a_learner_that_measures_longer_than_the_step_is_not_idle_below_zero(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.cut_to(0)
    assert (
        files.write_step(3, _batch(), _metrics(), {**TIMINGS, "learn_s": 4.1}, ADVANTAGES)["idle_learn"] == 0
    )


def test_rollouts_are_written_in_full(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.cut_to(0)
    batch = _batch()
    files.write_step(3, batch, _metrics(), TIMINGS, ADVANTAGES)
    (record,) = read_jsonl(tmp_path / "rollouts.jsonl")
    assert (record["step"], record["group_id"], record["policy"]) == (3, 4, 0)
    assert record["prompt"] == "prompt 4"
    completions = batch.groups[0].group.completions
    assert [item["reward"] for item in record["completions"]] == [1.0, None, 0.5]
    assert [item["advantage"] for item in record["completions"]] == [0.125, 0, -0.5]
    assert [item["class"] for item in record["completions"]] == [7, -1, -1]
    assert [item["text"] for item in record["completions"]] == ["text 4/0", "text 4/1", "text 4/2"]
    assert [item["finish_reason"] for item in record["completions"]] == ["length", "stop", "stop"]
    for item, completion in zip(record["completions"], completions, strict=True):
        assert item["logprob"] == pytest.approx(float(completion.rollout_logprobs.sum()), abs=1e-4)


@pytest.mark.parametrize(("limit", "written"), [(0, []), (2, [4, 5]), (9, [4, 5])])
def test_as_many_rollouts_as_configured(tmp_path: Path, limit: int, written: list[int]) -> None:
    files = _files(tmp_path, limit)
    files.cut_to(0)
    files.write_step(3, _batch(), _metrics(), TIMINGS, ADVANTAGES)
    assert [record["group_id"] for record in read_jsonl(tmp_path / "rollouts.jsonl")] == written


def test_a_resume_drops_the_steps_that_come_again(tmp_path: Path) -> None:
    files = _files(tmp_path)
    files.cut_to(0)
    for step in range(5):
        files.write_step(step, _batch(), _metrics(), TIMINGS, ADVANTAGES)
    resumed = _files(tmp_path)
    resumed.cut_to(3)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert [record["step"] for record in read_jsonl(tmp_path / name)] == [0, 1, 2]
    resumed.write_step(3, _batch(), _metrics(), TIMINGS, ADVANTAGES)
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
