"""Validation in the learner's loop: the best version is kept, patience ends the run, a resumed run is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from polyray.config.run import TrainConfig
from polyray.learner.loop import run_learner
from polyray.learner.policy import Policy
from polyray.learner.run_files import RunFiles
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate
from polyray.runs.jsonl import read_jsonl
from polyray.types import TrainingBatch, is_timing_key
from tests.unit.learner.loop_fixtures import Attempt, InMemory, start
from tests.unit.tiny_policy import train_config

VALUES = {0: 0.1, 1: 0.2, 2: 0.5, 3: 0.4, 4: 0.45, 5: 0.3, 6: 0.9}


def _config(staleness: int = 0, steps: int = 5, **evaluation: Any) -> TrainConfig:
    return train_config(
        learner={"steps": steps, "checkpoint_every": 2, "learning_rate": 0.02},
        rollout={"max_staleness": staleness},
        evaluation={"every": 1, "num_prompts": 4, "num_samples": 2, **evaluation},
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Attempt]:
    run_dir = tmp_path_factory.mktemp("validated")
    return run_dir, start(run_dir, model_dir, _config(), values=VALUES)


def _adapter(directory: Path) -> bytes:
    return (directory / "adapter_model.safetensors").read_bytes()


def _validated(run_dir: Path) -> list[int]:
    return [line["version"] for line in read_jsonl(run_dir / "dynamics.jsonl")]


def test_results_are_written_and_the_best_version_is_kept(unbroken: tuple[Path, Attempt]) -> None:
    run_dir, attempt = unbroken
    assert read_jsonl(run_dir / "dynamics.jsonl") == [
        {
            "phase": "rl",
            "step": version,
            "version": version,
            "pass_at_1": VALUES[version],
            "reward_mean": 0.5,
            "monitor/collapse": 0,
        }
        for version in range(6)
    ]
    assert _adapter(run_dir / "best") == attempt.coordination.published[2].tensors
    manifest = json.loads((run_dir / "best" / "polyray.json").read_text())
    assert (manifest["version"], manifest["metric"], manifest["value"]) == (2, "pass_at_1", 0.5)


def test_dynamics_alone_keep_no_best_version_and_are_the_same_after_a_resume(
    model_dir: Path, tmp_path: Path
) -> None:
    def config() -> TrainConfig:
        learner = {"steps": 5, "checkpoint_every": 2, "learning_rate": 0.02}
        rule = {"type": "drop", "share": 0.1, "in_a_row": 1}
        monitor = {"name": "worse", "metric": "validation/pass_at_1", "rule": rule}
        return train_config(learner=learner, dynamics={"every": 2}, monitors=[monitor])

    values = {0: 0.5, 2: 0.48, 4: 0.4, 5: 0.1}
    assert start(tmp_path / "a", model_dir, config(), values=values).finished
    lines = read_jsonl(tmp_path / "a" / "dynamics.jsonl")
    assert [(line["step"], line["pass_at_1"], line["monitor/worse"]) for line in lines] == [
        (0, 0.5, 0), (2, 0.48, 0), (4, 0.4, 1), (5, 0.1, 1),
    ]  # fmt: skip
    assert not (tmp_path / "a" / "best").exists()
    assert read_jsonl(tmp_path / "a" / "metrics.jsonl")[3]["monitor/worse"] == 1
    assert not start(tmp_path / "b", model_dir, config(), values=values, no_batch_at=3).finished
    assert start(tmp_path / "b", model_dir, config(), values=values).finished
    assert read_jsonl(tmp_path / "b" / "dynamics.jsonl") == lines


def test_a_line_has_the_values_of_the_version_that_its_step_made(unbroken: tuple[Path, Attempt]) -> None:
    run_dir, attempt = unbroken
    lines = read_jsonl(run_dir / "metrics.jsonl")
    assert [line["validation/version"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["validation/pass_at_1"] for line in lines] == [VALUES[version] for version in range(1, 6)]
    assert [line["policy_version"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(0 <= line["validation_s"] <= line["step_s"] for line in lines)
    assert attempt.coordination.reported[-1]["validation/version"] == 5


@pytest.mark.parametrize("ends", [{"no_batch_at": 3}, {"killed_at": 4}, {"no_delivery_at": 1}])
def test_an_interrupted_run_has_the_same_results_and_the_same_best(
    ends: dict[str, int], unbroken: tuple[Path, Attempt], model_dir: Path, tmp_path: Path
) -> None:
    assert not start(tmp_path, model_dir, _config(), values=VALUES, **ends).finished
    assert start(tmp_path, model_dir, _config(), values=VALUES).finished
    expected = unbroken[0]
    assert read_jsonl(tmp_path / "dynamics.jsonl") == read_jsonl(expected / "dynamics.jsonl")
    assert _reproducible(tmp_path) == _reproducible(expected)
    assert _adapter(tmp_path / "best") == _adapter(expected / "best")


def _reproducible(run_dir: Path) -> list[dict[str, Any]]:
    lines = read_jsonl(run_dir / "metrics.jsonl")
    return [{key: value for key, value in line.items() if not is_timing_key(key)} for line in lines]


def test_best_goes_back_with_a_run_that_goes_on_from_before_it(model_dir: Path, tmp_path: Path) -> None:
    """Version 3 was the best when the run died; after the resume it is another one, and it never happened."""
    first = start(tmp_path, model_dir, _config(), values=VALUES | {3: 0.8}, no_batch_at=3)
    assert _adapter(tmp_path / "best") == first.coordination.published[3].tensors
    second = start(tmp_path, model_dir, _config(), values=VALUES)
    assert second.finished
    assert json.loads((tmp_path / "best" / "polyray.json").read_text())["version"] == 2
    assert _adapter(tmp_path / "best") == first.coordination.published[2].tensors


def test_patience_ends_the_run_as_if_it_had_been_its_length(model_dir: Path, tmp_path: Path) -> None:
    config = _config(steps=6, patience=2)
    attempt = start(tmp_path, model_dir, config, values=VALUES | {4: 0.5})
    assert attempt.finished
    assert _validated(tmp_path) == [0, 1, 2, 3, 4]  # 3 and 4 are no better than 2
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert attempt.checkpoints == [2, 4]
    assert _adapter(tmp_path / "adapter") == attempt.coordination.published[4].tensors
    assert _adapter(tmp_path / "best") == attempt.coordination.published[2].tensors

    again = start(tmp_path, model_dir, config, values=VALUES)
    assert again.finished
    assert [payload.policy.version for payload in again.coordination.published] == [4]
    assert _validated(tmp_path) == [0, 1, 2, 3, 4]

    patient = start(tmp_path, model_dir, _config(steps=6, patience=3), values=VALUES)
    assert patient.finished
    assert _validated(tmp_path) == [0, 1, 2, 3, 4, 5]  # 5 is the third without an improvement
    assert patient.checkpoints == [5]
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["2", "4", "5"]


def test_with_staleness_only_checkpoints_and_the_end_wait(model_dir: Path, tmp_path: Path) -> None:
    attempt = start(tmp_path, model_dir, _config(staleness=1), values=VALUES, values_late_by=2)
    assert attempt.finished
    assert _validated(tmp_path) == [0, 1, 2, 3, 4, 5]
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line.get("validation/version") for line in lines] == [None, 1, None, 3, 5]
    states = {
        step: json.loads((tmp_path / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())["extra"]
        for step in (4, 5)
    }
    assert [version for version, _ in states[4]["validation"]["history"]] == [0, 1, 2, 3]
    assert [states[step]["coordinator"]["unvalidated"] for step in (4, 5)] == [[4], []]
    assert _adapter(tmp_path / "best") == attempt.coordination.published[2].tensors


def test_other_ranks_end_with_rank_0_and_write_nothing(model_dir: Path, tmp_path: Path) -> None:
    config = _config(steps=6, patience=1)
    policy = Policy(config, model_dir, "float32", torch.device("cpu"))
    coordination = Follower(config, policy, last_step=3)
    checkpoints: list[int] = []
    files = RunFiles(tmp_path, config)
    assert run_learner(config, policy, files, coordination, rank=1, checkpointed=checkpoints.append)
    assert checkpoints == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@dataclass
class Follower(InMemory):
    """View of rank 1: rank 0 publishes, and ends the run after `last_step`."""

    last_step: int = 0

    def next_batch(self, step: int) -> TrainingBatch | StepResult:
        super().publish(self.policy.payload(self.ledger.attempt, step))
        return super().next_batch(step)

    def agree(self, verdict: StepResult) -> StepResult:
        assert verdict is StepResult.GO_ON
        return (
            StepResult.FINISH if self.published[-1].policy.version + 1 == self.last_step else StepResult.GO_ON
        )

    def publish(self, payload: PolicyUpdate) -> Mapping[str, float] | None:
        raise AssertionError("only rank 0 publishes")

    def validation(self, version: int, wait: bool) -> Mapping[str, float] | None:
        raise AssertionError("only rank 0 validates")


@pytest.mark.parametrize(
    ("values", "metric", "warnings"),
    [
        ({0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}, "pass_at_1", 1),
        ({0: 0.2, 1: 0.0, 2: 0.0, 3: 0.0}, "pass_at_1", 0),
        ({0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}, "reward_mean", 0),
    ],
)
def test_a_first_validation_without_a_pass_is_warned_of_once(
    values: dict[int, float],
    metric: str,
    warnings: int,
    model_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = _config(steps=3, best_metric=metric)
    assert not start(tmp_path, model_dir, config, values=values, no_batch_at=2).finished
    assert start(tmp_path, model_dir, config, values=values).finished
    assert _validated(tmp_path) == [0, 1, 2, 3]
    said = [line for line in caplog.messages if line.startswith("pass_at_1 ")]
    assert len(said) == warnings
    assert all("evaluation.best_metric=reward_mean" in line for line in said)


def test_only_due_validations_are_requested(model_dir: Path, tmp_path: Path) -> None:
    attempt = start(tmp_path, model_dir, _config(every=3), values=VALUES)
    assert attempt.finished
    assert _validated(tmp_path) == [0, 3, 5]


def test_checkpoints_of_the_best_versions_stay(model_dir: Path, tmp_path: Path) -> None:
    config = _config(steps=6)
    config = config.model_copy(
        update={
            "learner": config.learner.model_copy(
                update={"checkpoint_every": 1, "keep_checkpoints": 1, "keep_best": 2}
            )
        }
    )
    start(tmp_path, model_dir, config, values=VALUES | {6: 0.0})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000002", "step-000004", "step-000006"]  # 0.5, 0.45, and the newest
