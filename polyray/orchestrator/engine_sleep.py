"""Sleep of engines that share the learner's GPU, while it works and while it restarts.

Belongs to the coordinator's event loop. Work wakes an engine: the next version, or a lost group that is sampled
again (polyray/rollout/sleeping.py).
"""

from __future__ import annotations

import asyncio

import ray.exceptions

from polyray.config.rollout import RolloutSpec
from polyray.orchestrator.rollout_pool import PoolWorker
from polyray.orchestrator.run_state import RunState
from polyray.orchestrator.serving_fleet import ServingFleet
from polyray.types import PolicyVersion


class EngineSleep:
    """Sleeping engines of a fleet."""

    def __init__(self, rollout: RolloutSpec, fleet: ServingFleet, run_state: RunState) -> None:
        self._rollout = rollout
        self._fleet = fleet
        self._run_state = run_state
        self._asleep: set[str] = set()
        self._since: PolicyVersion | None = None
        """The newest version when they fell asleep: a newer one has woken them."""
        self._falling = False

    def is_complete(self) -> bool:
        """Whether all engines sleep; ask the others to. The run_state changes when they do."""
        if self._awake():
            if not self._falling:
                self._fleet.spawn(self.fall())
            return False
        return True

    def wakes(self, name: str) -> None:
        """A group goes to this worker."""
        self._asleep.discard(name)

    async def fall(self) -> None:
        """Returns when every engine has given back its device's memory, those included that had to be replaced; or
        when a newer version has been published meanwhile."""
        self._falling = True
        newest = self._fleet.newest
        try:
            while (
                self._run_state.failure is None and self._fleet.newest == newest and (awake := self._awake())
            ):
                for worker in awake:
                    await self._put_to_sleep(worker)
        finally:
            self._falling = False
            self._run_state.changed.set()

    def _awake(self) -> list[PoolWorker]:
        if self._since != self._fleet.newest:
            self._since = self._fleet.newest
            self._asleep.clear()
        return [worker for worker in self._fleet.workers if worker.name not in self._asleep]

    async def _put_to_sleep(self, worker: PoolWorker) -> None:
        if self._fleet.lacks_newest(worker):  # a delivery would wake it again
            await self._run_state.woken()
            return
        newest, limits = self._fleet.newest, self._rollout
        allowance_s = 0.0 if self._fleet.served_by(worker) else limits.ready_within_s
        try:
            await asyncio.wait_for(worker.handle.sleep.remote(), limits.group_timeout_s + allowance_s)
        except (ray.exceptions.RayError, TimeoutError) as error:
            await self._fleet.recover(worker, error)
        else:
            if self._fleet.newest == newest:
                self._asleep.add(worker.name)
