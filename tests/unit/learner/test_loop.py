"""The whole loop without Ray: it ends, stops, resumes, and an interrupted run equals an unbroken one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyray.learner.checkpoint_storage import CheckpointStorage
from polyray.learner.loop import run_learner
from polyray.learner.policy import Policy
from polyray.learner.run_files import RunFiles
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate
from polyray.runs.jsonl import read_jsonl
from polyray.types import TrainingBatch
from tests.conftest import reproducible
from tests.unit.learner.loop_fixtures import Attempt, InMemory, start
from tests.unit.tiny_policy import train_config

STEPS = 4
CONFIG = train_config(learner={"steps": STEPS, "checkpoint_every": 2, "learning_rate": 0.02})


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Attempt]:
    run_dir = tmp_path_factory.mktemp("unbroken")
    return run_dir, start(run_dir, model_dir, CONFIG)


def _adapter(directory: Path) -> bytes:
    return (directory / "adapter_model.safetensors").read_bytes()


def test_unbroken_run_publishes_and_writes_every_version(unbroken: tuple[Path, Attempt]) -> None:
    run_dir, attempt = unbroken
    assert attempt.finished
    assert attempt.checkpoints == [2, 4]
    assert attempt.coordination.snapshots_given == [None]
    assert [payload.policy.version for payload in attempt.coordination.published] == list(range(STEPS + 1))
    assert {payload.policy.attempt for payload in attempt.coordination.published} == {1}
    lines = read_jsonl(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["policy_version"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == attempt.coordination.reported
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-000002", "step-000004"]
    assert sorted(path.name for path in (run_dir / "versions").iterdir()) == ["2", "4"]
    assert _adapter(run_dir / "adapter") == attempt.coordination.published[-1].tensors
    for version in (2, 4):
        on_disk = _adapter(run_dir / "versions" / str(version))
        assert on_disk == attempt.coordination.published[version].tensors
    published = attempt.coordination.published
    assert len({payload.policy.sha256 for payload in published}) == STEPS + 1
    for before, after in pairwise(published):
        np.testing.assert_array_equal(after.probe.previous, before.probe.logprobs)
    for line in lines:
        assert line["kl_rollout"] < 1e-9 and line["grad_norm"] > 0
        assert line["masked_sequence_share"] == 0


@pytest.mark.parametrize(
    ("ends", "lines_left", "covered"),
    [
        ({"no_delivery_at": 0}, 0, 0),
        ({"no_delivery_at": 4}, 3, 2),
        ({"killed_at": 4}, 4, 2),  # step 3 is in the log, its checkpoint is not
        ({"no_batch_at": 1}, 1, 0),  # before the first checkpoint: all of it again
        ({"no_batch_at": 2}, 2, 2),  # right after one: nothing twice
        ({"drained_at": 3}, 3, 3),  # a run that is drained leaves a checkpoint of its own
        ({"drained_at": 2}, 2, 2),
    ],
)
def test_interrupted_run_equals_an_unbroken_one(
    ends: dict[str, Any],
    lines_left: int,
    covered: int,
    unbroken: tuple[Path, Attempt],
    model_dir: Path,
    tmp_path: Path,
) -> None:
    first = start(tmp_path, model_dir, CONFIG, **ends)
    assert not first.finished
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == lines_left
    assert not (tmp_path / "adapter").exists()

    second = start(tmp_path, model_dir, CONFIG)
    assert second.finished
    (snapshot,) = second.coordination.snapshots_given
    assert snapshot is None if covered == 0 else snapshot["version"] == covered
    assert [payload.policy.version for payload in second.coordination.published] == list(
        range(covered, STEPS + 1)
    )
    assert {payload.policy.attempt for payload in second.coordination.published} == {1 if covered == 0 else 2}
    expected_dir, expected = unbroken
    for name in ("metrics.jsonl", "rollouts.jsonl", "ledger.jsonl"):
        lines = reproducible(tmp_path / name)
        assert lines == reproducible(expected_dir / name)
        assert len(lines) == STEPS
    assert _adapter(tmp_path / "adapter") == _adapter(expected_dir / "adapter")
    for payload in second.coordination.published:
        version = payload.policy.version
        assert payload.tensors == expected.coordination.published[version].tensors


def test_drained_run_ends_after_the_copy_of_its_newest_checkpoint(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = CheckpointStorage.upload

    def slowly(*arguments: Any) -> None:
        time.sleep(0.5)
        copy(*arguments)

    monkeypatch.setattr(CheckpointStorage, "upload", slowly)
    learner = {"steps": STEPS, "checkpoint_every": 2, "checkpoint_storage": f"file://{tmp_path}/far"}
    start(tmp_path / "run", model_dir, train_config(learner=learner), drained_at=2)
    assert [path.parent.name for path in (tmp_path / "far").rglob("manifest.json")] == ["step-000002"]


def test_finished_run_started_again_repeats_nothing(unbroken: tuple[Path, Attempt], model_dir: Path) -> None:
    run_dir, _ = unbroken
    before = (run_dir / "metrics.jsonl").read_bytes(), _adapter(run_dir / "adapter")
    again = start(run_dir, model_dir, CONFIG)
    assert again.finished
    assert [payload.policy.version for payload in again.coordination.published] == [STEPS]
    assert ((run_dir / "metrics.jsonl").read_bytes(), _adapter(run_dir / "adapter")) == before


def test_every_version_is_kept_where_asked(model_dir: Path, tmp_path: Path) -> None:
    config = train_config(
        learner={"steps": 2, "checkpoint_every": 9, "learning_rate": 0.02}, delivery={"keep_versions": "all"}
    )
    assert start(tmp_path, model_dir, config).checkpoints == [2]
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["1", "2"]


def test_other_ranks_train_alike_but_publish_and_write_nothing(
    unbroken: tuple[Path, Attempt], model_dir: Path, tmp_path: Path
) -> None:
    policy = Policy(CONFIG, model_dir, "float32", torch.device("cpu"))
    coordination = _Follower(CONFIG, policy)
    checkpoints: list[int] = []
    files = RunFiles(tmp_path, CONFIG)
    assert run_learner(CONFIG, policy, files, coordination, rank=1, checkpointed=checkpoints.append)
    assert checkpoints == [2, 4]
    assert coordination.reported == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert policy.payload(1, STEPS).tensors == unbroken[1].coordination.published[-1].tensors


class _Follower(InMemory):
    """View of rank 1: a version is published before every batch."""

    def next_batch(self, step: int) -> TrainingBatch | StepResult:
        super().publish(self.policy.payload(self.ledger.attempt, step))
        return super().next_batch(step)

    def publish(self, payload: PolicyUpdate) -> Mapping[str, float] | None:
        raise AssertionError("only rank 0 publishes")

    def snapshot(self) -> Mapping[str, Any]:
        raise AssertionError("only rank 0 takes checkpoints")
