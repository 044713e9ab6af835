"""Messages of polyray train and the content of DONE; the run itself is in tests/integration."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from polyray.config.loader import build_config
from polyray.config.run import TrainConfig
from polyray.errors import ConfigError, DataError
from polyray.launch import fleet as fleet_module
from polyray.launch import plan as plan_module
from polyray.launch import train as train_job
from polyray.launch.fleet import Fleet
from polyray.launch.plan import RunPlan, plan_training
from polyray.launch.train import _show_outcome, _summary, train
from polyray.launch.watch import shown_metrics
from polyray.models.base import Base
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


def test_shown_metrics_are_idle_shares_and_the_newest_validation(tmp_path: Path) -> None:
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


def test_shown_metrics_have_pass_at_k_only_where_a_completion_can_pass(tmp_path: Path) -> None:
    metrics = {"reward_mean": 0.5, "pass_at_1": 0.0, "pass_at_8": 0.0}
    values = {"name": "run", "runs_dir": str(tmp_path), "learner": {"steps": 9}}
    for reward, labels in (("verifier", ["reward", "pass@1", "pass@8"]), ("heuristic", ["reward"])):
        config = build_config(TrainConfig, {**values, "reward": {"type": reward}})
        assert list(headline(shown_metrics(config, metrics))) == labels


@pytest.mark.parametrize(("values", "ended"), [((0.1, 0.4, 0.2, 0.3), True), ((0.1, 0.4, 0.2), False)])
def test_done_names_the_reason_of_the_end_and_the_best_version(
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
        assert summary["steps"] == 3
        assert ("2 validations in a row without" in summary.get("ended", "")) == ended
        stream = io.StringIO()
        _show_outcome(directory, ProgressDisplay(console=Console(file=stream, width=300)))
    assert f"best      {tmp_path}/run/best (version 1)" in stream.getvalue()
    assert ("ended     after 3 steps, early stopping" in stream.getvalue()) == ended


def test_finished_run_resumes_with_more_patience_only(tmp_path: Path) -> None:
    with RunDirectory.open(_config(tmp_path, patience=2)) as directory:
        _write(directory.paths.metrics, {"step": 0})
        directory.mark_done({})
    with RunDirectory.open(_config(tmp_path, patience=2)) as directory:
        assert directory.finished
    with RunDirectory.open(_config(tmp_path, patience=4)) as directory:
        assert not directory.finished
    with pytest.raises(ConfigError, match=r"evaluation\.every: 10 -> 3"):
        RunDirectory.open(_config(tmp_path, patience=4, every=3))


def test_finished_run_with_more_steps_trains_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train_to_the_end(plan: Any, directory: RunDirectory, *_: Any) -> None:
        steps = plan.config.learner.steps
        trained.append(steps)
        _write(directory.paths.metrics, *({"step": step} for step in range(steps)))
        directory.mark_done(_summary(plan.config, directory))

    @contextmanager
    def opened(*_: Any) -> Iterator[None]:
        yield

    def planned(config: TrainConfig) -> Any:
        return SimpleNamespace(config=config, fleet=SimpleNamespace(parts=()))

    monkeypatch.setattr(train_job, "train", train_to_the_end)
    for name in ("open_ray", "open_fleet"):
        monkeypatch.setattr(fleet_module, name, opened)
    monkeypatch.setattr(plan_module, "plan_training", planned)
    config = _config(tmp_path)
    longer = config.model_copy(update={"learner": config.learner.model_copy(update={"steps": 12})})
    for asked in (config, config, longer):
        train_job.run_training(asked)
    assert trained == [9, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"checkpoint_storage": "nosuch://x/y"}}, "fsspec client"),
        ({"evaluation": {}, "task": {"type": "jsonl", "path": "tiny.jsonl"}}, "no validation prompts.*share"),
        ({"tracking": [{"type": "tensorboard"}, {"type": "tensorboard"}]}, "tensorboard twice"),
    ],
)
def test_plan_training_refuses_an_impossible_run(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.jsonl").write_text('{"prompt": "1", "reference": "1"}\n{"prompt": "2", "reference": "2"}\n')
    config = build_config(TrainConfig, {"name": "run", "runs_dir": str(tmp_path), **changes})
    with pytest.raises((ConfigError, DataError), match=message):
        plan_training(config)


@pytest.mark.parametrize(
    ("rollout", "calls"),
    [
        ({"gpus_per_worker": 0.5}, ["wait_until_ready"]),
        ({"num_workers": 2, "gpus_per_worker": 0.4, "gpu_memory_utilization": 0.3}, ["wait_until_ready"]),
        ({"gpus_per_worker": 0.5, "sleep_between_steps": True}, ["sleep"]),
        ({"gpus_per_worker": 1}, []),
        ({"gpus_per_worker": 0}, []),
    ],
)
def test_learner_starts_after_engines_on_its_gpu_have_taken_or_released_memory(
    rollout: dict[str, Any], calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    pool = Mock()
    monkeypatch.setattr(train_job, "_start_coordinator", pool.start)
    pool.start.side_effect = Ended
    fleet = Fleet(pool, RewardServiceAddress("reward", "url"))
    config = build_config(TrainConfig, {"name": "run", "runs_dir": str(tmp_path), "rollout": rollout})
    plan = RunPlan(config, Base(tmp_path, ""), "float32")
    with RunDirectory.open(config) as directory, pytest.raises(Ended):
        train(plan, directory, fleet, ProgressDisplay(console=Console(file=io.StringIO())))
    assert [call[0] for call in pool.method_calls] == [*calls, "start"]


def test_plan_of_a_run_whose_prompts_were_measured_needs_neither_tokenizer_nor_torch(
    train_values: Callable[..., dict[str, Any]],
) -> None:
    values = train_values("planned")
    code = (
        "import json, sys; from polyray.config.loader import build_config;"
        "from polyray.config.run import TrainConfig;"
        "from polyray.launch.plan import plan_training;"
        "plan = plan_training(build_config(TrainConfig, json.loads(sys.argv[1])), measure_prompts=False);"
        "print(plan.learner_dtype, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, json.dumps(values)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert made.stdout.split() == ["float32", "[]"]
