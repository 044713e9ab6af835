"""The coordinator as a plain object, with workers that are plain objects too; no Ray runs.

What real actors do to it is shown in tests/integration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import ray
import ray.exceptions

from polyray.actors import coordinator as module
from polyray.actors.coordinator import NOT_READY, STOP, BatchLease, Coordinator
from polyray.actors.rollout_pool import PoolWorker, RolloutReply, Scoring
from polyray.config.run import TrainConfig
from polyray.config.service import ServiceSpec
from polyray.delivery.adapter import AdapterPayload, Probe
from polyray.delivery.proof import DeliveryAck
from polyray.errors import (
    DataError,
    OverOptimised,
    PolicyNotDelivered,
    PolyrayError,
    RewardError,
    RolloutError,
)
from polyray.rollout.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import GroupRequest, PolicyVersion

GROUP_SIZE = 4
DIED = ray.exceptions.ActorDiedError()


@dataclass
class FakeWorker:
    """A rollout worker's handle. Set `fails` or `hangs` to break it, `lies` to serve the version before."""

    name: str
    payload: AdapterPayload | None = None
    delivered: list[int] = field(default_factory=list)
    requests: list[GroupRequest] = field(default_factory=list)
    num_scored: int = GROUP_SIZE
    teaches: Callable[[int], bool] = lambda group_id: True
    lies: bool = False
    delivery_hangs: bool = False
    fails: BaseException | None = None
    held: asyncio.Event | None = None

    @property
    def rollout(self) -> FakeWorker:
        return self

    def options(self, num_returns: int) -> FakeWorker:
        assert num_returns == 2
        return self

    def remote(self, request: GroupRequest, scoring: Scoring) -> tuple[Any, str]:
        self.requests.append(request)
        return self._reply(request), f"{self.name}/group-{request.group_id}"

    async def _reply(self, request: GroupRequest) -> RolloutReply:
        if self.held is not None:
            await self.held.wait()
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        assert self.payload is not None
        reason = None if self.num_scored == GROUP_SIZE else "the judge was away"
        return RolloutReply(
            request.group_id,
            self.payload.policy,
            12,
            GROUP_SIZE,
            self.num_scored,
            self.num_scored,
            self.teaches(request.group_id),
            0.1,
            0.1,
            reason,
        )

    @property
    def deliver(self) -> _Deliver:
        return _Deliver(self)


@dataclass
class _Deliver:
    worker: FakeWorker

    async def remote(self, payload: AdapterPayload) -> tuple[DeliveryAck, float]:
        worker = self.worker
        if worker.delivery_hangs:
            await asyncio.sleep(60)
        worker.payload = payload
        worker.delivered.append(payload.policy.version)
        probe = payload.probe
        logprobs = probe.previous if worker.lies and probe.previous is not None else probe.logprobs
        return DeliveryAck(worker.name, payload.policy.sha256, logprobs.copy(), 0.01, 0.01), 0.5


class FakePool:
    """Two workers; replacements are sound, unless `broken` says otherwise."""

    def __init__(self, num_workers: int = 2) -> None:
        self.made: list[FakeWorker] = []
        self.broken: Callable[[FakeWorker], None] = lambda worker: None
        self.workers = [self._start(index, f"worker-{index}") for index in range(num_workers)]

    def _start(self, index: int, name: str) -> PoolWorker:
        fake = FakeWorker(name)
        self.broken(fake)
        self.made.append(fake)
        return PoolWorker(index, name, fake)

    def replace(self, worker: PoolWorker) -> PoolWorker:
        new = self._start(worker.index, f"{worker.name}+")
        self.workers[worker.index] = new
        return new


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(module, "LONG_POLL_S", 0.05)


def _config(**sections: Any) -> TrainConfig:
    rollout = {"prompts_per_step": 3, "group_size": GROUP_SIZE, "num_workers": 2, "start_timeout_s": 5}
    values = {
        "name": "c",
        "seed": 7,
        "learner": {"steps": 10},
        **sections,
        "rollout": {**rollout, **sections.get("rollout", {})},
    }
    return TrainConfig.model_validate(values)


