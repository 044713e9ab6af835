"""Failures of learner ranks that end a run, and their errors."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import ray
import ray.train

from polyray.config.rollout import RolloutSpec
from polyray.errors import (
    CheckpointError,
    DataError,
    LearnerError,
    MissingFile,
    RolloutError,
    WeightSyncError,
)
from polyray.launch.trainer import EndAtPermanentError, TellCoordinator, permanent_error, training_error
from tests.unit.orchestrator.fakes import FakePool, make_coordinator


@pytest.mark.parametrize(
    "error", [MissingFile("x.jsonl: no such file"), DataError("x"), CheckpointError("x")]
)
def test_permanent_error_of_ours_is_raised_as_it_is(error: Exception) -> None:
    peers: dict[int, Exception] = {0: RuntimeError("its peer is gone"), 1: error}
    assert permanent_error(peers) is error
    with pytest.raises(type(error)):
        EndAtPermanentError().after_exception(None, peers)


def test_foreign_error_that_repeats_becomes_a_learner_error_in_one_line() -> None:
    error = permanent_error({0: IndexError("index 49152 is out of range in self\nsecond line")})
    assert type(error) is LearnerError
    assert re.search(r"^rank 0 .*: IndexError: index 49152 is out of range in self$", str(error))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error"),
        OSError("stale file handle"),
        MemoryError(),
        RolloutError("x"),
        WeightSyncError("x"),
    ],
)
def test_error_that_a_restart_may_mend_is_left_to_ray_train(error: Exception) -> None:
    assert permanent_error({0: error}) is None
    EndAtPermanentError().after_exception(None, {0: error})


def test_training_error_is_unwrapped_from_ray_train() -> None:
    ours = DataError("x.jsonl:3: no text")
    assert training_error(ray.train.ControllerError(ours), 3) is ours
    lost = ray.train.WorkerGroupError("a long traceback", {0: RuntimeError("the device is lost")})
    error = training_error(lost, 3)
    assert type(error) is LearnerError
    assert "RuntimeError: the device is lost" in str(error) and "learner.max_failures=3" in str(error)


async def test_coordinator_that_is_told_of_a_permanent_error_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator, error = make_coordinator(FakePool()), DataError("x.jsonl:3: no text")
    told: list[DataError] = []
    actor = SimpleNamespace(end=SimpleNamespace(remote=told.append))
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: actor)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    TellCoordinator("run-coordinator", RolloutSpec()).after_exception(None, {0: error})
    assert told == [error]
    await coordinator.end(told[0])
    assert await coordinator.failure() is error
    assert [incident["kind"] for incident in (await coordinator.progress())["incidents"]] == ["failure"]
