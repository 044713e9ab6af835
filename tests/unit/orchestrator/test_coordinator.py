"""The coordinator as a plain object, with workers that are plain objects too; no Ray runs.

What real actors do to it is shown in tests/integration.
"""

from __future__ import annotations

import asyncio
import re

import pytest
import ray
import ray.exceptions

from polyray.errors import (
    DataError,
    MonitorStopped,
    RewardError,
    RolloutError,
    WeightSyncMismatch,
)
from polyray.orchestrator import weight_sync_manager
from polyray.orchestrator.coordinator import NOT_READY, STOP, BatchLease
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import GroupRequest
from tests.unit.orchestrator.fakes import (
    DIED,
    GROUP_SIZE,
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


async def test_steps_follow_deliveries_and_every_group_is_used_once() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    used: list[int] = []
    for step in range(3):
        lease = await batch_of(coordinator, step)
        assert (lease.step, lease.num_groups_total) == (step, 3)
        assert lease.counters == {
            "groups_used": 3, "groups_dropped": 0, "groups_filtered": 0, "groups_stale": 0,
            "stale_length_ratio": 0.0, "staleness_mean": 0.0,
        }  # fmt: skip
        used += ids_of(lease)
        receipt = await coordinator.publish(make_payload(step + 1))
        assert receipt is not None
        assert receipt["delivery_difference_max"] == 0
    assert used == list(range(9))
    assert [worker.delivered for worker in pool.made] == [[0, 1, 2, 3]] * 2
    assert all(worker.requests for worker in pool.made)  # both had work


async def test_requests_depend_on_the_group_alone() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    await batch_of(coordinator, 0)
    config = make_config()
    requests = {request.group_id: request for worker in pool.made for request in worker.requests}
    assert sorted(requests) == [0, 1, 2]
    for group_id, request in requests.items():
        assert request.prompt == build_task(config.task).training_prompt(group_id, 7)
        assert request.seeds == tuple(sample_seed(7, group_id, index) for index in range(GROUP_SIZE))


async def test_ranks_share_one_batch_and_asking_again_gives_the_same() -> None:
    coordinator = await started(FakePool())
    shares = [await batch_of(coordinator, 0, rank, 2) for rank in (0, 1, 1)]
    assert [ids_of(share) for share in shares] == [[0, 2], [1], [1]]
    assert {share.num_groups_total for share in shares} == {3}


async def test_nothing_starts_before_a_delivery_was_proven_nor_more_than_a_batch_after() -> None:
    pool = FakePool()
    coordinator = make_coordinator(pool)
    await coordinator.begin_attempt(None)
    assert await coordinator.next_batch(1, 0, 0, 1) == NOT_READY
    assert all(not worker.requests for worker in pool.made)
    await coordinator.publish(make_payload(0))
    await batch_of(coordinator, 0)
    assert await coordinator.next_batch(1, 1, 0, 1) == NOT_READY  # version 1 is not there yet
    assert sum(len(worker.requests) for worker in pool.made) == 3


async def test_at_staleness_one_workers_go_on_while_the_learner_works() -> None:
    pool = FakePool()
    coordinator = await started(pool, make_config(rollout={"max_staleness": 1}))
    assert ids_of(await batch_of(coordinator, 0)) == [0, 1, 2]
    await coordinator.publish(make_payload(1))
    lease = await batch_of(coordinator, 1)
    assert ids_of(lease) == [3, 4, 5]
    assert lease.counters["staleness_mean"] == 1.0  # sampled by version 0, trained on by version 1


async def test_a_worker_that_lies_about_its_version_ends_the_run() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    await batch_of(coordinator, 0)
    pool.made[1].lies = True
    assert await coordinator.publish(make_payload(1)) is None
    failure = await failure_of(coordinator)
    assert isinstance(failure, WeightSyncMismatch)
    assert re.search(r"worker-1 .*policy-a1-v1-00000000.*\b0\.5\b", str(failure))
    assert await coordinator.next_batch(1, 1, 0, 1) == STOP


async def test_a_lost_workers_groups_come_again_once_and_alike() -> None:
    pool = FakePool()
    pool.made[0].fails = DIED
    coordinator = await started(pool)
    assert ids_of(await batch_of(coordinator, 0)) == [0, 1, 2]
    assert [worker.name for worker in pool.made] == ["worker-0", "worker-1", "worker-0+"]
    assert pool.made[2].delivered == [0]  # the replacement got the version before any group
    tries: dict[int, list[GroupRequest]] = {}
    for worker in pool.made:
        for request in worker.requests:
            tries.setdefault(request.group_id, []).append(request)
    lost = {request.group_id for request in pool.made[0].requests}
    assert lost
    assert {group_id: len(items) for group_id, items in tries.items()} == {
        group_id: 2 if group_id in lost else 1 for group_id in range(3)
    }
    assert all(item == items[0] for items in tries.values() for item in items)
    assert await coordinator.failure() is None


async def test_a_worker_that_misses_the_delivery_deadline_is_replaced() -> None:
    pool = FakePool()
    coordinator = await started(pool, make_config(delivery={"timeout_s": 0.05}))
    await batch_of(coordinator, 0)
    pool.made[0].delivery_hangs = True
    assert await coordinator.publish(make_payload(1)) is not None
    assert [worker.name for worker in pool.workers] == ["worker-0+", "worker-1"]
    assert 1 in pool.made[2].delivered
    assert ids_of(await batch_of(coordinator, 1)) == [3, 4, 5]


async def test_a_worker_that_answers_no_call_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sync_manager, "PING_S", 0.05)
    pool = FakePool()
    pool.made[0].held = asyncio.Event()
    coordinator = await started(pool, make_config(rollout={"group_timeout_s": 0.05}))
    assert ids_of(await batch_of(coordinator, 0)) == [0, 1, 2]
    assert pool.workers[0].name == "worker-0+"
    (incident,) = [
        item for item in (await coordinator.progress())["incidents"] if item["kind"] == "worker_replaced"
    ]
    assert "TimeoutError: no answer within 0.05 s" in incident["message"]


