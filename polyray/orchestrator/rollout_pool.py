"""Rollout workers in a pool: started together, asked one group at a time, replaced when they die.

`RolloutPool` keeps the handles of `RolloutActor`s; the coordinator uses it inside its event loop, an evaluation from
the driver. Trials of a sweep use one fleet at the same time:

    FleetKeeper (actor) --owns--> RolloutPool --> workers
        ^  replace(worker)                          ^
        '---- SharedPool of run a ------------------|  groups and versions carry the run's name
        '---- SharedPool of run b ------------------'

Its workers live as long as the keeper, so a run that is ended takes none with it. Each run finds out for itself that
a worker is gone; the first to say so has it replaced, the others are given the same replacement.
"""

from __future__ import annotations

import copy
import itertools
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from polyray.cluster.session import CPU_ENVIRONMENT, NAMESPACE, OUTSIDE_ANY_GROUP, on_this_node
from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError, is_user_error, root_cause
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.rollout_actor import RolloutActor
from polyray.rollout.engine import EngineSettings
from polyray.types import Group, GroupRequest
from polyray.weight_sync.proof import SyncAck

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 60.0
CALLS_PER_BATCH = 2
"""An evaluation's calls carry half of the sequences that an engine decodes together."""


@dataclass(slots=True)
class PoolWorker:
    """A live worker: its name is new with every replacement, its place in the pool is not."""

    index: int
    name: str
    handle: Any


