"""Rollout workers, a pool and a coordinator as plain objects; no Ray runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray.exceptions

from polyray.config.run import TrainConfig
from polyray.config.service import ServiceSpec
from polyray.errors import PolyrayError
from polyray.models.adapter import PolicyUpdate, Probe
from polyray.orchestrator.coordinator import NOT_READY, BatchLease, Coordinator
from polyray.orchestrator.rollout_actor import RolloutReply, Scoring
from polyray.orchestrator.rollout_pool import PoolWorker
from polyray.periodic_eval import ValidationSummary
from polyray.types import GroupRequest, PolicyVersion
from polyray.weight_sync.proof import SyncAck

GROUP_SIZE = 4
DIED = ray.exceptions.ActorDiedError()


@dataclass
class FakeWorker:
    """A rollout worker's handle. Set `fails`, `refuses` or `delivery_hangs` to break it, `lies` to serve the
    version before."""

    name: str
    payload: PolicyUpdate | None = None
    delivered: list[int] = field(default_factory=list)
    requests: list[GroupRequest] = field(default_factory=list)
    validated: list[GroupRequest] = field(default_factory=list)
    num_scored: int = GROUP_SIZE
    num_taking_part: int | None = None
    retried: str | None = None
    has_signal: Callable[[int], bool] = lambda group_id: True
    lies: bool = False
    delivery_hangs: bool = False
    refuses: BaseException | None = None
    delivery_gate: asyncio.Event | None = None
    loading: int = 0
    fails: BaseException | None = None
    held: asyncio.Event | None = None
    asleep: bool = False
    sleeps: int = 0
    cannot_sleep: BaseException | None = None
    wakes_by_itself: bool = False
    sleep_gate: asyncio.Event | None = None

    @property
    def rollout(self) -> FakeWorker:
        return self

    def options(self, num_returns: int) -> FakeWorker:
        assert num_returns == 2
        return self

    def remote(self, request: GroupRequest, scoring: Scoring) -> tuple[Any, str]:
        assert self.wakes_by_itself or not self.asleep, "it was to be left alone"
        self.asleep = False
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
            self.num_scored if self.num_taking_part is None else self.num_taking_part,
            self.has_signal(request.group_id),
            0.1,
            0.1,
            reason,
            self.retried,
        )

    @property
    def usage(self) -> _Usage:
        return _Usage(self)

    @property
    def validate(self) -> _Validate:
        return _Validate(self)

    @property
    def deliver(self) -> _Deliver:
        return _Deliver(self)

    @property
    def sleep(self) -> _SleepCall:
        return _SleepCall(self)


@dataclass
class _Usage:
    worker: FakeWorker

    async def remote(self) -> None:
        if self.worker.held is not None:
            await self.worker.held.wait()


@dataclass
class _SleepCall:
    worker: FakeWorker

    async def remote(self) -> float:
        if self.worker.cannot_sleep is not None:
            raise self.worker.cannot_sleep
        if self.worker.sleep_gate is not None:
            await self.worker.sleep_gate.wait()
        await asyncio.sleep(0)
        self.worker.asleep = True
        self.worker.sleeps += 1
        return 0.1


@dataclass
class _Validate:
    worker: FakeWorker

    def remote(self, request: GroupRequest, scoring: Scoring, spec: Any) -> Any:
        self.worker.validated.append(request)
        return self._summary(self.worker.payload)  # the version that serves when the request arrives

    async def _summary(self, payload: PolicyUpdate | None) -> ValidationSummary:
        await asyncio.sleep(0)
        if self.worker.fails is not None:
            raise self.worker.fails
        assert payload is not None
        return ValidationSummary(payload.policy, 2, 2, 9, {"reward_mean": float(payload.policy.version)})


@dataclass
class _Deliver:
    worker: FakeWorker

    async def remote(self, payload: PolicyUpdate) -> tuple[SyncAck, float]:
        worker = self.worker
        if worker.delivery_hangs:
            await asyncio.sleep(60)
        worker.loading += 1
        if worker.delivery_gate is not None:
            await worker.delivery_gate.wait()
        worker.loading -= 1
        if worker.refuses is not None:
            raise worker.refuses
        worker.payload, worker.asleep = payload, False
        worker.delivered.append(payload.policy.version)
        probe = payload.probe
        logprobs = probe.previous if worker.lies and probe.previous is not None else probe.logprobs
        return SyncAck(worker.name, payload.policy.sha256, logprobs.copy(), 0.01, 0.01), 0.5


class FakePool:
    """Two workers; replacements are sound, unless `broken` says otherwise."""

    run = ""

    def __init__(self, num_workers: int = 2) -> None:
        self.made: list[FakeWorker] = []
        self.retired: list[str] = []
        self.broken: Callable[[FakeWorker], None] = lambda worker: None
        self.workers = [self._start(index, f"worker-{index}") for index in range(num_workers)]

    def _start(self, index: int, name: str) -> PoolWorker:
        fake = FakeWorker(name)
        self.broken(fake)
        self.made.append(fake)
        return PoolWorker(index, name, fake)

    def grow(self) -> list[PoolWorker]:
        """One more, in the lowest place that is empty."""
        there = {worker.index for worker in self.workers}
        index = min(set(range(len(there) + 1)) - there)
        more = self._start(
            index, f"worker-{index}" + "+" * sum(f"worker-{index}" in fake.name for fake in self.made)
        )
        self.workers.append(more)
        return [more]

    def replace(self, worker: PoolWorker) -> PoolWorker:
        new = self._start(worker.index, f"{worker.name}+")
        position = [other.index for other in self.workers].index(worker.index)
        self.workers[position] = new
        return new

    def retire(self, worker: PoolWorker) -> None:
        self.workers = [other for other in self.workers if other.index != worker.index]
        self.retired.append(worker.name)


def make_config(**sections: Any) -> TrainConfig:
    rollout = {"prompts_per_step": 3, "group_size": GROUP_SIZE, "num_workers": 2, "start_timeout_s": 5}
    values = {
        "name": "c",
        "seed": 7,
        "learner": {"steps": 10},
        "dynamics": None,
        **sections,
        "rollout": {**rollout, **sections.get("rollout", {})},
    }
    return TrainConfig.model_validate(values)


def make_coordinator(pool: FakePool, config: TrainConfig | None = None) -> Coordinator:
    config = config or make_config()
    limit_s = config.rollout.group_timeout_s
    scoring = Scoring("app", ServiceSpec(), False, config.algorithm, limit_s)
    return Coordinator(config, pool, scoring, "float32")  # type: ignore[arg-type]


def make_payload(version: int, attempt: int = 1) -> PolicyUpdate:
    """Each version answers the probe half a nat apart from the one before."""
    now = np.array([-0.5 * version, -1.0], np.float32)
    previous = None if version == 0 else np.array([-0.5 * (version - 1), -1.0], np.float32)
    policy = PolicyVersion(attempt, version, f"{version:064d}")
    return PolicyUpdate(policy, b"", None, Probe(((1, 2, 3),), now, previous))


async def batch_of(coordinator: Coordinator, step: int, rank: int = 0, world_size: int = 1) -> BatchLease:
    for _ in range(40):
        answer = await coordinator.next_batch(1, step, rank, world_size)
        if isinstance(answer, BatchLease):
            return answer
        assert answer == NOT_READY, await coordinator.failure()
    raise AssertionError("no batch came")


def ids_of(lease: BatchLease) -> list[int]:
    return [int(ref.rpartition("-")[2]) for ref in lease.refs]


async def until(condition: Callable[[], bool]) -> None:
    """Lets the coordinator's tasks go on until it holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass")


async def failure_of(coordinator: Coordinator) -> PolyrayError:
    for _ in range(100):
        failure = await coordinator.failure()
        if failure is not None:
            return failure
        await asyncio.sleep(0.01)
    raise AssertionError("the run did not fail")


async def started(pool: FakePool, config: TrainConfig | None = None) -> Coordinator:
    coordinator = make_coordinator(pool, config)
    assert await coordinator.begin_attempt(None) == 1
    assert await coordinator.publish(make_payload(0)) is not None
    return coordinator
