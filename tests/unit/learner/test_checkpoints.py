"""Retention of checkpoints, copies behind a URL, and full disks."""

from __future__ import annotations

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
from tests.full_disk import small_files_only
from tests.unit.learner.step_fixtures import build_learner
from tests.unit.tiny_policy import train_config

LOGS = ("metrics", "ledger", "dynamics", "rollouts")


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
    last: bool = False,
    scores: dict[int, float] | None = None,
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
            extra_files={"coordinator/group": bytes([step])},
            keep=2,
            also_keep=also_keep,
        )

    store.save(step, write, scores or {}, needed=lambda: 3 * 2**20, last=last)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*") if not path.name.endswith(".lock"))


def _newest(store: CheckpointStore) -> int | None:
    found = store.newest()
    return None if found is None else found.step


def test_best_checkpoints_stay_beside_the_newest(tmp_path: Path, learner: PolicyLearner) -> None:
    ties = {2: 0.5, 4: 0.7, 6: 0.5, 8: 0.1}
    assert [best_steps(ties, 2, mode) for mode in ("max", "min")] == [[4, 2], [8, 2]]
    store = CheckpointStore(_config(keep_best=1, best_metric="reward_mean"), tmp_path)
    scores = {1: 0.2, 2: 0.9, 3: 0.3, 4: 0.4, 5: 0.1}
    for step in range(1, 6):
        _save(store, step, learner, scores={at: value for at, value in scores.items() if at <= step})
    assert _names(tmp_path) == ["step-000002", "step-000004", "step-000005"]


def test_best_checkpoint_stays_in_the_storage_after_the_disk_is_lost(
    tmp_path: Path, learner: PolicyLearner
) -> None:
    config = _config(keep_best=1, best_metric="reward_mean", checkpoint_storage=f"file://{tmp_path}/far")
    here, far = tmp_path / "run" / "checkpoints", tmp_path / "far" / "tiny" / "checkpoints"
    scores = {1: 0.9, 2: 0.2, 3: 0.3, 4: 0.4}
    store = CheckpointStore(config, here)
    for step in (1, 2, 3):
        _save(store, step, learner, scores=scores, last=step == 3)
    shutil.rmtree(tmp_path / "run")
    store = CheckpointStore(config, here)
    assert _newest(store) == 3
    _save(store, 4, learner, scores=scores)
    store.finish()
    assert _names(far) == ["step-000001", "step-000003", "step-000004"]


