"""Rollout workers that several runs use at the same time.

    FleetKeeper (actor) --owns--> RolloutPool --> workers
        ^  replace(worker)                          ^
        '---- SharedPool of run a ------------------|  groups and versions carry the run's name
        '---- SharedPool of run b ------------------'

Workers live as long as the keeper, so a run that is ended takes none with it. Each run finds out for itself that a
worker is gone; the first to say so has it replaced, the others are given the same replacement.
"""

from __future__ import annotations

import copy
import uuid
from typing import Any

import ray

from polyray.cluster.session import NAMESPACE, on_this_node
from polyray.config.rollout import RolloutSpec
from polyray.orchestrator.rollout_pool import PoolWorker, RolloutPool
from polyray.rollout.engine import EngineSettings

CALL_TIMEOUT_S = 60.0


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
