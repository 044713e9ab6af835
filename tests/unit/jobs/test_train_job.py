"""What jobs.train shows and what it writes into DONE; the run itself is in tests/integration."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.train import _show_outcome, _summary, check_inputs
from jobs.watch import shown_metrics
from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError, DataError
from polyray.observability.jsonl import JsonlWriter
from polyray.observability.progress import ProgressDisplay, headline
from polyray.observability.run_directory import RunDirectory


def _config(tmp_path: Path, **evaluation: Any) -> TrainConfig:
    values = {"name": "run", "runs_dir": str(tmp_path), "learner": {"steps": 9}}
    return build_config(TrainConfig, {**values, "evaluation": evaluation or None})


def _write(path: Path, *lines: dict[str, Any]) -> None:
    with JsonlWriter(path) as writer:
        for line in lines:
            writer.write(line)


def test_idle_shares_and_the_newest_validation_are_shown(tmp_path: Path) -> None:
    metrics = {"reward_mean": 0.5, "idle_generate": 0.25, "idle_learn": 0.75, "validation/pass_at_2": 0.125}
    config = _config(tmp_path, num_samples=2, best_metric="pass_at_2")
    assert headline(shown_metrics(config, metrics)) == {
        "reward": "0.500",
        "idle rollout": "0.250",
        "idle learner": "0.750",
        "validation": "0.125",
    }
    assert "validation" not in headline(shown_metrics(config, {"reward_mean": 0.5}))
    assert "validation" not in headline(shown_metrics(_config(tmp_path), metrics))


@pytest.mark.parametrize(("values", "ended"), [((0.1, 0.4, 0.2, 0.3), True), ((0.1, 0.4, 0.2), False)])
def test_done_says_why_a_run_ended_and_which_version_was_the_best(
    values: tuple[float, ...], ended: bool, tmp_path: Path
) -> None:
    config = _config(tmp_path, every=1, patience=2)
    with RunDirectory.open(config) as directory:
        _write(directory.paths.metrics, *({"step": step} for step in range(3)))
        lines = ({"version": version, "pass_at_1": value} for version, value in enumerate(values))
        _write(directory.paths.dynamics, *lines)
        directory.mark_done(_summary(config, directory))
        summary = json.loads(directory.paths.done.read_text())
        assert summary["best"] == {"adapter": str(tmp_path / "run" / "best"), "version": 1, "pass_at_1": 0.4}
        assert summary["steps"] == (3 if ended else 9)
        assert ("2 validations in a row without" in summary.get("ended", "")) == ended
        stream = io.StringIO()
        _show_outcome(directory, ProgressDisplay(console=Console(file=stream, width=300)))
    assert f"best      {tmp_path}/run/best (version 1)" in stream.getvalue()
    assert ("ended     after 3 steps, early stopping" in stream.getvalue()) == ended


def test_more_patience_takes_a_finished_run_up_again(tmp_path: Path) -> None:
    with RunDirectory.open(_config(tmp_path, patience=2)) as directory:
        _write(directory.paths.metrics, {"step": 0})
        directory.mark_done({})
    with RunDirectory.open(_config(tmp_path, patience=2)) as directory:
        assert directory.finished
    with RunDirectory.open(_config(tmp_path, patience=4)) as directory:
        assert not directory.finished
    with pytest.raises(ConfigError, match=r"evaluation\.every: 10 -> 3"):
        RunDirectory.open(_config(tmp_path, patience=4, every=3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learner": {"checkpoint_storage": "nosuch://x/y"}}, ConfigError, "fsspec client"),
        ({"evaluation": {"prompts": "validation"}}, DataError, "evaluation.prompts=held_out"),
        ({"tracking": [{"type": "tensorboard"}, {"type": "tensorboard"}]}, ConfigError, "tensorboard twice"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jobs.fleet.training_base", lambda model: (tmp_path, None))
    config = build_config(TrainConfig, {"name": "run", "runs_dir": str(tmp_path), **changes})
    with pytest.raises(error, match=message):
        check_inputs(config)