async def test_load_may_wait_for_the_groups_before_it() -> None:
    """At S > 0 an engine of one version ends its groups first; they may take longer than a load."""
    pool = FakePool(1)
    worker = pool.made[0]
    worker.held, worker.delivery_gate = asyncio.Event(), asyncio.Event()
    worker.delivery_gate.set()
    config = make_config(rollout={"max_staleness": 1}, delivery={"timeout_s": 0.05})
    coordinator = await started(pool, config)
    await until(lambda: len(worker.requests) > 0)
    worker.delivery_gate.clear()
    published = asyncio.create_task(coordinator.publish(make_payload(1)))
    await asyncio.sleep(0.3)
    worker.held.set()
    worker.delivery_gate.set()
    assert await published is not None and len(pool.made) == 1


async def test_groups_that_are_all_truncated_end_the_run_with_the_reason() -> None:
    pool = FakePool(1)
    pool.made[0].num_taking_part = 1
    coordinator = await started(pool, make_config(algorithm={"type": "grpo", "truncated": "drop"}))
    failure = await failure_of(coordinator)
    assert isinstance(failure, RolloutError)
    assert re.search(r"truncated=drop left 1 of \d+ .*max_completion_tokens=", str(failure))


async def test_too_many_lost_workers_end_the_run() -> None:
    pool = FakePool(1)
    pool.made[0].fails = DIED
    pool.broken = lambda worker: setattr(worker, "fails", DIED)
    coordinator = await started(pool, make_config(rollout={"max_worker_replacements": 2}))
    failure = await failure_of(coordinator)
    assert isinstance(failure, RolloutError)
    assert re.search(r"\b3 rollout workers .*rollout\.max_worker_replacements=2", str(failure))


async def test_a_users_mistake_ends_the_run_and_costs_no_worker() -> None:
    pool = FakePool(1)
    cause = DataError("prompt 'p' has 99 tokens, the limit is 16")
    pool.made[0].fails = ray.exceptions.RayTaskError("rollout", "traceback", cause)
    coordinator = await started(pool)
    assert await failure_of(coordinator) is cause
    assert len(pool.made) == 1


async def test_a_group_with_too_few_scores_is_dropped_and_replaced() -> None:
    pool = FakePool(1)
    config = make_config(reward={"type": "verifier", "service": {"max_unscored_share": 1.0}})
    pool.made[0].num_scored = 1
    pool.made[0].held = asyncio.Event()
    coordinator = await started(pool, config)
    pool.made[0].held.set()
    while len(pool.made[0].requests) < 4:
        await asyncio.sleep(0)
    pool.made[0].num_scored = 3
    lease = await batch_of(coordinator, 0)
    assert len(lease.refs) == 3
    dropped = int(lease.counters["groups_dropped"])
    assert dropped >= 1
    assert sorted({*range(3 + dropped)} - set(ids_of(lease)))[:1] == [0]


