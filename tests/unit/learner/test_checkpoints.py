"""Retention of checkpoints, copies behind a URL, and full disks."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fsspec
import pytest

from polyray.config.run import TrainConfig
from polyray.errors import CheckpointError, ConfigError
from polyray.learner.checkpoint_storage import CheckpointStorage
from polyray.learner.checkpoints import CheckpointStore, best_steps
from polyray.learner.state import save_checkpoint
from polyray.learner.step import PolicyLearner
from polyray.runs.atomic import atomic_directory
from tests.full_disk import small_files_only
from tests.unit.learner.step_fixtures import build_learner
from tests.unit.tiny_policy import train_config


@pytest.fixture(scope="module")
def learner() -> PolicyLearner:
    return build_learner(train_config())


def _config(**learner: Any) -> TrainConfig:
    return train_config(learner=learner)


def _save(
    store: CheckpointStore,
    step: int,
    learner: PolicyLearner,
    *,
    scores: dict[int, float] | None = None,
    last: bool = False,
    payload: bytes = b"waits",
) -> None:
    def write(also_keep: Collection[int]) -> Path:
        return save_checkpoint(
            store.directory,
            step,
            learner.model,
            learner.optimizer,
            learner.scheduler,
            adapter_manifest={"base_sha256": "b" * 64},
            extra={"step": step},
            extra_files={"coordinator/group": payload},
            keep=2,
            also_keep=also_keep,
        )

    store.save(step, write, scores or {}, needed=lambda: 3 * 2**20, last=last)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*") if not path.name.endswith(".lock"))


def test_best_steps_have_the_best_values_and_ties_keep_the_earlier() -> None:
    scores = {2: 0.5, 4: 0.7, 6: 0.5, 8: 0.1}
    assert best_steps(scores, 2, "max") == [4, 2]
    assert best_steps(scores, 2, "min") == [8, 2]
    assert best_steps(scores, 0, "max") == []


def test_the_best_stay_beside_the_newest(tmp_path: Path, learner: PolicyLearner) -> None:
    store = CheckpointStore(_config(keep_best=1, best_metric="reward_mean"), tmp_path)
    scores = {1: 0.2, 2: 0.9, 3: 0.3, 4: 0.4, 5: 0.1}
    for step in range(1, 6):
        _save(store, step, learner, scores={k: v for k, v in scores.items() if k <= step})
    assert _names(tmp_path) == ["step-000002", "step-000004", "step-000005"]


def test_a_metric_is_needed_for_best_checkpoints() -> None:
    with pytest.raises(ValueError, match=r"learner\.keep_best=1"):
        _config(keep_best=1)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_run_with_a_lost_disk_resumes_from_its_storage(
    scheme: str, tmp_path: Path, learner: PolicyLearner
) -> None:
    url = f"file://{tmp_path}/far" if scheme == "file" else f"memory://{tmp_path.name}/far"
    config, here = _config(checkpoint_storage=url), tmp_path / "run" / "checkpoints"
    here.mkdir(parents=True)
    for name in ("metrics", "ledger", "dynamics", "rollouts"):
        (here.parent / f"{name}.jsonl").write_text(f'{{"of": "{name}"}}\n')
    store = CheckpointStore(config, here)
    for step in (1, 2, 3):
        _save(store, step, learner, payload=bytes([step]), last=step == 3)
    shutil.rmtree(tmp_path / "run")

    found = CheckpointStore(config, here).newest()
    assert found is not None
    assert (found.step, found.extra, found.extra_files()) == (3, {"step": 3}, {"coordinator/group": b"\x03"})
    assert _names(here) == ["step-000003"]
    for name in ("metrics", "ledger", "dynamics", "rollouts"):
        assert (here.parent / f"{name}.jsonl").read_text() == f'{{"of": "{name}"}}\n'
    far = fsspec.filesystem(scheme)
    root = f"{tmp_path}/far" if scheme == "file" else f"/{tmp_path.name}/far"
    names = sorted(str(path).rpartition("/")[2] for path in far.ls(f"{root}/tiny/checkpoints", detail=False))
    assert names == ["step-000002", "step-000003"]  # those that were kept here


def test_newest_valid_checkpoint_of_disk_and_storage_counts(tmp_path: Path, learner: PolicyLearner) -> None:
    config, here = _config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "run" / "checkpoints"
    store = CheckpointStore(config, here)
    for step in (2, 4):
        _save(store, step, learner, last=True)
    far = tmp_path / "far" / "tiny" / "checkpoints"
    shutil.rmtree(here / "step-000004")
    _damage(far / "step-000004" / "state.json")
    found = store.newest()  # the newest there is damaged, the one before is here
    assert found is not None and found.step == 2
    shutil.rmtree(here / "step-000002")
    found = store.newest()
    assert found is not None and found.step == 2
    assert _names(here) == ["step-000002"]
    (far / "step-000002" / "manifest.json").unlink()  # as an upload that never ended leaves it
    shutil.rmtree(here / "step-000002")
    assert store.newest() is None


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def test_checkpoints_of_another_configuration_are_refused(tmp_path: Path, learner: PolicyLearner) -> None:
    url = f"file://{tmp_path}/far"
    _save(CheckpointStore(_config(checkpoint_storage=url), tmp_path / "a"), 2, learner, last=True)
    other = _config(checkpoint_storage=url, learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"learner\.learning_rate: 0\.01 -> 0\.5"):
        CheckpointStore(other, tmp_path / "b").newest()
    longer = _config(checkpoint_storage=url, steps=99)
    found = CheckpointStore(longer, tmp_path / "c").newest()
    assert found is not None and found.step == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere", "URL"),
        ("s3://key:secret@bucket/x", "password"),
    ],
)
def test_urls_that_are_refused_at_once(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        _config(checkpoint_storage=url)
    assert "secret" not in str(error.value).partition("input_value")[0]


def test_an_unknown_scheme_is_refused_when_the_run_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fsspec"):
        CheckpointStore(_config(checkpoint_storage="nosuch://x/y"), tmp_path)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, learner: PolicyLearner, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(_config(max_checkpoint_failures=3), tmp_path)
    _save(store, 1, learner)
    for step in (2, 3):
        with small_files_only(2000):
            _save(store, step, learner)
    assert _names(tmp_path) == ["step-000001"]  # and nothing half-written
    ours = [record for record in caplog.records if record.name.startswith("polyray.learner")]
    first, second = (record.getMessage() for record in ours if record.levelname == "ERROR")
    assert f"{tmp_path / 'step-000002'} " in first and ": File too large" in first
    assert re.search(r"\b3\.0 MiB .*\bMiB\b", first)
    assert re.search(r"\(2 of .*\b2\b", second)
    _save(store, 4, learner)  # there is space again, and the count begins anew
    for step in (5, 6):
        with small_files_only(2000):
            _save(store, step, learner)
    with (
        small_files_only(2000),
        pytest.raises(CheckpointError, match=r"\b3\b.*max_checkpoint_failures=3"),
    ):
        _save(store, 7, learner)
    assert _names(tmp_path) == ["step-000001", "step-000004"]


def test_the_last_checkpoint_must_be_kept(tmp_path: Path, learner: PolicyLearner) -> None:
    store = CheckpointStore(_config(), tmp_path)
    with small_files_only(2000), pytest.raises(CheckpointError, match="last checkpoint"):
        _save(store, 6, learner, last=True)
    assert _names(tmp_path) == []


def test_a_storage_that_fails_costs_copies_and_not_the_run(
    tmp_path: Path, learner: PolicyLearner, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(_config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "here")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "tiny").write_text("in the way")
    _save(store, 1, learner)
    _save(store, 2, learner)
    assert _names(tmp_path / "here") == ["step-000001", "step-000002"]
    assert "file://" in caplog.text
    with pytest.raises(CheckpointError, match="last checkpoint"):
        _save(store, 3, learner, last=True)


def test_a_storage_that_hangs_does_not_hold_the_run(
    tmp_path: Path, learner: PolicyLearner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyray.learner.checkpoints.COPY_TIMEOUT_S", 0.05)
    released = threading.Event()
    monkeypatch.setattr(CheckpointStorage, "upload", lambda *arguments: released.wait(30))
    store = CheckpointStore(_config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "here")
    started = time.monotonic()
    for step in (1, 2):
        _save(store, step, learner)
    assert time.monotonic() - started < 20
    assert re.search(r"TimeoutError: .*\b0\.05 s\b", caplog.text)
    released.set()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_extra_files_stay_within_the_checkpoint(name: str, tmp_path: Path, learner: PolicyLearner) -> None:
    with pytest.raises(ValueError, match="relative"):
        save_checkpoint(
            tmp_path,
            1,
            learner.model,
            learner.optimizer,
            learner.scheduler,
            adapter_manifest={"base_sha256": "b" * 64},
            extra={},
            extra_files={name: b""},
            keep=1,
        )


def test_logs_that_are_here_are_not_replaced_by_older_ones(tmp_path: Path, learner: PolicyLearner) -> None:
    config, here = _config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "run" / "checkpoints"
    _save(CheckpointStore(config, here), 2, learner, last=True)
    with atomic_directory(here / "step-000002"):
        pass  # damaged: empty
    (here.parent / "metrics.jsonl").write_text("")
    (tmp_path / "far" / "tiny" / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    found = CheckpointStore(config, here).newest()
    assert found is not None and found.step == 2
    assert (here.parent / "metrics.jsonl").read_text() == ""


def test_stored_data_record_is_restored_before_that_of_a_later_start(
    tmp_path: Path, learner: PolicyLearner
) -> None:
    config, here = _config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "run" / "checkpoints"
    here.mkdir(parents=True)
    record = here.parent / "data.json"
    record.write_text('{"task.path": ["as it was"], "task.held_out_path": ["the same"]}')
    _save(CheckpointStore(config, here), 2, learner, last=True)
    shutil.rmtree(tmp_path / "run")
    here.mkdir(parents=True)
    record.write_text('{"task.path": ["as it is"], "task.held_out_path": ["the same"]}')  # at the start there
    CheckpointStore(config, here).newest()
    assert json.loads(record.read_text()) == {
        "task.path": ["as it was", "as it is"],
        "task.held_out_path": ["the same"],
    }