def _coordinator(pool: FakePool, config: TrainConfig | None = None) -> Coordinator:
    config = config or _config()
    scoring = Scoring("app", ServiceSpec(), want_distances=False, algorithm=config.algorithm)
    return Coordinator(config, pool, scoring, "float32")  # type: ignore[arg-type]


def _payload(version: int, attempt: int = 1) -> AdapterPayload:
    """Each version answers the probe half a nat apart from the one before."""
    now = np.array([-0.5 * version, -1.0], np.float32)
    previous = None if version == 0 else np.array([-0.5 * (version - 1), -1.0], np.float32)
    policy = PolicyVersion(attempt, version, f"{version:064d}")
    return AdapterPayload(policy, b"", None, Probe(((1, 2, 3),), now, previous))


async def _batch(coordinator: Coordinator, step: int, rank: int = 0, world_size: int = 1) -> BatchLease:
    for _ in range(40):
        answer = await coordinator.next_batch(1, step, rank, world_size)
        if isinstance(answer, BatchLease):
            return answer
        assert answer == NOT_READY, await coordinator.failure()
    raise AssertionError("no batch came")


def _ids(lease: BatchLease) -> list[int]:
    return [int(ref.rpartition("-")[2]) for ref in lease.refs]


async def _failure(coordinator: Coordinator) -> PolyrayError:
    for _ in range(100):
        failure = await coordinator.failure()
        if failure is not None:
            return failure
        await asyncio.sleep(0.01)
    raise AssertionError("the run did not fail")


async def _started(pool: FakePool, config: TrainConfig | None = None) -> Coordinator:
    coordinator = _coordinator(pool, config)
    assert await coordinator.begin_attempt(None) == 1
    assert await coordinator.publish(_payload(0)) is not None
    return coordinator


async def test_steps_follow_deliveries_and_every_group_is_used_once() -> None:
    pool = FakePool()
    coordinator = await _started(pool)
    used: list[int] = []
    for step in range(3):
        lease = await _batch(coordinator, step)
        assert (lease.step, lease.num_groups_total) == (step, 3)
        assert lease.counters == {
            "groups_used": 3, "groups_dropped": 0, "groups_filtered": 0, "staleness_mean": 0.0,
        }  # fmt: skip
        used += _ids(lease)
        receipt = await coordinator.publish(_payload(step + 1))
        assert receipt is not None
        assert receipt["delivery_difference_max"] == 0
    assert used == list(range(9))
    assert [worker.delivered for worker in pool.made] == [[0, 1, 2, 3]] * 2
    assert all(worker.requests for worker in pool.made)  # both had work


async def test_requests_depend_on_the_group_alone() -> None:
    pool = FakePool()
    coordinator = await _started(pool)
    await _batch(coordinator, 0)
    config = _config()
    requests = {request.group_id: request for worker in pool.made for request in worker.requests}
    assert sorted(requests) == [0, 1, 2]
    for group_id, request in requests.items():
        assert request.prompt == build_task(config.task).training_prompt(group_id, 7)
        assert request.seeds == tuple(sample_seed(7, group_id, index) for index in range(GROUP_SIZE))


async def test_ranks_share_one_batch_and_asking_again_gives_the_same() -> None:
    coordinator = await _started(FakePool())
    shares = [await _batch(coordinator, 0, rank, 2) for rank in (0, 1, 1)]
    assert [_ids(share) for share in shares] == [[0, 2], [1], [1]]
    assert {share.num_groups_total for share in shares} == {3}


async def test_nothing_starts_before_a_delivery_was_proven_nor_more_than_a_batch_after() -> None:
    pool = FakePool()
    coordinator = _coordinator(pool)
    await coordinator.begin_attempt(None)
    assert await coordinator.next_batch(1, 0, 0, 1) == NOT_READY
    assert all(not worker.requests for worker in pool.made)
    await coordinator.publish(_payload(0))
    await _batch(coordinator, 0)
    assert await coordinator.next_batch(1, 1, 0, 1) == NOT_READY  # version 1 is not there yet
    assert sum(len(worker.requests) for worker in pool.made) == 3


