"""Background weight sync at S > 0: no waits, versions skipped but never reversed, lost groups resampled."""

from __future__ import annotations

import asyncio
import re

import pytest
import ray.exceptions

from polyray.config.rollout import RolloutSpec
from polyray.errors import WeightSyncError, WeightSyncMismatch
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.coordinator import DRAIN, NOT_READY, BatchLease
from polyray.orchestrator.worker_table import groups_per_worker
from tests.unit.orchestrator.fakes import (
    DIED,
    FakePool,
    batch_of,
    failure_of,
    ids_of,
    make_config,
    make_coordinator,
    make_payload,
    started,
    until,
)

pytestmark = pytest.mark.usefixtures("no_ray")


async def test_publish_above_staleness_zero_does_not_wait_and_skips_missed_versions() -> None:
    pool = FakePool(3)
    coordinator = await started(pool, make_config(rollout={"max_staleness": 8, "num_workers": 3}))
    await batch_of(coordinator, 0)
    gate = asyncio.Event()
    pool.made[1].delivery_gate = gate
    for version in (1, 2, 3):
        assert await asyncio.wait_for(coordinator.publish(make_payload(version)), 1) is not None
        await batch_of(coordinator, version)
        expected = list(range(version + 1))
        await until(lambda expected=expected: pool.made[0].delivered == pool.made[2].delivered == expected)
    assert pool.made[1].delivered == [0]
    gate.set()
    await until(lambda: len(pool.made[1].delivered) == 3)
    assert pool.made[1].delivered == [0, 1, 3]  # 1 was on its way; 2 was overtaken before it left
    assert await coordinator.failure() is None


async def test_a_worker_behind_goes_on_with_its_version_as_far_as_staleness_allows() -> None:
    pool = FakePool()
    coordinator = await started(pool, make_config(rollout={"max_staleness": 1}))
    await batch_of(coordinator, 0)
    pool.made[1].delivery_gate = asyncio.Event()
    await coordinator.publish(make_payload(1))
    lease = await batch_of(coordinator, 1)
    assert [ids_of(lease), lease.counters["staleness_mean"]] == [[3, 4, 5], 1.0]
    await coordinator.publish(make_payload(2))
    lease = await batch_of(coordinator, 2)
    assert all(version >= 1 for version in lease.history["versions"])
    assert lease.history["groups"] == [6, 7, 8] and lease.history["dropped"] == []
    # The worker that still serves version 0 may start nothing that version 2 could be trained on.
    started_late = [request.group_id for request in pool.made[1].requests if request.group_id >= 6]
    assert started_late == []


async def test_a_lie_in_the_background_ends_the_run() -> None:
    pool = FakePool()
    coordinator = await started(pool, make_config(rollout={"max_staleness": 1}))
    await batch_of(coordinator, 0)
    pool.made[1].lies = True
    assert await coordinator.publish(make_payload(1)) is not None
    assert isinstance(await failure_of(coordinator), WeightSyncMismatch)
    assert await coordinator.publish(make_payload(2)) is None


BAD = ray.exceptions.RayTaskError("deliver", "traceback", WeightSyncError("lora_B of layer 1 is not finite"))


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_a_version_that_a_second_worker_refuses_ends_the_run_with_the_reason(num_workers: int) -> None:
    pool = FakePool(num_workers)
    config = make_config(rollout={"num_workers": num_workers, "max_worker_replacements": 50})
    coordinator = await started(pool, config)
    await batch_of(coordinator, 0)
    pool.broken = lambda worker: setattr(worker, "refuses", BAD)
    for fake in pool.made:
        fake.refuses = BAD
    assert await coordinator.publish(make_payload(1)) is None
    failure = await failure_of(coordinator)
    second = "worker-1" if num_workers == 2 else "worker-0+"
    assert isinstance(failure, WeightSyncError)
    expected = (
        rf"{make_payload(1).policy.name} .*worker-0\b.*{re.escape(second)}: lora_B of layer 1 is not finite$"
    )
    assert re.search(expected, str(failure))
    assert len(pool.made) == num_workers + 1


async def test_a_version_that_one_worker_refuses_costs_that_worker() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    await batch_of(coordinator, 0)
    pool.made[1].refuses = BAD
    assert await coordinator.publish(make_payload(1)) is not None
    assert [worker.name for worker in pool.workers] == ["worker-0", "worker-1+"]
    assert ids_of(await batch_of(coordinator, 1)) == [3, 4, 5]


async def test_at_most_half_of_busy_workers_load_at_once_and_idle_ones_do_not_wait() -> None:
    pool = FakePool(4)
    held = [asyncio.Event() for _ in pool.made]
    for fake, event in zip(pool.made, held, strict=True):
        fake.held = event
    config = make_config(rollout={"max_staleness": 1, "num_workers": 4, "prompts_per_step": 4})
    coordinator = await started(pool, config)
    await until(lambda: sum(len(fake.requests) for fake in pool.made) == 8)
    assert min(len(fake.requests) for fake in pool.made) > 0  # everyone is busy
    gate = asyncio.Event()
    for fake in pool.made:
        fake.delivery_gate = gate
    await coordinator.publish(make_payload(1))
    await until(lambda: sum(fake.loading for fake in pool.made) == 2)
    await asyncio.sleep(0.01)
    waiting = [number for number, fake in enumerate(pool.made) if not fake.loading]
    assert len(waiting) == 2
    held[waiting[1]].set()
    await until(lambda: pool.made[waiting[1]].loading == 1)
    assert [pool.made[number].loading for number in waiting] == [0, 1]
    gate.set()
    for event in held:
        event.set()
    await until(lambda: [fake.delivered for fake in pool.made] == [[0, 1]] * 4)


