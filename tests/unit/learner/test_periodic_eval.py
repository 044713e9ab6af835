"""Validation in the learner's loop: the best version is kept, patience ends the run, a resumed run is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from polyray.config.run import TrainConfig
from polyray.learner.loop import run_learner
from polyray.learner.periodic_eval import EvalResults
from polyray.learner.policy import Policy
from polyray.learner.run_files import RunFiles
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate
from polyray.runs.jsonl import read_jsonl
from polyray.types import PolicyVersion, TrainingBatch, is_timing_key
from tests.unit.learner.loop_fixtures import Attempt, InMemory, start
from tests.unit.tiny_policy import train_config

VALUES = {0: 0.1, 1: 0.2, 2: 0.5, 3: 0.4, 4: 0.45, 5: 0.3, 6: 0.9}


def _config(
    steps: int = 5, staleness: int = 0, evaluation: Mapping[str, Any] | None = None, **learner: Any
) -> TrainConfig:
    return train_config(
        learner={"steps": steps, "checkpoint_every": 2, "learning_rate": 0.02, **learner},
        rollout={"max_staleness": staleness},
        evaluation={"every": 1, "num_prompts": 4, "num_samples": 2, **(evaluation or {})},
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Attempt]:
    run_dir = tmp_path_factory.mktemp("validated")
    return run_dir, start(run_dir, model_dir, _config(), values=VALUES)


def _adapter(directory: Path) -> bytes:
    return (directory / "adapter_model.safetensors").read_bytes()


def _validated(run_dir: Path) -> list[int]:
    return [line["version"] for line in read_jsonl(run_dir / "dynamics.jsonl")]


def test_results_go_to_dynamics_metrics_and_best(unbroken: tuple[Path, Attempt]) -> None:
    """A line of metrics has the values of the version that its step made."""
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
    lines = read_jsonl(run_dir / "metrics.jsonl")
    found = [
        (line["policy_version"], line["validation/version"], line["validation/pass_at_1"]) for line in lines
    ]
    assert found == [(version, version, VALUES[version]) for version in range(1, 6)]
    assert all(line["monitor/collapse"] == 0 <= line["validation_s"] <= line["step_s"] for line in lines)
    assert attempt.coordination.reported[-1]["validation/version"] == 5
    assert _adapter(run_dir / "best") == attempt.coordination.published[2].tensors
    manifest = json.loads((run_dir / "best" / "polyray.json").read_text())
    assert (manifest["version"], manifest["metric"], manifest["value"]) == (2, "pass_at_1", 0.5)


def test_dynamics_without_evaluation_keep_no_best_version_and_equal_after_resume(
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


@pytest.mark.parametrize("ends", [{"no_batch_at": 3}, {"killed_at": 4}, {"no_delivery_at": 1}])
def test_interrupted_run_has_the_same_results_and_best(
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


def test_best_adapter_is_restored_with_an_earlier_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    """Version 3 was the best when the run died; after the resume it is another one, and it never happened."""
    first = start(tmp_path, model_dir, _config(), values=VALUES | {3: 0.8}, no_batch_at=3)
    assert _adapter(tmp_path / "best") == first.coordination.published[3].tensors
    second = start(tmp_path, model_dir, _config(), values=VALUES)
    assert second.finished
    assert json.loads((tmp_path / "best" / "polyray.json").read_text())["version"] == 2
    assert _adapter(tmp_path / "best") == first.coordination.published[2].tensors


def test_patience_ends_the_run_and_more_patience_continues_it(model_dir: Path, tmp_path: Path) -> None:
    config = _config(6, evaluation={"patience": 2})
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

    patient = start(tmp_path, model_dir, _config(6, evaluation={"patience": 3}), values=VALUES)
    assert patient.finished
    assert _validated(tmp_path) == [0, 1, 2, 3, 4, 5]  # 5 is the third without an improvement
    assert patient.checkpoints == [5]
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["2", "4", "5"]


def test_stale_run_waits_for_results_at_checkpoints_and_the_end(model_dir: Path, tmp_path: Path) -> None:
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
    config = _config(6, evaluation={"patience": 1})
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
    ("first", "metric", "warned"),
    [(0.0, "pass_at_1", True), (0.2, "pass_at_1", False), (0.0, "reward_mean", False)],
)
def test_first_due_result_without_a_pass_is_warned_of_once(
    first: float, metric: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Validator:
        def validation(self, version: int, wait: bool) -> Mapping[str, float]:
            return {metric: 0.0 if version else first}

    def evaluated(state: Any, versions: range) -> EvalResults:
        results = EvalResults(config, tmp_path, lambda content, directory, manifest: None)
        results.restore(state, {}, writes=True)
        for version in versions:
            update: Any = SimpleNamespace(policy=PolicyVersion(1, version, "a"), tensors=b"")
            results.published(update)
            results.collect(Validator(), last=False)
        return results

    config = _config(evaluation={"every": 2, "best_metric": metric})
    state = evaluated(None, range(3)).state()
    assert evaluated(state, range(2, 6)).scores == {0: first, 2: 0.0, 4: 0.0, 5: 0.0}
    assert _validated(tmp_path) == [0, 2, 4, 5]
    said = [line for line in caplog.messages if "evaluation.best_metric=reward_mean" in line]
    assert len(said) == warned


def test_checkpoints_of_best_versions_are_kept(model_dir: Path, tmp_path: Path) -> None:
    config = _config(6, checkpoint_every=1, keep_checkpoints=1, keep_best=2)
    start(tmp_path, model_dir, config, values=VALUES | {6: 0.0})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000002", "step-000004", "step-000006"]  # 0.5, 0.45, and the newest