async def test_at_staleness_one_workers_go_on_while_the_learner_works() -> None:
    pool = FakePool()
    coordinator = await _started(pool, _config(rollout={"max_staleness": 1}))
    assert _ids(await _batch(coordinator, 0)) == [0, 1, 2]
    await coordinator.publish(_payload(1))
    lease = await _batch(coordinator, 1)
    assert _ids(lease) == [3, 4, 5]
    assert lease.counters["staleness_mean"] == 1.0  # sampled by version 0, trained on by version 1


async def test_a_worker_that_lies_about_its_version_ends_the_run() -> None:
    pool = FakePool()
    coordinator = await _started(pool)
    await _batch(coordinator, 0)
    pool.made[1].lies = True
    assert await coordinator.publish(_payload(1)) is None
    failure = await _failure(coordinator)
    assert isinstance(failure, PolicyNotDelivered)
    assert "worker worker-1 does not serve policy-a1-v1-00000000" in str(failure)
    assert "differ from the learner's by 0.5" in str(failure)
    assert await coordinator.next_batch(1, 1, 0, 1) == STOP


async def test_a_lost_workers_groups_come_again_once_and_alike() -> None:
    pool = FakePool()
    pool.made[0].fails = DIED
    coordinator = await _started(pool)
    assert _ids(await _batch(coordinator, 0)) == [0, 1, 2]
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
    coordinator = await _started(pool, _config(delivery={"timeout_s": 0.05}))
    await _batch(coordinator, 0)
    pool.made[0].delivery_hangs = True
    assert await coordinator.publish(_payload(1)) is not None
    assert [worker.name for worker in pool.workers] == ["worker-0+", "worker-1"]
    assert 1 in pool.made[2].delivered
    assert _ids(await _batch(coordinator, 1)) == [3, 4, 5]


async def test_a_worker_that_misses_the_deadline_of_a_group_is_replaced() -> None:
    pool = FakePool()
    pool.made[0].held = asyncio.Event()
    coordinator = await _started(pool, _config(rollout={"group_timeout_s": 0.05}))
    assert _ids(await _batch(coordinator, 0)) == [0, 1, 2]
    assert pool.workers[0].name == "worker-0+"


async def test_too_many_lost_workers_end_the_run() -> None:
    pool = FakePool(1)
    pool.made[0].fails = DIED
    pool.broken = lambda worker: setattr(worker, "fails", DIED)
    coordinator = await _started(pool, _config(rollout={"max_worker_replacements": 2}))
    failure = await _failure(coordinator)
    assert isinstance(failure, RolloutError)
    assert "3 rollout workers were lost, more than rollout.max_worker_replacements=2" in str(failure)


async def test_a_users_mistake_ends_the_run_and_costs_no_worker() -> None:
    pool = FakePool(1)
    cause = DataError("prompt 'p' has 99 tokens, the limit is 16")
    pool.made[0].fails = ray.exceptions.RayTaskError("rollout", "traceback", cause)
    coordinator = await _started(pool)
    assert await _failure(coordinator) is cause
    assert len(pool.made) == 1


async def test_a_group_with_too_few_scores_is_dropped_and_replaced() -> None:
    pool = FakePool(1)
    config = _config(reward={"type": "verifier", "service": {"max_unscored_share": 1.0}})
    pool.made[0].num_scored = 1
    pool.made[0].held = asyncio.Event()
    coordinator = await _started(pool, config)
    pool.made[0].held.set()
    while len(pool.made[0].requests) < 4:
        await asyncio.sleep(0)
    pool.made[0].num_scored = 3
    lease = await _batch(coordinator, 0)
    assert len(lease.refs) == 3
    dropped = int(lease.counters["groups_dropped"])
    assert dropped >= 1
    assert sorted({*range(3 + dropped)} - set(_ids(lease)))[:1] == [0]


