"""Checkpoints under a full disk, a truncated file and a jumping clock.

After each fault the run equals one without it. The whole loop is in one process, as only files and time fail.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest

import polyray.learner.checkpoints as checkpoints
from polyray.runs.jsonl import read_jsonl
from tests.conftest import reproducible
from tests.full_disk import small_files_only
from tests.unit.learner.loop_fixtures import Attempt, start
from tests.unit.tiny_policy import save_base, train_config

pytestmark = pytest.mark.chaos
STEPS = 4
CONFIG = train_config(learner={"steps": STEPS, "checkpoint_every": 1, "learning_rate": 0.02})
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    run_dir = tmp_path_factory.mktemp("unbroken")
    assert start(run_dir, model_dir, CONFIG).finished
    return run_dir


def assert_the_same(run_dir: Path, unbroken: Path) -> None:
    for name in ("metrics.jsonl", "rollouts.jsonl", "ledger.jsonl"):
        assert reproducible(run_dir / name) == reproducible(unbroken / name)
    assert len(read_jsonl(run_dir / "metrics.jsonl")) == STEPS
    name = "adapter/adapter_model.safetensors"
    assert (run_dir / name).read_bytes() == (unbroken / name).read_bytes()


def test_a_disk_that_is_full_at_a_checkpoint(
    unbroken: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, tried = checkpoints.CheckpointStore.save, []

    def full_once(store: Any, step: int, *arguments: Any, **options: Any) -> Any:
        tried.append(step)
        if step != 2:
            return save(store, step, *arguments, **options)
        with small_files_only(2000):
            return save(store, step, *arguments, **options)

    monkeypatch.setattr(checkpoints.CheckpointStore, "save", full_once)
    first = start(tmp_path, model_dir, CONFIG, killed_at=3)  # dies before the checkpoint of step 3
    assert not first.finished and tried == [1, 2]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-000001"]
    assert start(tmp_path, model_dir, CONFIG).finished
    assert_the_same(tmp_path, unbroken)


def test_a_last_checkpoint_that_was_cut_off(unbroken: Path, model_dir: Path, tmp_path: Path) -> None:
    assert not start(tmp_path, model_dir, CONFIG, killed_at=4).finished
    newest = tmp_path / "checkpoints" / "step-000003"
    largest = max(
        (path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2])
    second: Attempt = start(tmp_path, model_dir, CONFIG)
    assert second.finished
    (snapshot,) = second.coordination.snapshots_given
    assert snapshot is not None and snapshot["version"] == 2  # the one before
    assert_the_same(tmp_path, unbroken)


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
def test_clock_that_jumps_does_not_change_the_run(
    jump_s: float, unbroken: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run meets the jump; test_layering.py forbids decisions by wall clock."""
    real, asked = time.time, []

    def jumping() -> float:
        asked.append(True)
        return real() + jump_s * (len(asked) % 2)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.fromtimestamp(jumping(), tz)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(datetime, "datetime", Jumping)
    assert start(tmp_path, model_dir, CONFIG).finished
    assert_the_same(tmp_path, unbroken)
