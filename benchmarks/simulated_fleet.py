"""Many rollout workers in few processes: RolloutWorkers on simulated engines, behind handles like RolloutActor's.

    Coordinator -- HostedHandle.rollout.remote --> SimulatedHost (an actor) -- RolloutActor (plain object) -- engine

A Ray actor takes 150 MB and more, so a machine of two cores holds a few, and 256 workers need hosts. The measured
parts (coordinator, pool, ledger, registry) do not notice: the calls, their payloads and their number are those
of a real run; only the number of connections is that of the hosts. Hosts also record the time of events, on the
machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray

from benchmarks.measure import resident_bytes
from polyray.cluster.session import NAMESPACE
from polyray.config.rollout import RolloutSpec
from polyray.config.service import ServiceSpec
from polyray.errors import RolloutError
from polyray.orchestrator.coordinator import Coordinator
from polyray.orchestrator.reward_client import RewardClient
from polyray.orchestrator.rollout_actor import RolloutActor
from polyray.orchestrator.rollout_pool import PoolWorker, RolloutPool
from polyray.rewards.base import GroupScores
from polyray.rewards.groups import GroupToScore

REWARD_APP = "simulated-reward"
WORKERS_PER_HOST = 64
LAG_INTERVAL_S = 0.05


@dataclass(slots=True)
class Observations:
    """Events of the workers of one host, or of all; times are `time.perf_counter()` of the machine.

    Example:
        Observations(scored={40: 12.5}, refill_s=[(12.5, .002)], deliveries={1: [12.1, 12.2]},
                     busy={"rollout-0": [(12.1, 4.0), (20.3, 12.1)]})
    """

    scored: dict[int, float] = field(default_factory=dict)
    """Group -> when its reply left the worker."""
    refill_s: list[tuple[float, float]] = field(default_factory=list)
    """(when, seconds between a group leaving a worker and the next one's arrival in its place)."""
    deliveries: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Version -> when each worker had loaded it and answered its probe."""
    busy: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """Worker -> (when, seconds its engine had spent decoding), at every delivery."""
    start_s: dict[str, float] = field(default_factory=dict)
    """Worker -> seconds from the creation of its process to its first version, served and proven."""

    def merge(self, other: Observations) -> None:
        """Adds what another host saw."""
        self.scored |= other.scored
        self.refill_s += other.refill_s
        for version, times in other.deliveries.items():
            self.deliveries[version] += times
        self.busy |= other.busy
        self.start_s |= other.start_s


class SimulatedHost:
    """An actor that carries rollout workers; the first call to a name starts it."""

    def __init__(self, rollout: RolloutSpec, score_s: float, created: float) -> None:
        """`created`: time at which this process was requested."""
        self._rollout = rollout
        self._created = created
        self._score_s = score_s
        self._clients = {REWARD_APP: RewardClient(REWARD_APP, ServiceSpec(), self._score)}
        self._workers: dict[str, RolloutActor] = {}
        self._gone: set[str] = set()
        self._room: dict[str, deque[float]] = defaultdict(deque)
        self._seen = Observations()

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """Any method of RolloutActor, on the worker of this name."""
        if name in self._gone:
            raise RolloutError(f"rollout worker {name} was replaced")
        if name not in self._workers:
            self._workers[name] = RolloutActor(name, self._rollout, self._clients)
        if method == "rollout" and self._room[name]:
            now = time.perf_counter()
            self._seen.refill_s.append((now, now - self._room[name].popleft()))
        answer = await getattr(self._workers[name], method)(*arguments)
        self._note(name, method, arguments, answer)
        return answer

    async def discard(self, name: str) -> None:
        """The worker is replaced; its thread ends with this process."""
        self._gone.add(name)
        self._workers.pop(name, None)

    async def observations(self) -> Observations:
        """Observations since the start."""
        return self._seen

    def _note(self, name: str, method: str, arguments: tuple[Any, ...], answer: Any) -> None:
        now = time.perf_counter()
        if method == "rollout":
            self._room[name].append(now)
            self._seen.scored[answer[0].group_id] = now
        elif method == "deliver":
            self._seen.deliveries[arguments[0].policy.version].append(now)
            self._seen.busy[name].append((now, answer[1]))
            self._seen.start_s.setdefault(name, now - self._created)

    async def _score(self, requests: list[GroupToScore]) -> list[GroupScores]:
        await asyncio.sleep(self._score_s)
        return [_scores(len(request.texts)) for request in requests]


def _scores(num_texts: int) -> GroupScores:
    rewards_G = np.arange(num_texts) / num_texts
    return GroupScores(rewards_G, np.zeros(num_texts, np.int64), None, {}, (None,) * num_texts)


@dataclass(frozen=True)
class HostedHandle:
    """Looks like the handle of a RolloutActor."""

    host: Any
    name: str

    def __getattr__(self, method: str) -> HostedMethod:
        if method.startswith("_"):
            raise AttributeError(method)
        return HostedMethod(self.host, self.name, method)


@dataclass(frozen=True)
class HostedMethod:
    """Looks like one of its methods."""

    host: Any
    worker: str
    method: str
    ray_options: Mapping[str, Any] = field(default_factory=dict)

    def options(self, **ray_options: Any) -> HostedMethod:
        """Same as in Ray."""
        return replace(self, ray_options=ray_options)

    def remote(self, *arguments: Any) -> Any:
        """Same as in Ray."""
        return self.host.call.options(**self.ray_options).remote(self.worker, self.method, *arguments)


class SimulatedPool(RolloutPool):
    """A RolloutPool with workers in hosts."""

    def __init__(self, owner: str, rollout: RolloutSpec, score_s: float) -> None:
        self._score_s = score_s
        self._shared: dict[int, Any] = {}
        self._num_started = 0
        super().__init__(owner, rollout)

    @property
    def hosts(self) -> list[Any]:
        """Every process that carries workers."""
        return list(self._shared.values())

    def replace(self, worker: PoolWorker) -> PoolWorker:
        """See RolloutPool.replace; the host lives on."""
        worker.handle.host.discard.remote(worker.name)
        self.workers[worker.index] = self._start(worker.index)
        return self.workers[worker.index]

    def shutdown(self) -> None:
        """Ends the hosts."""
        for host in self.hosts:
            ray.kill(host)
        self.workers = []

    def _start(self, index: int) -> PoolWorker:
        self._num_started += 1
        name = f"{self.owner}-rollout-{index}-{self._num_started}"
        worker = PoolWorker(index, name, HostedHandle(self._host_of(index), name))
        if self._settings is not None:
            worker.handle.build.remote(self._settings)
        return worker

    def _host_of(self, index: int) -> Any:
        place = index % -(-self.rollout.num_workers // WORKERS_PER_HOST)
        if place not in self._shared:
            self._shared[place] = self._new_host()
        return self._shared[place]

    def _new_host(self) -> Any:
        host = ray.remote(SimulatedHost).options(num_cpus=0, max_concurrency=1 << 16, namespace=NAMESPACE)
        return host.remote(self.rollout, self._score_s, time.perf_counter())


class KillablePool(SimulatedPool):
    """A pool with one process per worker, so that each can be killed by itself."""

    @property
    def hosts(self) -> list[Any]:
        """Every process that carries a worker."""
        return [worker.handle.host for worker in self.workers]

    def replace(self, worker: PoolWorker) -> PoolWorker:
        """See RolloutPool.replace."""
        ray.kill(worker.handle.host)
        self.workers[worker.index] = self._start(worker.index)
        return self.workers[worker.index]

    def _host_of(self, index: int) -> Any:
        return self._new_host()


class MeasuredCoordinator(Coordinator):
    """The coordinator, which also says what it costs."""

    _lags: list[float]

    async def usage(self) -> dict[str, Any]:
        """Processor seconds and resident bytes of this process so far, and how late its event loop was since the
        last call, sampled every LAG_INTERVAL_S."""
        if not hasattr(self, "_lags"):
            self._lags = []
            self._watch = asyncio.create_task(self._watch_loop())
        lags, self._lags = self._lags, []
        return {"cpu_s": time.process_time(), "resident_bytes": resident_bytes(), "lag_s": lags}

    async def _watch_loop(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_INTERVAL_S)
            self._lags.append(time.perf_counter() - before - LAG_INTERVAL_S)