async def test_groups_that_teach_nothing_are_replaced_up_to_the_limit_by_their_ids() -> None:
    pool = FakePool(2)
    for fake in pool.made:
        fake.has_signal = lambda group_id: group_id in (1, 4)
    config = make_config(
        rollout={"prompts_per_step": 3},
        algorithm={"type": "rloo", "dynamic_sampling": True, "max_resampled_batches": 2},
    )
    coordinator = await started(pool, config)
    lease = await batch_of(coordinator, 0)
    # 0, 2, 3 and 5 are replaced; 6 comes after two batches of three and is taken as it is.
    assert ids_of(lease) == [1, 4, 6]
    assert (lease.counters["groups_filtered"], lease.counters["groups_dropped"]) == (4, 0)


async def test_too_many_unscored_completions_end_the_run_with_the_reason() -> None:
    pool = FakePool(1)
    pool.made[0].num_scored = 2
    coordinator = await started(pool, make_config(reward={"service": {"max_unscored_share": 0.25}}))
    failure = await failure_of(coordinator)
    assert isinstance(failure, RewardError)
    assert re.search(r"\b4 of .*\b8 completions", str(failure))
    assert str(failure).endswith("the judge was away")


async def test_a_reward_service_that_was_asked_again_is_one_incident_while_the_reason_stays() -> None:
    pool = FakePool(1)
    coordinator = await started(pool)
    pool.made[0].retried = "ActorDiedError: the replica is gone"
    await batch_of(coordinator, 0)
    await coordinator.publish(make_payload(1))
    await batch_of(coordinator, 1)
    (incident,) = (await coordinator.progress())["incidents"]
    assert incident["kind"] == "reward_retried"
    assert re.search(r"group 0 .*: ActorDiedError: the replica is gone$", incident["message"])


async def test_an_attempt_that_ended_is_told_to_stop_and_its_groups_come_again() -> None:
    pool = FakePool()
    coordinator = await started(pool)
    await batch_of(coordinator, 0)
    await coordinator.publish(make_payload(1))
    snapshot = await coordinator.snapshot()
    assert ids_of(await batch_of(coordinator, 1)) == [3, 4, 5]

    assert await coordinator.begin_attempt(snapshot) == 2
    assert await coordinator.next_batch(1, 1, 0, 1) == STOP
    assert await coordinator.publish(make_payload(1, attempt=2)) is not None
    for _ in range(40):
        answer = await coordinator.next_batch(2, 1, 0, 1)
        if isinstance(answer, BatchLease):
            break
    assert isinstance(answer, BatchLease)
    assert ids_of(answer) == [3, 4, 5]
    assert (await coordinator.progress())["phase"] == "training"


async def test_a_group_of_an_ended_attempt_is_ignored_when_it_arrives() -> None:
    pool = FakePool(1)
    held = pool.made[0].held = asyncio.Event()
    coordinator = await started(pool)
    await asyncio.sleep(0)
    await coordinator.begin_attempt(None)
    held.set()
    await asyncio.sleep(0.01)
    assert (await coordinator.snapshot())["pending"] == []
    assert await coordinator.failure() is None
    assert await coordinator.publish(make_payload(0, attempt=2)) is not None
    answer = await coordinator.next_batch(2, 0, 0, 1)
    assert isinstance(answer, BatchLease)
    assert ids_of(answer) == [0, 1, 2]


async def test_alarm_is_shown_once_and_ends_the_run_with_action_stop() -> None:
    coordinator = make_coordinator(FakePool(), make_config())
    await coordinator.begin_attempt(None)
    await coordinator.report({"step": 0, "monitor/mismatch": 0})
    assert (await coordinator.progress())["alarms"] == []
    for step in (1, 2):
        await coordinator.report({"step": step, "monitor/mismatch": 1})
    (text,) = (await coordinator.progress())["alarms"]
    assert "monitor mismatch" in text and await coordinator.failure() is None
    monitors = ["@low_ess", {"preset": "@mismatch", "action": "stop"}]
    stopping = make_coordinator(FakePool(), make_config(monitors=monitors))
    await stopping.begin_attempt(None)
    await stopping.report({"step": 6, "monitor/low_ess": 1, "monitor/mismatch": 0})
    assert await stopping.failure() is None
    await stopping.report({"step": 7, "monitor/low_ess": 1, "monitor/mismatch": 1})
    failure = await stopping.failure()
    assert isinstance(failure, MonitorStopped)
    assert re.search(r"step 7: .*mismatch.* 0\.05.*rollout\.max_staleness", str(failure))
    assert await stopping.next_batch(1, 0, 0, 1) == STOP
