"""Workers above those that a run needs: they join when they can, and losing one costs nothing but time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyray.config.rollout import RolloutSpec
from tests.unit.actors.fakes import (
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


async def begun(pool: FakePool, **rollout: Any) -> Any:
    """The first version is served by the two that are there; the third waits for room at its gate."""
    pool.made[2].delivery_gate = asyncio.Event()
    coordinator = make_coordinator(pool, elastic(**rollout))
    await coordinator.begin_attempt(None)
    assert await asyncio.wait_for(coordinator.publish(make_payload(0)), 2) is not None
    return coordinator


async def kinds(coordinator: Any) -> list[str]:
    return [incident["kind"] for incident in (await coordinator.progress())["incidents"]]


async def test_a_run_begins_with_those_it_needs_and_others_join_while_it_goes_on() -> None:
    pool = FakePool(3)
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
    await until(lambda: len(coordinator._outcome.incidents) == 1)
    assert await kinds(coordinator) == ["worker_joined"]
    assert ids_of(await batch_of(coordinator, 1)) == [3, 4, 5]
    await coordinator.publish(make_payload(2))  # from now on it is waited for like the others
    assert [worker.delivered[-1] for worker in pool.made] == [2, 2, 2]
    assert ids_of(await batch_of(coordinator, 2)) == [6, 7, 8]


async def test_a_worker_that_the_run_can_do_without_costs_no_replacement() -> None:
    pool = FakePool(3)
    coordinator = make_coordinator(pool, elastic(max_worker_replacements=0))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await until(lambda: all(worker.delivered == [0] for worker in pool.made))

    def stuck(worker: FakeWorker) -> None:
        worker.delivery_gate = asyncio.Event()  # there is no room for another one

    pool.broken = stuck
    pool.made[1].fails = DIED
    lease = await batch_of(coordinator, 0)
    assert sorted(ids_of(lease)) == [0, 1, 2]
    assert await asyncio.wait_for(coordinator.publish(make_payload(1)), 2) is not None
    assert sorted(ids_of(await batch_of(coordinator, 1))) == [3, 4, 5]
    assert await coordinator.failure() is None
    assert "worker_replaced" in await kinds(coordinator)


async def test_a_worker_that_the_run_needs_is_waited_for_and_counted() -> None:
    pool = FakePool(2)
    coordinator = make_coordinator(pool, make_config(rollout={"max_worker_replacements": 0}))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    pool.made[0].fails = DIED
    assert "more than rollout.max_worker_replacements=0" in str(await failure_of(coordinator))


async def test_below_what_it_needs_a_synchronous_run_waits_for_the_replacement() -> None:
    pool = FakePool(3)
    coordinator = await begun(pool)
    gates: list[asyncio.Event] = []

    def late(worker: FakeWorker) -> None:
        worker.delivery_gate = asyncio.Event()
        gates.append(worker.delivery_gate)

    pool.broken = late
    pool.made[0].fails = DIED
    await batch_of(coordinator, 0)
    publishing = asyncio.create_task(coordinator.publish(make_payload(1)))
    await until(lambda: pool.made[1].delivered == [0, 1])
    await asyncio.sleep(0.1)
    assert not publishing.done() and len(gates) == 1
    gates[0].set()
    assert await asyncio.wait_for(publishing, 2) is not None


@pytest.mark.parametrize(("num_workers", "max_workers"), [(1, 1), (2, 8), (3, None)])
def test_as_many_as_are_needed_or_more(num_workers: int, max_workers: int | None) -> None:
    RolloutSpec(num_workers=num_workers, max_workers=max_workers)


def test_fewer_than_are_needed_are_refused() -> None:
    with pytest.raises(ValueError, match="max_workers=2 is below num_workers=3"):
        RolloutSpec(num_workers=3, max_workers=2)