class RolloutPool:
    """All rollout workers of a run, or of several successive runs on one base model.

    Workers start here and are usable after `build`. For runs at the same time see `SharedPool`.
    """

    run = ""
    """Name by which the engines know the run that uses this pool."""

    def __init__(self, owner: str, rollout: RolloutSpec) -> None:
        self.owner = owner
        self.rollout = rollout
        self._settings: EngineSettings | None = None
        self.workers = self._open()
        self._ending: set[str] = set()

    @property
    def settings(self) -> EngineSettings:
        """Settings of every engine of the pool."""
        if self._settings is None:
            raise RolloutError(f"the rollout pool of {self.owner} has no model yet; call build first")
        return self._settings

    def build(self, settings: EngineSettings) -> None:
        """Build the engine of every worker, in the background."""
        self._settings = settings
        for worker in self.workers:
            worker.handle.build.remote(settings)

    def wait_until_ready(self) -> list[dict[str, Any]]:
        """Blocks until every engine runs. Raises RolloutError naming the worker that does not, or what the user has
        to mend."""
        infos = []
        for index in range(len(self.workers)):
            try:
                infos.append(self._first_answer(index, lambda handle: handle.ready.remote()))
            except Exception as error:
                _pass_on_user_errors(error)
                raise RolloutError(
                    f"rollout worker {self.workers[index].name} did not start within "
                    f"{self.rollout.ready_within_s:g} s: {_first_cause(error)}"
                ) from error
        return infos

    def _first_answer(self, index: int, call: Callable[[Any], Any]) -> Any:
        """Answer of a starting worker, or of one replacement if the first is lost before it answers.

        Ray gives up actors that were starting when a node was lost.
        """
        timeout = self.rollout.ready_within_s
        try:
            return ray.get(call(self.workers[index].handle), timeout=timeout)
        except ray.exceptions.RayActorError as error:
            gone = self.workers[index]
            again = self.replace(gone)
            logger.warning(
                "rollout worker %s is gone before it was ready, %s starts: %s", gone.name, again.name, error
            )
            return ray.get(call(again.handle), timeout=timeout)

    def replace(self, worker: PoolWorker) -> PoolWorker:
        """End a worker in any state and start another in its place."""
        ray.kill(worker.handle)
        position = [other.index for other in self.workers].index(worker.index)
        self.workers[position] = self._start(worker.index)
        return self.workers[position]

    def grow(self) -> list[PoolWorker]:
        """Start the workers above num_workers, up to max_workers.

        Workers without room wait for it, so no caller may wait for them. They end with the process that calls
        this.
        """
        most = self.rollout.max_workers or self.rollout.num_workers
        there = {worker.index for worker in self.workers}
        more = [self._start(index) for index in range(self.rollout.num_workers, most) if index not in there]
        self.workers += more
        return more

    def retire(self, worker: PoolWorker) -> None:
        """Ends a worker and leaves its place empty, until the pool grows again."""
        ray.kill(worker.handle)
        self.workers = [other for other in self.workers if other.index != worker.index]

    def adopt(self, workers: list[PoolWorker]) -> None:
        """Takes over the pool's state from a copy that lived in another process (the coordinator's), without those
        that it grew by.

        Replacements that the copy started end with it, sooner or later, so the next `repair` starts them anew.
        """
        own = {worker.name for worker in self.workers}
        self.workers = [worker for worker in workers if worker.index < self.rollout.num_workers]
        self._ending |= {worker.name for worker in self.workers} - own

    def repair(self) -> None:
        """Replaces the workers that died since the pool was last used."""
        for worker in list(self.workers):
            if worker.name in self._ending or not self._is_alive(worker):
                self.replace(worker)
        self._ending.clear()
        self.wait_until_ready()

    def sleep(self) -> None:
        """Blocks until every engine runs and has given back its device's memory. Raises RolloutError naming the
        worker that does not start."""
        self.wait_until_ready()
        ray.get(
            [worker.handle.sleep.remote() for worker in self.workers], timeout=self.rollout.ready_within_s
        )

    def deliver(self, payload: PolicyUpdate, timeout_s: float) -> list[SyncAck]:
        """Blocks until every worker has answered for this version."""
        with _lost_engines(f"delivery.timeout_s={timeout_s:g}"):
            ref = ray.put(payload)
            answers = ray.get([w.handle.deliver.remote(ref) for w in self.workers], timeout=timeout_s)
        return [ack for ack, _ in answers]

    def sample(self, requests: Iterable[GroupRequest]) -> Iterator[Group]:
        """Groups as they finish, with every engine kept full; order is not that of the requests.

        A call carries half of what an engine decodes together: calls cost time on the engine's cores.
        """
        rollout = self.rollout
        per_call = max(1, rollout.max_sequences // (CALLS_PER_BATCH * rollout.group_size))
        window = max(2, 2 * rollout.max_sequences // (per_call * rollout.group_size))
        stream = iter(requests)
        waiting = iter(lambda: tuple(itertools.islice(stream, per_call)), ())
        running: dict[Any, PoolWorker] = {}
        for worker in self.workers:
            for _ in range(window):
                self._submit(waiting, worker, running)
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=rollout.group_timeout_s)
            if not done:
                raise RolloutError(
                    f"no group finished within rollout.group_timeout_s={rollout.group_timeout_s:g} s"
                )
            for ref in done:
                self._submit(waiting, running.pop(ref), running)
            with _lost_engines(f"rollout.group_timeout_s={rollout.group_timeout_s:g}"):
                answers = ray.get(done)
            for groups in answers:
                yield from groups

    def shutdown(self) -> None:
        """Ends every worker."""
        for worker in self.workers:
            ray.kill(worker.handle)
        self.workers = []

    def _submit(
        self, waiting: Iterator[Sequence[GroupRequest]], worker: PoolWorker, running: dict[Any, PoolWorker]
    ) -> None:
        requests = next(waiting, None)
        if requests is not None:
            running[worker.handle.sample.remote(requests)] = worker

    def _is_alive(self, worker: PoolWorker) -> bool:
        try:
            ray.get(worker.handle.ready.remote(), timeout=self.rollout.ready_within_s)
        except ray.exceptions.RayActorError:
            return False
        except (ray.exceptions.RayError, TimeoutError):
            return True  # it lives, but does not start: wait_until_ready says why
        return True

    def _open(self) -> list[PoolWorker]:
        return [self._start(index) for index in range(self.rollout.num_workers)]

    def _start(self, index: int) -> PoolWorker:
        rollout = self.rollout
        name = f"{self.owner}-rollout-{index}-{uuid.uuid4().hex[:6]}"
        actor = ray.remote(RolloutActor).options(
            name=name,
            namespace=NAMESPACE,
            num_cpus=rollout.cpus_per_worker,
            num_gpus=rollout.gpus_per_worker,
            label_selector=rollout.node_labels,
            max_concurrency=4096,
            scheduling_strategy=OUTSIDE_ANY_GROUP,
            runtime_env={
                "env_vars": {
                    "OMP_NUM_THREADS": str(rollout.threads_per_worker or 1),
                    **({} if rollout.gpus_per_worker else CPU_ENVIRONMENT),
                }
            },
        )
        worker = PoolWorker(index, name, actor.remote(name, rollout))
        if self._settings is not None:
            worker.handle.build.remote(self._settings)
        return worker


class FleetKeeper:
    """Owns the workers. Every method is called remotely, one at a time."""

    def __init__(self, owner: str, rollout: RolloutSpec) -> None:
        self._pool = RolloutPool(owner, rollout)

    def workers(self) -> list[PoolWorker]:
        """Current workers."""
        return self._pool.workers

    def build(self, settings: EngineSettings) -> None:
        """See `RolloutPool.build`."""
        self._pool.build(settings)

    def replace(self, index: int, name: str) -> PoolWorker:
        """The worker in this place, which is another one than `name`."""
        if self._pool.workers[index].name == name:
            self._pool.replace(self._pool.workers[index])
        return self._pool.workers[index]

    def forget(self, run: str) -> None:
        """A run has ended, however it did: the engines give up what it has under way."""
        for worker in self._pool.workers:
            worker.handle.forget.remote(run)


class SharedPool(RolloutPool):
    """The keeper's workers, as one of the runs sees them. Travels to the processes of the runs as a value."""

    def __init__(self, owner: str, rollout: RolloutSpec) -> None:
        """Start the keeper and the workers; `for_run` makes the copy of one run.

        All workers end with the keeper, so it runs on the caller's node, which all runs need anyway.
        """
        actor = ray.remote(FleetKeeper).options(
            name=f"{owner}-fleet-{uuid.uuid4().hex[:6]}",
            namespace=NAMESPACE,
            num_cpus=0,
            scheduling_strategy=on_this_node(),
        )
        self._keeper: Any = actor.remote(owner, rollout)
        super().__init__(owner, rollout)

    def for_run(self, run: str) -> SharedPool:
        """The same workers, for a run of this name; no two runs at the same time may have the same one."""
        pool = copy.copy(self)
        pool.run = run
        pool.workers = self._open()
        return pool

    def forget(self, run: str) -> None:
        """The run has ended: the engines work for the others alone."""
        ray.get(self._keeper.forget.remote(run), timeout=CALL_TIMEOUT_S)

    def build(self, settings: EngineSettings) -> None:
        """See `RolloutPool.build`."""
        self._settings = settings
        ray.get(self._keeper.build.remote(settings), timeout=CALL_TIMEOUT_S)

    def replace(self, worker: PoolWorker) -> PoolWorker:
        """Replace the worker in this place; another caller may have done so already."""
        replacement: Any = ray.get(
            self._keeper.replace.remote(worker.index, worker.name), timeout=CALL_TIMEOUT_S
        )
        self.workers[worker.index] = replacement
        return replacement

    def adopt(self, workers: list[PoolWorker]) -> None:
        """Take over these workers; they do not end with the process that replaced them."""
        self.workers = list(workers)

    def shutdown(self) -> None:
        """End every worker, of all runs; only the owner of the pool calls this."""
        super().shutdown()
        ray.kill(self._keeper)

    def _open(self) -> list[PoolWorker]:
        return ray.get(self._keeper.workers.remote(), timeout=self.rollout.start_timeout_s)


def _pass_on_user_errors(error: BaseException) -> None:
    cause = root_cause(error)
    if is_user_error(cause):
        raise cause from error


@contextmanager
def _lost_engines(limit: str) -> Iterator[None]:
    """Says in words that an engine has ended, or has not answered within `limit` (key=seconds)."""
    try:
        yield
    except ray.exceptions.RayActorError as error:
        raise RolloutError(
            f"an engine has ended ({str(error).splitlines()[0]}); the machine may be out of memory; start the same "
            "command again: what was sampled is kept"
        ) from error
    except ray.exceptions.GetTimeoutError as error:
        raise RolloutError(f"an engine has not answered within {limit} s; raise it") from error


def _first_cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[-1]}"
