"""Coordinator state in a checkpoint, and its restore by a new attempt."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import numpy as np
import pytest
import ray

from polyray.config.run import TrainConfig
from polyray.launch.rl_worker import RemoteCoordination
from polyray.orchestrator.coordinator import BatchLease, Coordinator
from polyray.runs.saved_groups import SNAPSHOT_FILES, encode_groups
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import Completion, Group, PolicyVersion, ScoredGroup
from tests.unit.orchestrator.fakes import (
    GROUP_SIZE,
    FakePool,
    batch_of,
    make_config,
    make_coordinator,
    make_payload,
    started,
)

pytestmark = pytest.mark.usefixtures("no_ray")


def _scored(config: TrainConfig, group_id: int, policy: PolicyVersion) -> ScoredGroup:
    """Group as a worker would have scored it."""
    prompt = build_task(config.task).training_prompt(group_id, config.seed)
    completions = tuple(
        Completion(
            np.array([20, 2], np.int32),
            np.zeros(2, np.float32),
            "R",
            "stop",
            sample_seed(config.seed, group_id, at),
        )
        for at in range(GROUP_SIZE)
    )
    group = Group(group_id, prompt, np.array([1, 6], np.int32), completions, policy)
    return ScoredGroup(group, np.full(GROUP_SIZE, group_id / 100), np.zeros(GROUP_SIZE, np.int64))


async def _as_checkpoint(coordinator: Coordinator, config: TrainConfig) -> dict[str, Any]:
    """A snapshot as it comes back from disk."""
    snapshot = await coordinator.snapshot()
    ids = [int(handle.rpartition("-")[2]) for handle in snapshot.pop("waiting")]
    policy = make_payload(0).policy
    files = encode_groups([_scored(config, group_id, policy) for group_id in ids])
    return {**json.loads(json.dumps(snapshot)), SNAPSHOT_FILES: files}


async def _scored_groups(coordinator: Coordinator, number: int) -> None:
    while len((await coordinator.snapshot())["waiting"]) < number:
        await asyncio.sleep(0.01)


async def _next_batch(coordinator: Coordinator, attempt: int, step: int) -> BatchLease:
    for _ in range(40):
        answer = await coordinator.next_batch(attempt, step, 0, 1)
        if isinstance(answer, BatchLease):
            return answer
    raise AssertionError("no batch came")


async def _checkpoint_of_a_step(config: TrainConfig) -> dict[str, Any]:
    coordinator = await started(FakePool(), config)
    await batch_of(coordinator, 0)
    await _scored_groups(coordinator, 3)  # version 0 samples all it may
    await coordinator.publish(make_payload(1))
    return await _as_checkpoint(coordinator, config)


async def test_groups_that_waited_are_trained_on_after_a_resume_and_not_sampled_again() -> None:
    config = make_config(rollout={"max_staleness": 1})
    snapshot = await _checkpoint_of_a_step(config)
    assert [item in snapshot["pending"] for item in (3, 4, 5)] == [True] * 3
    pool = FakePool()
    coordinator = make_coordinator(pool, config)
    assert await coordinator.begin_attempt(snapshot) == 2
    assert await coordinator.publish(make_payload(1, attempt=2)) is not None
    lease = await _next_batch(coordinator, 2, 1)
    assert lease.history == {
        "step": 1, "attempt": 2, "groups": [3, 4, 5], "versions": [0, 0, 0], "dropped": [],
    }  # fmt: skip
    assert [scored.rewards_G[0] for scored in lease.refs] == [0.03, 0.04, 0.05]
    assert lease.counters["staleness_mean"] == 1.0
    await asyncio.sleep(0.01)
    asked = sorted(request.group_id for fake in pool.made for request in fake.requests)
    assert asked and asked[0] >= 6
    incidents = (await coordinator.progress())["incidents"]
    assert [item["kind"] for item in incidents] == ["learner_restarted"]


async def test_groups_that_would_be_asked_for_differently_are_sampled_again_and_that_is_told() -> None:
    snapshot = await _checkpoint_of_a_step(make_config(rollout={"max_staleness": 1}))
    pool = FakePool()
    coordinator = make_coordinator(pool, make_config(rollout={"max_staleness": 1}, seed=8))
    await coordinator.begin_attempt(snapshot)
    await coordinator.publish(make_payload(1, attempt=2))
    lease = await _next_batch(coordinator, 2, 1)
    assert lease.history["groups"] == [3, 4, 5] and lease.history["versions"] == [1, 1, 1]
    incidents = (await coordinator.progress())["incidents"]
    assert incidents[0]["kind"] == "groups_not_taken_back"
    assert re.search(r"\b3 of .*\b3 scored groups", incidents[0]["message"])


async def test_at_staleness_zero_a_snapshot_has_no_groups_although_some_are_scored() -> None:
    coordinator = await started(FakePool())
    while (await coordinator.progress())["groups_done"] < 3:
        await asyncio.sleep(0.01)
    snapshot = await coordinator.snapshot()
    assert (snapshot["pending"], snapshot["waiting"]) == ([0, 1, 2], [])


async def test_validations_that_a_checkpoint_left_open_are_named() -> None:
    coordinator = make_coordinator(FakePool(), make_config(rollout={"max_staleness": 1}))
    snapshot = await _checkpoint_of_a_step(make_config(rollout={"max_staleness": 1}))
    await coordinator.begin_attempt({**snapshot, "unvalidated": [0, 1]})
    incidents = (await coordinator.progress())["incidents"]
    (lost,) = (item["message"] for item in incidents if item["kind"] == "validation_lost")
    assert re.search(r"version 0 .*step 1\b", lost)  # version 1 is served again, and validated then


async def test_learner_snapshot_is_plain_except_for_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(rollout={"max_staleness": 1})
    groups = [_scored(config, group_id, make_payload(0).policy) for group_id in (3, 4)]
    answer = {"version": 1, "pending": [3, 4], "waiting": groups}
    coordination = RemoteCoordination(None, config, 0, 1)
    monkeypatch.setattr(coordination, "_call", lambda method: dict(answer))
    monkeypatch.setattr(ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(ray, "get", lambda refs, **_: refs)
    assert coordination.snapshot() == {
        "version": 1, "pending": [3, 4], SNAPSHOT_FILES: encode_groups(groups),
    }  # fmt: skip
