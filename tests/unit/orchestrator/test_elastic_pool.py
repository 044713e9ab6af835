"""Workers above those that a run needs: they join when they can, and losing one costs nothing but time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyray.config.rollout import RolloutSpec
from tests.unit.orchestrator.fakes import (
    DIED,
    FakePool,
    FakeWorker,
    batch_of,
    failure_of,
    ids_of,
    make_config,
    make_coordinator,
    make_payload,
    until,
)

pytestmark = pytest.mark.usefixtures("no_ray")


def elastic(**rollout: Any) -> Any:
    """Two workers are needed, up to three wanted."""
    return make_config(rollout={"num_workers": 2, "max_workers": 3, **rollout})


def without_room(worker: FakeWorker) -> None:
    """Let the start of a worker take long."""
    worker.delivery_gate = asyncio.Event()


async def begun(pool: FakePool, **rollout: Any) -> Any:
    """The first version is served by the two that are there; the third, started then, waits for room at its gate."""
    pool.broken = without_room
    coordinator = make_coordinator(pool, elastic(**rollout))
    await coordinator.begin_attempt(None)
    assert len(pool.made) == 2
    assert await asyncio.wait_for(coordinator.publish(make_payload(0)), 2) is not None
    assert len(pool.made) == 3
    return coordinator


async def kinds(coordinator: Any) -> list[str]:
    return [incident["kind"] for incident in (await coordinator.progress())["incidents"]]


async def test_run_starts_with_required_workers_and_others_join_later() -> None:
    pool = FakePool()
    coordinator = await begun(pool)
    assert ids_of(await batch_of(coordinator, 0)) == [0, 1, 2]
    assert (
        await asyncio.wait_for(coordinator.publish(make_payload(1)), 2) is not None
    )  # at S = 0, all that joined
    assert pool.made[2].delivered == [] and await kinds(coordinator) == []
    gate = pool.made[2].delivery_gate
    assert gate is not None
    gate.set()
    await until(lambda: pool.made[2].delivered[-1:] == [1])
    await until(lambda: len(coordinator._run_state.incidents) == 1)
    assert await kinds(coordinator) == ["worker_joined"]
    assert ids_of(await batch_of(coordinator, 1)) == [3, 4, 5]
    await coordinator.publish(make_payload(2))  # from now on it is waited for like the others
    assert [worker.delivered[-1] for worker in pool.made] == [2, 2, 2]
    assert ids_of(await batch_of(coordinator, 2)) == [6, 7, 8]


async def test_a_worker_that_the_run_can_do_without_costs_no_replacement() -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool, elastic(max_worker_replacements=0))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: [worker.delivered for worker in pool.made] == [[0]] * 3)
    pool.broken = without_room
    pool.made[1].fails = DIED
    lease = await batch_of(coordinator, 0)
    assert sorted(ids_of(lease)) == [0, 1, 2]
    assert await asyncio.wait_for(coordinator.publish(make_payload(1)), 2) is not None
    assert sorted(ids_of(await batch_of(coordinator, 1))) == [3, 4, 5]
    assert await coordinator.failure() is None
    assert "worker_replaced" in await kinds(coordinator)


async def test_a_lost_worker_was_the_last_that_a_version_waited_for() -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool, elastic(max_worker_replacements=0))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: [worker.delivered for worker in pool.made] == [[0]] * 3)
    await batch_of(coordinator, 0)
    pool.broken = without_room
    last = pool.made[2]
    last.refuses, last.delivery_gate = DIED, asyncio.Event()
    publishing = asyncio.create_task(coordinator.publish(make_payload(1)))
    await until(lambda: [worker.delivered for worker in pool.made[:2]] == [[0, 1]] * 2)
    await asyncio.sleep(0.1)
    assert not publishing.done()
    last.delivery_gate.set()
    receipt = await asyncio.wait_for(publishing, 2)
    assert receipt is not None and receipt["deliver_s"] >= 0.1


async def test_workers_that_never_serve_are_given_up_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polyray.orchestrator.worker_table.MAX_FAILED_JOINS", 3)
    pool = FakePool()

    def broken(worker: FakeWorker) -> None:
        worker.refuses = DIED

    pool.broken = broken
    coordinator = make_coordinator(pool, elastic(max_worker_replacements=0))
    await coordinator.begin_attempt(None)
    assert await coordinator.publish(make_payload(0)) is not None
    await until(lambda: len(pool.made) == 2 + 1 + 3)
    await until(lambda: coordinator._run_state.incidents[-1]["kind"] == "worker_given_up")
    for step in range(2):
        await batch_of(coordinator, step)
        assert await asyncio.wait_for(coordinator.publish(make_payload(step + 1)), 2) is not None
    assert await coordinator.failure() is None and len(pool.made) == 6


async def test_a_worker_that_the_run_needs_is_replaced_after_others_were_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polyray.orchestrator.worker_table.MAX_FAILED_JOINS", 0)
    pool = FakePool()

    def broken(worker: FakeWorker) -> None:
        worker.refuses = DIED if len(pool.made) == 2 else None

    pool.broken = broken
    coordinator = make_coordinator(pool, elastic(max_worker_replacements=1))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: coordinator._run_state.incidents[-1:] != [])
    assert await kinds(coordinator) == ["worker_given_up"]
    pool.made[0].fails = DIED
    assert sorted(ids_of(await batch_of(coordinator, 0))) == [0, 1, 2]
    assert await asyncio.wait_for(coordinator.publish(make_payload(1)), 2) is not None
    assert sorted(ids_of(await batch_of(coordinator, 1))) == [3, 4, 5]
    assert await asyncio.wait_for(coordinator.publish(make_payload(2)), 2) is not None
    assert await kinds(coordinator) == ["worker_given_up", "worker_replaced"]
    assert pool.made[3].delivered[-1] == 2


async def test_a_worker_that_the_run_needs_is_waited_for_and_counted() -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool, make_config(rollout={"max_worker_replacements": 0}))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    pool.made[0].fails = DIED
    assert "rollout.max_worker_replacements=0" in str(await failure_of(coordinator))


async def test_synchronous_run_below_its_need_waits_for_a_replacement() -> None:
    pool = FakePool()
    coordinator = await begun(pool)
    pool.made[0].fails = DIED
    await batch_of(coordinator, 0)
    publishing = asyncio.create_task(coordinator.publish(make_payload(1)))
    await until(lambda: pool.made[1].delivered == [0, 1])
    await asyncio.sleep(0.1)
    assert not publishing.done() and len(pool.made) == 4
    gate = pool.made[3].delivery_gate
    assert gate is not None
    gate.set()
    assert await asyncio.wait_for(publishing, 2) is not None


@pytest.mark.parametrize(("num_workers", "max_workers"), [(1, 1), (2, 8), (3, None)])
def test_as_many_as_are_needed_or_more(num_workers: int, max_workers: int | None) -> None:
    spec = RolloutSpec(num_workers=num_workers, max_workers=max_workers)
    assert spec.most_workers == (max_workers or num_workers)


def test_fewer_than_are_needed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_workers=2.*num_workers=3"):
        RolloutSpec(num_workers=3, max_workers=2)