def test_copy_under_way_is_waited_for_at_the_end(
    tmp_path: Path, learner: PolicyLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = CheckpointStorage.upload

    def slowly(*arguments: Any) -> None:
        time.sleep(0.5)
        copy(*arguments)

    monkeypatch.setattr(CheckpointStorage, "upload", slowly)
    store = CheckpointStore(_config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "here")
    _save(store, 2, learner)
    copied = tmp_path / "far" / "tiny" / "checkpoints" / "step-000002" / "manifest.json"
    assert not copied.exists()
    store.finish()
    assert copied.is_file()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_run_with_a_lost_disk_resumes_from_its_storage(
    scheme: str, tmp_path: Path, learner: PolicyLearner
) -> None:
    root = f"{tmp_path}/far" if scheme == "file" else f"/{tmp_path.name}/far"
    config, here = _config(checkpoint_storage=f"{scheme}://{root}"), tmp_path / "run" / "checkpoints"
    here.mkdir(parents=True)
    for name in LOGS:
        (here.parent / f"{name}.jsonl").write_text(f'{{"of": "{name}"}}\n')
    record = here.parent / "data.json"
    record.write_text('{"task.path": ["before"], "task.held_out_path": ["same"]}')
    store = CheckpointStore(config, here)
    for step in (1, 2, 3):
        _save(store, step, learner, last=step == 3)
    shutil.rmtree(tmp_path / "run")
    here.mkdir(parents=True)
    record.write_text('{"task.path": ["now"], "task.held_out_path": ["same"]}')  # of the new start

    found = CheckpointStore(config, here).newest()
    assert found is not None
    assert (found.step, found.extra, found.extra_files()) == (3, {"step": 3}, {"coordinator/group": b"\x03"})
    assert _names(here) == ["step-000003"]
    for name in LOGS:
        assert (here.parent / f"{name}.jsonl").read_text() == f'{{"of": "{name}"}}\n'
    assert record.read_text().count("before") == record.read_text().count("now") == 1
    assert record.read_text().index("before") < record.read_text().index("now")
    far = fsspec.filesystem(scheme).ls(f"{root}/tiny/checkpoints", detail=False)
    assert sorted(str(path).rpartition("/")[2] for path in far) == ["step-000002", "step-000003"]


def test_newest_valid_checkpoint_of_disk_and_storage_counts(tmp_path: Path, learner: PolicyLearner) -> None:
    config, here = _config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "run" / "checkpoints"
    store = CheckpointStore(config, here)
    for step in (2, 4):
        _save(store, step, learner, last=True)
    far = tmp_path / "far" / "tiny" / "checkpoints"
    shutil.rmtree(here / "step-000004")
    damaged = far / "step-000004" / "state.json"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert _newest(store) == 2  # from here
    (here / "step-000002" / "state.json").unlink()
    (here.parent / "metrics.jsonl").write_text('{"step": 0, "of": "an attempt that was given up"}\n')
    (far.parent / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    assert _newest(store) == 2  # from the storage, with its logs
    assert (here.parent / "metrics.jsonl").read_text() == '{"step": 0}\n{"step": 1}\n'
    (far / "step-000002" / "manifest.json").unlink()  # as an interrupted upload leaves it
    shutil.rmtree(here / "step-000002")
    assert _newest(store) is None


def test_storage_serves_longer_runs_and_refuses_other_configurations(
    tmp_path: Path, learner: PolicyLearner
) -> None:
    url = f"file://{tmp_path}/far"
    _save(CheckpointStore(_config(checkpoint_storage=url), tmp_path / "a"), 2, learner, last=True)
    other = _config(checkpoint_storage=url, learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"learner\.learning_rate: 0\.01 -> 0\.5"):
        CheckpointStore(other, tmp_path / "b").newest()
    assert _newest(CheckpointStore(_config(checkpoint_storage=url, steps=99), tmp_path / "c")) == 2
    with pytest.raises(ConfigError, match="fsspec"):
        CheckpointStore(_config(checkpoint_storage="nosuch://x/y"), tmp_path)


def test_full_disk_costs_checkpoints_until_the_limit_or_the_last_one(
    tmp_path: Path, learner: PolicyLearner, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(_config(max_checkpoint_failures=3), tmp_path)

    def fail(step: int, last: bool = False) -> None:
        with small_files_only(2000):
            _save(store, step, learner, last=last)

    _save(store, 1, learner)
    fail(2)
    fail(3)
    assert _names(tmp_path) == ["step-000001"]  # and nothing half-written
    ours = [record for record in caplog.records if record.name.startswith("polyray.learner")]
    first, second = (record.getMessage() for record in ours if record.levelname == "ERROR")
    assert re.search(rf"{tmp_path / 'step-000002'} .*\b3\.0 MiB .*\bMiB\b", first)
    assert re.search(r"\(2 of .*\b2\b", second)
    _save(store, 4, learner)  # the count begins anew
    fail(5)
    fail(6)
    with pytest.raises(CheckpointError, match=r"\b3\b.*max_checkpoint_failures=3"):
        fail(7)
    _save(store, 8, learner)
    with pytest.raises(CheckpointError, match="last checkpoint"):
        fail(9, last=True)
    assert _names(tmp_path) == ["step-000004", "step-000008"]


@pytest.mark.parametrize("fault", ["refused", "hangs"])
def test_failing_storage_costs_copies_until_the_last_one(
    fault: str,
    tmp_path: Path,
    learner: PolicyLearner,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    if fault == "hangs":
        monkeypatch.setattr("polyray.learner.checkpoints.COPY_TIMEOUT_S", 0.05)
        monkeypatch.setattr(CheckpointStorage, "upload", lambda *arguments: released.wait(30))
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "tiny").write_text("in the way")
    store = CheckpointStore(_config(checkpoint_storage=f"file://{tmp_path}/far"), tmp_path / "here")
    started = time.monotonic()
    _save(store, 1, learner)
    _save(store, 2, learner)
    assert _names(tmp_path / "here") == ["step-000001", "step-000002"]
    assert re.search(r"file://.*TimeoutError: .*\b0\.05 s\b" if fault == "hangs" else "file://", caplog.text)
    with pytest.raises(CheckpointError, match="last checkpoint"):
        _save(store, 3, learner, last=True)
    assert time.monotonic() - started < 20
    released.set()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_extra_file_outside_the_checkpoint_is_refused(
    name: str, tmp_path: Path, learner: PolicyLearner
) -> None:
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
