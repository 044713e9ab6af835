"""Messages of polyray train and the content of DONE; the run itself is in tests/integration."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError, DataError
from polyray.launch import train as train_job
from polyray.launch.fleet import Fleet
from polyray.launch.plan import RunPlan, plan_training
from polyray.launch.train import _show_outcome, _summary, train
from polyray.launch.watch import shown_metrics
from polyray.models.base import Base
from polyray.rollout import vllm_build
from polyray.runs.jsonl import JsonlWriter
from polyray.runs.progress import ProgressDisplay, headline
from polyray.runs.run_directory import RunDirectory
from polyray.serving.reward.run import RewardServiceAddress


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
        (
            {"evaluation": {}, "task": {"type": "jsonl", "path": "tiny.jsonl"}},
            DataError,
            "no validation prompts.*task.validation_share",
        ),
        ({"tracking": [{"type": "tensorboard"}, {"type": "tensorboard"}]}, ConfigError, "tensorboard twice"),
    ],
)
def test_impossible_run_is_refused_before_anything_starts(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.jsonl").write_text('{"prompt": "1", "reference": "1"}\n{"prompt": "2", "reference": "2"}\n')
    config = build_config(TrainConfig, {"name": "run", "runs_dir": str(tmp_path), **changes})
    with pytest.raises(error, match=message):
        plan_training(config)


def test_engines_that_cannot_run_here_are_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    with pytest.raises(
        ConfigError, match=r"^rollout\.gpus_per_worker=0, but vllm .* set rollout\.gpus_per_worker=1"
    ):
        plan_training(_config(tmp_path))


class _Ended(Exception):
    pass


class _Pool:
    """Calls of the driver, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def wait_until_ready(self) -> None:
        self.asked.append("all are ready")

    def sleep(self) -> None:
        self.asked.append("all sleep")


@pytest.mark.parametrize(
    ("rollout", "asked"),
    [
        ({"gpus_per_worker": 0.5}, ["all are ready"]),
        ({"num_workers": 2, "gpus_per_worker": 0.4, "gpu_memory_utilization": 0.3}, ["all are ready"]),
        ({"gpus_per_worker": 0.5, "sleep_between_steps": True}, ["all sleep"]),
        ({"gpus_per_worker": 1}, []),
        ({"gpus_per_worker": 0}, []),
    ],
)
def test_the_learner_starts_when_the_engines_beside_it_on_a_gpu_have_taken_their_memory(
    rollout: dict[str, Any], asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = _Pool()

    def start(config: TrainConfig, fleet: Fleet) -> None:
        pool.asked.append("the learner starts")
        raise _Ended

    monkeypatch.setattr(train_job, "_start_coordinator", start)
    fleet = Fleet(pool, RewardServiceAddress("reward", "url"))  # type: ignore[arg-type]
    values = {"name": "run", "runs_dir": str(tmp_path), "rollout": rollout}
    config = build_config(TrainConfig, values)
    with RunDirectory.open(config) as directory, pytest.raises(_Ended):
        train(
            RunPlan(config, Base(tmp_path, ""), "float32"),
            directory,
            fleet,
            ProgressDisplay(console=Console(file=io.StringIO())),
        )
    assert pool.asked == [*asked, "the learner starts"]
