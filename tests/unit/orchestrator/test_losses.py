"""Losses at awkward moments: while a run ends, while a version is on its way, while the learner starts again."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import ray.exceptions

from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError
from polyray.launch.trainer import TellCoordinator
from polyray.orchestrator import rollout_actor, rollout_pool
from polyray.orchestrator.coordinator import DRAIN, NOT_READY, BatchLease, Coordinator
from tests.unit.orchestrator.fakes import (
    DIED,
    FakePool,
    FakeWorker,
    batch_of,
    ids_of,
    make_config,
    make_coordinator,
    make_payload,
    started,
    until,
)

pytestmark = pytest.mark.usefixtures("no_ray")


async def lease_of_rank_0(coordinator: Coordinator) -> Any:
    """The next answer that is not NOT_READY, in time."""
    for _ in range(40):
        answer = await coordinator.next_batch(1, 0, 0, 1)
        if answer != NOT_READY:
            return answer
    raise AssertionError("it waits for ever")


async def loses(coordinator: Coordinator, name: str) -> None:
    """A worker dies."""
    (row,) = [row for row in coordinator._table.rows if row.name == name]
    await coordinator._sync.recover(row, DIED)


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_group_that_is_lost_while_the_run_ends_comes_again(dropped: bool) -> None:
    pool = FakePool()
    coordinator = await started(pool)
    lease = await batch_of(coordinator, 0)
    await coordinator.drain()
    for fake in pool.made:
        fake.has_signal = lambda group_id: not dropped or group_id != 1
    await coordinator.lost(1, 0, (ids_of(lease)[1],))
    again = await lease_of_rank_0(coordinator)
    assert isinstance(again, BatchLease)
    assert ids_of(again) == ([0, 3, 2] if dropped else [0, 1, 2])
    assert await coordinator.publish(make_payload(1)) is not None
    assert await coordinator.next_batch(1, 1, 0, 1) == DRAIN
    assert sum(len(fake.requests) for fake in pool.made) == (5 if dropped else 4)


async def test_empty_loss_is_no_incident() -> None:
    coordinator = await started(FakePool(1), make_config(rollout={"num_workers": 1}))
    await batch_of(coordinator, 0)
    await coordinator.lost(1, 0, ())
    assert (await coordinator.progress())["incidents"] == []


@pytest.mark.parametrize("max_staleness", [0, 1])
async def test_late_answers_of_a_replaced_worker_are_ignored(max_staleness: int) -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool, make_config(rollout={"max_staleness": max_staleness}))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: [fake.delivered for fake in pool.made] == [[0], [0]])
    await batch_of(coordinator, 0)
    gate = pool.made[0].delivery_gate = asyncio.Event()
    publishing = asyncio.create_task(coordinator.publish(make_payload(1)))
    await until(lambda: pool.made[0].loading == 1)
    await loses(coordinator, "worker-0")
    gate.set()
    assert await asyncio.wait_for(publishing, 2) is not None
    await until(lambda: pool.made[0].delivered == [0, 1])
    await until(lambda: coordinator._table.all_serve)
    assert [row.name for row in coordinator._table.rows] == ["worker-0+", "worker-1"]
    for step in (1, 2):
        await batch_of(coordinator, step)
        assert await asyncio.wait_for(coordinator.publish(make_payload(step + 1)), 2) is not None
    await until(lambda: coordinator._table.all_serve)
    assert await coordinator.failure() is None and len(pool.made) == 3


async def test_a_publish_of_a_learner_that_ended_ends_without_the_receipt_of_the_next() -> None:
    pool = FakePool(1)
    coordinator = await started(pool, make_config(rollout={"num_workers": 1}))
    await batch_of(coordinator, 0)
    gate = pool.made[0].delivery_gate = asyncio.Event()
    old = asyncio.create_task(coordinator.publish(make_payload(1)))
    await until(lambda: pool.made[0].loading == 1)
    assert await coordinator.begin_attempt(None) == 2
    assert await asyncio.wait_for(old, 2) is None
    new = asyncio.create_task(coordinator.publish(make_payload(0, attempt=2)))
    await asyncio.sleep(0.05)
    gate.set()
    receipt = await asyncio.wait_for(new, 2)
    assert receipt is not None and receipt["deliver_s"] >= 0.05
    assert await coordinator.publish(make_payload(2)) is None  # it lives on somewhere
    assert await coordinator.failure() is None


async def test_when_the_learner_fails_the_others_give_up_their_places_until_it_has_its_own() -> None:
    pool = FakePool()
    coordinator = make_coordinator(
        pool, make_config(rollout={"max_workers": 3, "max_worker_replacements": 0})
    )
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: [fake.delivered for fake in pool.made] == [[0]] * 3)
    await batch_of(coordinator, 0)
    await coordinator.learner_failed("rank 0 died")
    assert pool.retired == ["worker-2"]
    assert (await coordinator.progress())["phase"] == "waiting for the learner to start again"
    pool.made[2].fails = DIED  # what it had under way
    assert await coordinator.begin_attempt(None) == 2
    await asyncio.sleep(0.05)
    assert len(pool.made) == 3
    assert await asyncio.wait_for(coordinator.publish(make_payload(0, attempt=2)), 2) is not None
    await until(lambda: len(pool.made) == 4 and pool.made[3].delivered == [0])
    answer: Any = NOT_READY
    while answer == NOT_READY:
        answer = await coordinator.next_batch(2, 0, 0, 1)
    assert ids_of(answer) == [0, 1, 2] and await coordinator.failure() is None


async def test_awaited_worker_is_not_awaited_after_releasing_its_place() -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool, make_config(rollout={"max_workers": 3}))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: [fake.delivered for fake in pool.made] == [[0]] * 3)
    await batch_of(coordinator, 0)
    pool.made[2].delivery_gate = asyncio.Event()
    publishing = asyncio.create_task(coordinator.publish(make_payload(1)))
    await until(lambda: [fake.delivered for fake in pool.made[:2]] == [[0, 1]] * 2)
    assert not publishing.done()
    await coordinator.learner_failed("rank 0 died")
    assert await asyncio.wait_for(publishing, 2) is not None
    assert len(pool.made) == 3  # its place is free for the learner


async def test_empty_optional_place_is_not_required_by_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polyray.orchestrator.worker_table.MAX_FAILED_JOINS", 0)
    pool = FakePool(1)
    coordinator = make_coordinator(pool, make_config(rollout={"num_workers": 1, "max_workers": 2}))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: len(pool.made) == 2 and pool.made[1].delivered == [0])

    def refuses(worker: FakeWorker) -> None:
        worker.refuses = DIED

    pool.broken = refuses
    await loses(coordinator, "worker-0")
    await until(lambda: pool.retired == ["worker-0+"])
    assert [(worker.index, worker.name) for worker in pool.workers] == [(0, "worker-1")]
    pool.broken = lambda worker: None
    await coordinator.learner_failed("rank 0 died")
    assert len(pool.workers) == 1 and pool.retired == ["worker-0+"]
    await coordinator.begin_attempt(None)
    assert await asyncio.wait_for(coordinator.publish(make_payload(0, attempt=2)), 2) is not None
    await until(lambda: len(pool.workers) == 2 and pool.made[-1].delivered == [0])
    assert await coordinator.failure() is None


async def test_pending_poll_of_a_lost_learner_is_no_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polyray.orchestrator.coordinator.LONG_POLL_S", 0.3)
    pool = FakePool(1)
    (engine,) = pool.made
    engine.has_signal, engine.held = lambda group_id: False, asyncio.Event()
    config = make_config(rollout={"num_workers": 1, "sleep_between_steps": True})
    coordinator = await started(pool, config)
    polling = asyncio.create_task(coordinator.next_batch(1, 0, 0, 1))
    await until(lambda: len(engine.requests) == 3)
    await coordinator.learner_failed("rank 0 died")
    assert engine.asleep
    engine.held.set()  # what comes back has no signal, and others would take its place
    assert await polling == NOT_READY and await coordinator.failure() is None
    assert len(engine.requests) == 3 and coordinator._run_state.learner_is_gone
    assert (await coordinator.progress())["phase"] == "waiting for the learner to start again"


async def test_a_group_that_comes_again_wakes_an_engine_which_sleeps_again_before_the_batch_is_there() -> (
    None
):
    pool = FakePool(1)
    (engine,) = pool.made
    config = make_config(rollout={"num_workers": 1, "sleep_between_steps": True})
    coordinator = await started(pool, config)
    await batch_of(coordinator, 0)
    assert engine.asleep
    engine.wakes_by_itself = True
    await coordinator.lost(1, 0, (1,))
    await until(lambda: not engine.asleep)
    assert ids_of(await batch_of(coordinator, 0)) == [0, 1, 2]
    assert engine.asleep and engine.sleeps == 2


async def test_a_group_belongs_to_the_attempt_in_which_it_was_reserved() -> None:
    pool = FakePool(1)
    held = pool.made[0].held = asyncio.Event()
    coordinator = await started(pool, make_config(rollout={"num_workers": 1}))
    await until(lambda: len(pool.made[0].requests) == 3)
    coordinator._buffer.requeue(1)
    coordinator._table.rows[0].ended()
    coordinator._dispatch_groups()  # reserves it; its task has not begun
    assert await coordinator.begin_attempt(None) == 2
    held.set()
    await until(lambda: len(pool.made[0].requests) == 4)
    await asyncio.sleep(0.05)
    assert await coordinator.failure() is None


async def test_joining_workers_get_a_share_and_release_it_on_leaving() -> None:
    pool = FakePool(1)
    rollout = {"num_workers": 1, "max_workers": 2, "prompts_per_step": 8, "max_sequences": 64}
    coordinator = make_coordinator(pool, make_config(rollout=rollout))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: len(pool.made) == 2 and pool.made[1].delivered == [0])
    assert coordinator._table.num_expected == 2
    for step in range(3):
        await batch_of(coordinator, step)
        await coordinator.publish(make_payload(step + 1))
    await batch_of(coordinator, 3)
    assert [len(fake.requests) for fake in pool.made] == [20, 12]  # the first 8 came before it joined

    def without_room(worker: FakeWorker) -> None:
        worker.delivery_gate = asyncio.Event()

    pool.broken = without_room
    await loses(coordinator, "worker-1")
    assert coordinator._table.num_expected == 1


@pytest.mark.parametrize("error", [None, ray.exceptions.GetTimeoutError(), DIED, ValueError("no actor")])
def test_train_controller_reports_and_continues_on_any_answer(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def get_actor(name: str, namespace: str) -> Any:
        if isinstance(error, ValueError):
            raise error
        return SimpleNamespace(learner_failed=SimpleNamespace(remote=told.append))

    def get(answer: None, timeout: float) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(ray, "get", get)
    errors = {1: RuntimeError("its peer is gone"), 0: MemoryError("\nno room\nfor 3 GB")}
    TellCoordinator("run-coordinator", RolloutSpec()).after_exception(None, errors)
    reason = "rank 0 of the learner (and 1 other ranks): MemoryError: no room"
    assert told == ([] if isinstance(error, ValueError) else [reason])
    assert ("coordinator" in caplog.text) is (error is not None)


def test_the_keeper_of_a_shared_fleet_shares_its_starters_node(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Actor:
        def options(self, **options: Any) -> Actor:
            asked.append(options)
            return self

        def remote(self, *_: Any) -> Any:
            return SimpleNamespace(workers=SimpleNamespace(remote=lambda: []))

    monkeypatch.setattr(ray, "remote", lambda cls: Actor())
    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    monkeypatch.setattr(rollout_pool, "on_this_node", lambda: "here")
    rollout_pool.SharedPool("sweep", RolloutSpec(num_workers=2))
    assert [options["scheduling_strategy"] for options in asked] == ["here"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DIED, "an engine has ended .*start the same command again"),
        (ray.exceptions.GetTimeoutError(), "not answered within delivery.timeout_s=3 s"),
    ],
)
def test_engine_that_is_lost_to_an_evaluation_is_an_error_in_words(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(rollout_pool.ray, "put", lambda value: value)
    monkeypatch.setattr(rollout_pool.ray, "get", lost)
    pool: Any = SimpleNamespace(workers=[])
    with pytest.raises(RolloutError, match=message):
        rollout_pool.RolloutPool.deliver(pool, pool, 3.0)


async def test_group_that_its_engine_does_not_end_is_an_error_that_names_the_limit() -> None:
    answer: Future[Any] = Future()
    worker = SimpleNamespace(submit=lambda request: answer, progress=0)
    actor: Any = rollout_actor.RolloutActor.__new__(rollout_actor.RolloutActor)
    actor._worker, request = worker, SimpleNamespace(group_id=7)
    for of_round in (False, True):
        with pytest.raises(RolloutError, match=r"group 7 .*rollout\.group_timeout_s=0\.05 s"):
            await actor._sampled(request, 0.05, of_round=of_round)
    waiting = asyncio.create_task(actor._sampled(request, 0.05, of_round=True))
    of_training = asyncio.create_task(actor._sampled(request, 0.05))
    for _ in range(6):  # the engine is busy with the groups before it
        await asyncio.sleep(0.03)
        worker.progress += 1
    assert not waiting.done()
    with pytest.raises(RolloutError, match="group 7"):  # few training groups wait in an engine
        await of_training
    answer.set_result("group")
    assert await waiting == "group"


def test_engine_that_does_not_start_in_time_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = SimpleNamespace(rollout=RolloutSpec())
    worker: Any = SimpleNamespace(handle=SimpleNamespace(ready=SimpleNamespace(remote=lambda: None)))
    for error, lives in ((DIED, False), (ray.exceptions.GetTimeoutError(), True)):
        monkeypatch.setattr(rollout_pool.ray, "get", Mock(side_effect=error))
        assert rollout_pool.RolloutPool._is_alive(pool, worker) is lives