async def test_groups_that_teach_nothing_are_replaced_up_to_the_limit_by_their_ids() -> None:
    pool = FakePool(2)
    for fake in pool.made:
        fake.teaches = lambda group_id: group_id in (1, 4)
    config = _config(
        rollout={"prompts_per_step": 3},
        algorithm={"type": "rloo", "dynamic_sampling": True, "max_resampled_batches": 2},
    )
    coordinator = await _started(pool, config)
    lease = await _batch(coordinator, 0)
    # 0, 2, 3 and 5 are replaced; 6 comes after two batches of three and is taken as it is.
    assert _ids(lease) == [1, 4, 6]
    assert (lease.counters["groups_filtered"], lease.counters["groups_dropped"]) == (4, 0)


async def test_too_many_unscored_completions_end_the_run_with_the_reason() -> None:
    pool = FakePool(1)
    pool.made[0].num_scored = 2
    coordinator = await _started(pool, _config(reward={"service": {"max_unscored_share": 0.25}}))
    failure = await _failure(coordinator)
    assert isinstance(failure, RewardError)
    assert "4 of the last 8 completions could not be scored" in str(failure)
    assert str(failure).endswith("the judge was away")


async def test_an_attempt_that_ended_is_told_to_stop_and_its_groups_come_again() -> None:
    pool = FakePool()
    coordinator = await _started(pool)
    await _batch(coordinator, 0)
    await coordinator.publish(_payload(1))
    snapshot = await coordinator.snapshot()
    assert _ids(await _batch(coordinator, 1)) == [3, 4, 5]

    assert await coordinator.begin_attempt(snapshot) == 2
    assert await coordinator.next_batch(1, 1, 0, 1) == STOP
    assert await coordinator.publish(_payload(1, attempt=2)) is not None
    for _ in range(40):
        answer = await coordinator.next_batch(2, 1, 0, 1)
        if isinstance(answer, BatchLease):
            break
    assert isinstance(answer, BatchLease)
    assert _ids(answer) == [3, 4, 5]
    assert (await coordinator.progress())["phase"] == "training"


async def test_a_group_of_an_ended_attempt_is_ignored_when_it_arrives() -> None:
    pool = FakePool(1)
    held = pool.made[0].held = asyncio.Event()
    coordinator = await _started(pool)
    await asyncio.sleep(0)
    await coordinator.begin_attempt(None)
    held.set()
    await asyncio.sleep(0.01)
    assert (await coordinator.snapshot())["pending"] == []
    assert await coordinator.failure() is None
    assert await coordinator.publish(_payload(0, attempt=2)) is not None
    answer = await coordinator.next_batch(2, 0, 0, 1)
    assert isinstance(answer, BatchLease)
    assert _ids(answer) == [0, 1, 2]


def _parted(step: int) -> dict[str, Any]:
    return {"step": step, "over_optimisation": 1}


async def test_an_alarm_is_shown_and_ends_the_run_only_where_it_is_to() -> None:
    watched = {"second_opinion": {"type": "heuristic"}, "over_optimisation": {"stop": False}}
    coordinator = _coordinator(FakePool(), _config(**watched))
    await coordinator.report({"step": 0, "over_optimisation": 0})
    assert (await coordinator.progress())["alarms"] == 0
    await coordinator.report(_parted(1))
    assert (await coordinator.progress())["alarms"] == 1 and await coordinator.failure() is None
    stopping = _coordinator(FakePool(), _config(**watched | {"over_optimisation": {"stop": True}}))
    await stopping.begin_attempt(None)
    await stopping.report(_parted(7))
    failure = await stopping.failure()
    assert isinstance(failure, OverOptimised) and "stopped after step 7: over-optimisation" in str(failure)
    assert await stopping.next_batch(1, 0, 0, 1) == STOP
