"""Coordinator's side of validation: sends fixed prompts to workers that serve a version.

A group counts for the version that sampled it, so at S > 0 its prompts are handed out before any later version
can be delivered. A group of a lost worker goes to another that serves the version. If none does, it is counted as
lost (polyray/periodic_eval.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ray.exceptions

from polyray.config.run import TrainConfig
from polyray.orchestrator.rollout_actor import Scoring
from polyray.orchestrator.weight_sync_manager import WeightSyncManager
from polyray.orchestrator.worker_table import RunState, WorkerTable
from polyray.periodic_eval import Validation
from polyray.tasks.base import Task
from polyray.types import GroupRequest, PolicyVersion


class PeriodicEval:
    """Belongs to the coordinator's event loop; does nothing where the configuration has no rounds."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        table: WorkerTable,
        sync: WeightSyncManager,
        scoring: Scoring,
        run_state: RunState,
    ) -> None:
        self._config = config
        self._table = table
        self._sync = sync
        self._scoring = scoring
        self._run_state = run_state
        self._plan = config.eval_plan
        self._validation = None if self._plan is None else Validation(config, self._plan, task)
        self._out = 0
        self.num_tokens = 0
        """Tokens sampled in rounds since the run was started, used or not."""

    def due(self, version: int) -> bool:
        """Whether this version has a round."""
        return self._plan is not None and self._plan.schedule.due(version)

    @property
    def are_out(self) -> bool:
        """Whether engines sample groups of a round."""
        return self._out > 0

    def restart(self) -> None:
        """Begin a new attempt: the same version numbers return with other bytes."""
        if self._validation is not None:
            self._validation.restart()

    def begin(self, policy: PolicyVersion) -> None:
        """Hands out every prompt, in turn to the workers that serve this version."""
        assert self._validation is not None
        requests = self._validation.requests()
        for index, request in enumerate(requests):
            # An engine knows its groups by their ids: those of two versions may be under way at once.
            group_id = request.group_id - policy.version * len(requests)
            self._sync.spawn(self._ask(policy, index, replace(request, group_id=group_id, run=policy.run)))

    def result(self, version: int) -> Mapping[str, float] | None:
        """The values of a version; None while groups are out."""
        return None if self._validation is None else self._validation.result(version)

    def _is_wanted(self, policy: PolicyVersion) -> bool:
        """Whether the run goes on and a worker serves this version, or will: it is the newest one."""
        current = self._run_state.failure is None and self._table.attempt == policy.attempt
        return current and (self._table.newest == policy or bool(self._table.serving(policy)))

    async def _ask(self, policy: PolicyVersion, index: int, request: GroupRequest) -> None:
        assert self._validation is not None
        summary = None
        self._out += 1
        while summary is None and self._is_wanted(policy):
            serving = self._table.serving(policy)
            if not serving:  # a replacement is on its way to it
                await self._run_state.woken()
                continue
            row = serving[index % len(serving)]
            row.validating += 1
            try:
                call = row.worker.handle.validate.remote(request, self._scoring, self._plan)
                summary = await self._sync.group_of(row, call)
            except (ray.exceptions.RayError, TimeoutError) as error:
                if self._table.attempt == policy.attempt:  # else the workers gave it up, as they should
                    await self._sync.recover(row, error)
            finally:
                row.validating -= 1
        self._out -= 1
        self.num_tokens += 0 if summary is None else summary.num_tokens
        if self._table.attempt == policy.attempt:
            self._validation.add(policy.version, index, summary)
        self._run_state.notify()