async def test_a_replacement_is_given_the_newest_version_though_older_ones_were_published_meanwhile() -> None:
    pool = FakePool()
    coordinator = await started(pool, make_config(rollout={"max_staleness": 4}))
    await batch_of(coordinator, 0)
    pool.broken = lambda worker: setattr(worker, "delivery_gate", gate)
    gate = asyncio.Event()
    pool.made[0].fails = DIED
    await coordinator.publish(make_payload(1))
    await batch_of(coordinator, 1)
    await coordinator.publish(make_payload(2))
    gate.set()
    await batch_of(coordinator, 2)
    await until(lambda: pool.workers[0].name == "worker-0+" and 2 in pool.made[2].delivered)
    assert await coordinator.failure() is None


async def test_groups_with_lost_objects_are_resampled_into_the_same_batch() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    lease = await batch_of(coordinator, 0, 0, 2)
    assert lease.group_ids == (0, 2)
    await coordinator.lost(1, 0, (2,))
    await coordinator.lost(99, 0, (0,))  # an attempt that ended has no say
    again = await batch_of(coordinator, 0, 0, 2)
    other = await batch_of(coordinator, 0, 1, 2)
    assert (again.group_ids, other.group_ids) == ((0, 2), (1,))
    requests = [request.group_id for fake in pool.made for request in fake.requests]
    assert sorted(requests) == [0, 1, 2, 2]


async def test_no_worker_takes_more_than_its_share_of_groups_in_flight() -> None:
    spec = RolloutSpec(prompts_per_step=16, group_size=16, max_sequences=256, max_staleness=1)
    assert groups_per_worker(spec, 4) == 8
    assert groups_per_worker(spec.model_copy(update={"max_sequences": 64}), 1) == 8
    assert groups_per_worker(spec, 64) == 1
    pool = FakePool()
    for fake in pool.made:
        fake.held = asyncio.Event()
    await started(pool, make_config(rollout={"prompts_per_step": 6}))
    await asyncio.sleep(0.01)
    assert [len(fake.requests) for fake in pool.made] == [3, 3]


async def test_loads_are_counted_in_tokens_where_asked_for() -> None:
    pool = FakePool()
    config = make_config(rollout={"dispatch": "tokens", "max_staleness": 2})
    coordinator = await started(pool, config)
    for step in range(3):
        assert isinstance(await batch_of(coordinator, step), BatchLease)
        await coordinator.publish(make_payload(step + 1))
    assert all(fake.requests for fake in pool.made)


async def test_nothing_is_started_between_attempts() -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool, make_config(rollout={"max_staleness": 1}))
    await coordinator.begin_attempt(None)
    await coordinator.publish(make_payload(0))
    await batch_of(coordinator, 0)
    await asyncio.sleep(0.01)
    before = sum(len(fake.requests) for fake in pool.made)
    assert await coordinator.begin_attempt(await coordinator.snapshot()) == 2
    assert await coordinator.next_batch(2, 0, 0, 1) == NOT_READY
    assert sum(len(fake.requests) for fake in pool.made) == before


async def test_a_drain_lets_the_step_under_way_end_on_every_rank_and_cuts_no_other() -> None:
    pool = FakePool()
    coordinator = await started(pool, make_config(rollout={"max_staleness": 1}))
    await batch_of(coordinator, 0, 0, 2)
    await coordinator.drain()
    assert (await batch_of(coordinator, 0, 1, 2)).group_ids == (1,)  # the other rank has the batch already
    assert await coordinator.publish(make_payload(1)) is not None
    requests = sum(len(fake.requests) for fake in pool.made)
    assert [await coordinator.next_batch(1, 1, rank, 2) for rank in (0, 1)] == [DRAIN, DRAIN]
    assert sum(len(fake.requests) for fake in pool.made) == requests
    assert (await coordinator.progress())["phase"] == "stopping"
    assert sorted((await coordinator.snapshot())["pending"]) == [3, 4, 5]


async def test_incidents_are_reported_from_the_last_seen_one() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    pool.made[0].fails = DIED
    await batch_of(coordinator, 0)
    await coordinator.lost(1, 0, (1,))
    await coordinator.begin_attempt(await coordinator.snapshot())
    incidents = (await coordinator.progress())["incidents"]
    assert [item["kind"] for item in incidents] == ["worker_replaced", "groups_lost", "learner_restarted"]
    assert re.search(r"worker-0 .*worker-0\+: ActorDiedError", incidents[0]["message"])
    assert re.search(r"groups 1 of step 0\b", incidents[1]["message"])
    assert re.search(r"attempt 2 .*step 0\b", incidents[2]["message"])
    assert (await coordinator.progress(2))["incidents"] == incidents[2:]


@pytest.mark.parametrize("wrong", [make_payload(0), make_payload(2)])
async def test_version_out_of_order_ends_the_run(wrong: PolicyUpdate) -> None:
    coordinator = await started(FakePool())
    assert await coordinator.publish(wrong) is None
    failure = await failure_of(coordinator)
    assert isinstance(failure, WeightSyncError)
    assert re.search(rf"{wrong.policy.name} cannot follow {make_payload(0).policy.name}", str(failure))


async def test_new_attempt_may_go_back_to_an_earlier_version() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    snapshot = await coordinator.snapshot()
    await batch_of(coordinator, 0)
    assert await coordinator.publish(make_payload(1)) is not None
    assert await coordinator.begin_attempt(snapshot) == 2
    assert await coordinator.publish(make_payload(0, attempt=2)) is not None
    assert [fake.delivered for fake in pool.made] == [[0, 1, 0]] * 2
