"""metrics.jsonl and rollouts.jsonl: one line per step in a fixed order, cut on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.learner.run_files import RunFiles
from polyray.runs.jsonl import read_jsonl
from polyray.types import METRIC_KEYS, StepMetrics, TrainingBatch
from tests.unit.tiny_policy import random_group, train_config

NAN = float("nan")
ADVANTAGES = (np.array([0.125, 0.0, -0.5]), np.array([1.0, -1.0]))
COUNTERS = {"groups_used": 2, "groups_dropped": 1, "staleness_mean": 0.5}
TIMINGS = {"generate_s": 0.1, "score_s": 0.2, "deliver_s": 0.3, "idle_generate": 0.4, "learn_s": 1.0}


def _opened(run_dir: Path, cut_to: int = 0, logged: int = 1) -> RunFiles:
    files = RunFiles(run_dir, train_config(rollouts_logged_per_step=logged))
    files.cut_to(cut_to)
    return files


def _batch() -> TrainingBatch:
    groups = (random_group(4, [1, NAN, 0.5], classes=[7, -1, -1]), random_group(5, [1, 0]))
    return TrainingBatch(3, groups, 2, COUNTERS)


def _write(files: RunFiles, step: int = 3, step_s: float = 4.0) -> dict[str, Any]:
    elsewhere = {"step", "policy_version", *COUNTERS, *TIMINGS, "step_s", "idle_learn"}
    metrics: StepMetrics = {key: 0.25 for key in METRIC_KEYS if key not in elsewhere}
    metrics |= {"reward/format": 0.75, "ess": 0.5}
    return dict(files.write_step(step, _batch(), metrics, TIMINGS | {"step_s": step_s}, ADVANTAGES))


def test_metrics_line_has_every_key_in_order_and_others_behind(tmp_path: Path) -> None:
    line = _write(_opened(tmp_path))
    assert list(line) == [*METRIC_KEYS, "monitor/low_ess", "monitor/mismatch", "reward/format"]
    assert read_jsonl(tmp_path / "metrics.jsonl") == [line]
    expected = {
        "step": 3,
        "policy_version": 4,
        **COUNTERS,
        "ess": 0.5,
        "deliver_s": 0.3,
        "reward/format": 0.75,
    }
    assert line.items() >= expected.items()
    assert line["idle_learn"] == pytest.approx(1 - 1.0 / 4.0)
    assert _write(_opened(tmp_path), step_s=0.9)["idle_learn"] == 0  # measured longer than the step


def test_rollouts_are_written_in_full(tmp_path: Path) -> None:
    _write(_opened(tmp_path))
    (record,) = read_jsonl(tmp_path / "rollouts.jsonl")
    completions = record.pop("completions")
    assert record == {"step": 3, "group_id": 4, "policy": 0, "prompt": "prompt 4"}
    logprobs = [c.rollout_logprobs.sum() for c in _batch().groups[0].group.completions]
    assert [item.pop("logprob") for item in completions] == pytest.approx(logprobs, abs=1e-4)
    keys = ("text", "reward", "class", "advantage", "finish_reason")
    assert completions == [
        dict(zip(keys, values, strict=True))
        for values in (
            ("text 4/0", 1.0, 7, 0.125, "length"),
            ("text 4/1", None, -1, 0, "stop"),
            ("text 4/2", 0.5, -1, -0.5, "stop"),
        )
    ]


@pytest.mark.parametrize(("limit", "written"), [(0, []), (2, [4, 5]), (9, [4, 5])])
def test_rollouts_are_limited_per_step(tmp_path: Path, limit: int, written: list[int]) -> None:
    _write(_opened(tmp_path, logged=limit))
    assert [record["group_id"] for record in read_jsonl(tmp_path / "rollouts.jsonl")] == written


def test_resume_drops_lines_of_repeated_steps(tmp_path: Path) -> None:
    files = _opened(tmp_path)
    for step in range(5):
        _write(files, step)
    _write(_opened(tmp_path, cut_to=3))
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert [record["step"] for record in read_jsonl(tmp_path / name)] == [0, 1, 2, 3]
