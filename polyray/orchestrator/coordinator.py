"""Coordinator of a run: dispatches groups, cuts batches, delivers and verifies every version.

    learner: begin_attempt -> publish(v) -> next_batch(v) -> publish(v + 1) -> ...
                                 |               ^
             deliver + prove     v               | scored groups, S-gated
                    every rollout worker --------'

An async actor that composes plain classes (RolloutBuffer, Dispatcher, PolicyRegistry, the task's prompt stream) and
holds metadata and references only. All calls into rollout workers are made here and in serving_fleet.py, each with
a deadline; a worker that misses one is replaced and its groups are sampled again. Workers of Ray Train cannot be
called, so they pull. A fatal error is kept in `failure`: the learner then gets STOP and the driver raises the error.

At S = 0 a publish returns when every worker serves the version. At S > 0 it returns at once, and the workers load
the version one by one while the others sample and the learner continues.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import ray
import ray.exceptions

from polyray.config.run import TrainConfig
from polyray.errors import PolyrayError, WeightSyncMismatch
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.batch_lease import BatchLease, lease_of
from polyray.orchestrator.checkpoint_return import report_lost_validation, restore_groups
from polyray.orchestrator.dispatch import ExpectedLengths
from polyray.orchestrator.engine_sleep import EngineSleep
from polyray.orchestrator.reward_failure_monitor import RewardFailureMonitor
from polyray.orchestrator.rollout_actor import RolloutReply, Scoring
from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.orchestrator.rollout_pool import PoolWorker, RolloutPool
from polyray.orchestrator.run_metrics import RunLoad, RunMetrics
from polyray.orchestrator.run_progress import RunProgress
from polyray.orchestrator.run_state import RunState
from polyray.orchestrator.serving_fleet import ServingFleet
from polyray.orchestrator.stopping_alarms import stop_reason
from polyray.orchestrator.trainer_liveness import RESTARTING, TrainerLiveness
from polyray.orchestrator.validation_rounds import ValidationRounds
from polyray.runs.logging import log_as, log_at
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import GroupRequest

logger = logging.getLogger(__name__)

LONG_POLL_S = 1.0
NOT_READY: Literal["not_ready"] = "not_ready"
STOP: Literal["stop"] = "stop"
DRAIN: Literal["drain"] = "drain"


class Coordinator:
    """See the module. Every public method is called remotely."""

    def __init__(self, config: TrainConfig, pool: RolloutPool, scoring: Scoring, dtype: str) -> None:
        log_as("coordinator", config.name)
        self._config = config
        self._run = pool.run
        self._scoring = scoring
        self._task = build_task(config.task)
        self._buffer: RolloutBuffer[Any] = RolloutBuffer(
            config.rollout.prompts_per_step, config.rollout.max_staleness, config.learner.steps
        )
        self._run_state = RunState()
        self._fleet = ServingFleet(config, pool, dtype, self._run_state, self._dispatch_groups)
        self._sleep = EngineSleep(config.rollout, self._fleet, self._run_state)
        self._validation = ValidationRounds(config, self._task, self._fleet, scoring, self._run_state)
        self._scoring_watch = RewardFailureMonitor(config, self._run_state)
        self._lengths = ExpectedLengths()
        self._exported = RunMetrics(config)
        self._waited_since = 0.0
        self._progress = RunProgress()
        self._draining = False
        self._learner = TrainerLiveness(self._run_state)
        self._begun = False
        """Whether the first version of the attempt is served."""

    # ---- called by the learner

    async def begin_attempt(self, snapshot: Mapping[str, Any] | None) -> int:
        """A learner group starts, from a checkpoint's snapshot or from nothing; leases of earlier ones are
        void."""
        attempt = self._buffer.restore(snapshot)
        if snapshot is not None:
            restore_groups(snapshot, self._buffer, self._request, self._run_state)
            report_lost_validation(snapshot, self._run_state)
        self._begun = False
        self._learner.heartbeat()
        self._fleet.new_attempt(attempt)
        self._validation.restart()
        if attempt > 1:
            self._run_state.incident(
                "learner_restarted",
                f"attempt {attempt} of the learner begins at step {self._buffer.learner_version}; unfinished groups "
                "are sampled again",
            )
        self._progress.phase = "delivering"
        self._run_state.changed.set()  # calls of the attempt before
        return attempt

    async def publish(self, payload: PolicyUpdate) -> dict[str, float] | None:
        """Deliver a version to every worker.

        At S = 0, and if the version is to be validated, returns when each worker has proven it, else at once.
        Returns None if the run ends instead, and for an attempt that has ended.
        """
        if not self._is_current_attempt(payload.policy.attempt):
            return None
        self._learner.heartbeat()
        payload = replace(payload, policy=replace(payload.policy, run=self._run))
        try:
            self._buffer.published(payload.policy.version)
            self._fleet.publish(payload)
        except PolyrayError as error:
            self._run_state.fail(error)
        due = self._validation.due(payload.policy.version)
        if due or self._config.rollout.max_staleness == 0:
            while not self._fleet.all_serve and self._is_current_attempt(payload.policy.attempt):
                if self._draining and not self._begun:
                    return None  # there is nothing to write yet
                await self._run_state.woken()
        if not self._is_current_attempt(payload.policy.attempt):
            return None
        self._begun = True
        if due:
            self._validation.begin(payload.policy)
        self._waited_since = time.perf_counter()
        self._progress.version = payload.policy.version
        if not self._learner.is_gone:
            self._progress.phase = "stopping" if self._draining else "training"
        self._dispatch_groups()
        return self._fleet.receipt()

    async def next_batch(
        self, attempt: int, step: int, rank: int, world_size: int
    ) -> BatchLease | Literal["not_ready", "stop", "drain"]:
        """This rank's share of the batch of `step`; NOT_READY after at most a second, STOP for a void attempt.

        DRAIN, to every rank alike: no further batch is cut; write a checkpoint and end.
        """
        deadline = time.perf_counter() + LONG_POLL_S
        if world_size == 1:  # of several ranks some still ask while Ray Train ends them
            self._learner.heartbeat()
        while True:
            if not self._is_current_attempt(attempt):
                return STOP
            if self._draining and self._buffer.leased_step != step:
                return DRAIN
            batch = self._buffer.take_batch(step)
            if batch is not None and self._engines_are_out_of_the_way():
                self._scoring_watch.new_batch()
                ledger, since = self._buffer, self._waited_since
                return lease_of(batch, ledger.attempt, ledger.counts, since, rank, world_size)
            self._dispatch_groups()  # cutting may have dropped stale groups: others take their places
            try:
                await asyncio.wait_for(self._run_state.woken(), max(0.0, deadline - time.perf_counter()))
            except TimeoutError:
                return NOT_READY

    def _engines_are_out_of_the_way(self) -> bool:
        """False where they share the learner's GPU and still have something to do."""
        if not self._config.rollout.sleep_between_steps:
            return True
        return not self._validation.are_out and self._sleep.is_complete()

    def _is_current_attempt(self, attempt: int) -> bool:
        """False: the run has ended, or the learner that asks is not the one that counts."""
        return self._run_state.failure is None and attempt == self._buffer.attempt

    async def lost(self, attempt: int, step: int, group_ids: tuple[int, ...]) -> None:
        """Sample groups again whose objects were lost with their node."""
        if group_ids and attempt == self._buffer.attempt:
            names = ", ".join(map(str, group_ids))
            self._run_state.incident(
                "groups_lost", f"groups {names} of step {step} were gone when they were fetched"
            )
            for group_id in group_ids:
                self._buffer.lost(step, group_id)
            self._dispatch_groups()

    async def validation(
        self, attempt: int, version: int, wait: bool
    ) -> Mapping[str, float] | Literal["not_ready", "stop"]:
        """Validation metrics of a version; NOT_READY while groups are out, with `wait` after a second."""
        deadline = time.perf_counter() + (LONG_POLL_S if wait else 0.0)
        while True:
            if not self._is_current_attempt(attempt):
                return STOP
            metrics = self._validation.result(version)
            if metrics is not None:
                return metrics
            try:
                await asyncio.wait_for(self._run_state.woken(), max(0.0, deadline - time.perf_counter()))
            except TimeoutError:
                return NOT_READY

    async def snapshot(self) -> dict[str, Any]:
        """Coordinator state for a checkpoint (see RolloutBuffer.snapshot).

        The waiting groups are references under the key "waiting"; `begin_attempt` takes them as files
        (saved_groups.py) under "files".
        """
        waiting = [item.handle for item in self._buffer.waiting()]
        return {**self._buffer.snapshot(), "waiting": waiting}

    async def report(self, metrics: dict[str, Any]) -> None:
        """The newest line of metrics, for the progress display; an alarm in it may end the run."""
        self._progress.metrics = metrics
        self._exported.step(metrics)
        log_at(step=metrics.get("step"), version=metrics.get("policy_version"))
        logger.info("step %s ends", metrics.get("step"))
        if self._config.over_optimisation is not None and metrics.get("over_optimisation"):
            self._progress.alarms += 1
        if (error := stop_reason(self._config, metrics)) is not None:
            self._run_state.fail(error)

    # ---- called by the driver and by Ray Train

    async def learner_failed(self, reason: str) -> None:
        """Release optional workers and GPU memory so that the learner can be rescheduled.

        Called before `begin_attempt`: Ray Train waits for the answer before it starts another learner.
        """
        self._learner.failed(reason)
        self._progress.phase = RESTARTING
        self._fleet.retire_others()
        if self._config.rollout.sleep_between_steps:
            await self._sleep.fall()

    async def end(self, error: PolyrayError) -> None:
        """The learner is gone and is not started again: the run ends with its error."""
        self._run_state.fail(error)

    async def drain(self) -> None:
        """End the run after the current step; groups being sampled are dropped and sampled again later."""
        self._draining = True
        self._progress.phase = "stopping"
        self._run_state.changed.set()

    async def progress(self, incidents_seen: int = 0) -> dict[str, Any]:
        """Phase, version, groups so far, tokens so far (those of rounds, too), the newest metrics, alarms for
        over-optimisation, incidents from the `incidents_seen`-th on. The driver asks twice a second, which is also
        when metrics are exported."""
        self._learner.check()
        num_tokens = self._progress.tokens + self._validation.num_tokens
        self._exported.export(self._load(num_tokens))
        return self._progress.shown(num_tokens, self._run_state, incidents_seen)

    async def failure(self) -> PolyrayError | None:
        """The error that ended the run; None while it is well."""
        return self._run_state.failure

    async def workers(self) -> list[PoolWorker]:
        """The pool as it is now, with replacements."""
        return self._fleet.workers

    # ---- dispatching

    def _dispatch_groups(self) -> None:
        """Starts every group that staleness and the workers' windows allow; to the end of a run, those that the step
        under way still lacks."""
        if self._run_state.failure is not None or not self._fleet.has_version:
            return
        if self._learner.is_gone and self._config.rollout.sleep_between_steps:
            return
        dispatcher = self._fleet.dispatcher
        may_start = self._buffer.may_start_lost if self._draining else self._buffer.may_start
        while (name := dispatcher.choose(may_start)) is not None:
            request = self._request(self._buffer.next_id())
            by_tokens = self._config.rollout.dispatch == "tokens"
            weight = self._lengths.weight(request.prompt.prompt_id) if by_tokens else 1.0
            dispatcher.started(name, weight)
            self._sleep.wakes(name)
            attempt, worker = self._buffer.attempt, self._fleet.worker(name)
            self._fleet.spawn(self._rollout(worker, request, weight, attempt))

    async def _rollout(self, worker: PoolWorker, request: GroupRequest, weight: float, attempt: int) -> None:
        served = self._fleet.served_by(worker)
        try:
            meta_ref, group_ref = worker.handle.rollout.options(num_returns=2).remote(request, self._scoring)
            reply = await asyncio.wait_for(meta_ref, self._config.rollout.group_timeout_s)
        except (ray.exceptions.RayError, TimeoutError) as error:
            if attempt == self._buffer.attempt:  # workers drop the groups of an ended attempt
                self._buffer.requeue(request.group_id)
                await self._fleet.recover(worker, error)
        else:
            if (
                served is not None
                and reply.policy.version < served.version
                and attempt == reply.policy.attempt
            ):
                raise WeightSyncMismatch(
                    f"worker {worker.name} sampled group {request.group_id} with {reply.policy.name} after it had "
                    f"proven to serve {served.name}"
                )
            if attempt == self._buffer.attempt:
                if self._config.rollout.dispatch == "tokens":
                    self._lengths.observe(request.prompt.prompt_id, reply.num_tokens)
                self._take(reply, group_ref)
        finally:
            self._fleet.dispatcher.ended(worker.name, weight)
        if self._buffer.may_take_batch:  # every rank of the learner wakes
            self._run_state.changed.set()
        self._dispatch_groups()
        self._fleet.group_ended(worker.name)

    def _request(self, group_id: int) -> GroupRequest:
        rollout = self._config.rollout
        seeds = tuple(sample_seed(self._config.seed, group_id, index) for index in range(rollout.group_size))
        prompt = self._task.training_prompt(group_id, self._config.seed)
        limits = rollout.max_completion_tokens, rollout.temperature
        return GroupRequest(group_id, prompt, seeds, *limits, run=self._run, share=rollout.share)

    def _load(self, num_tokens: int) -> RunLoad:
        return RunLoad(
            groups_running=self._buffer.num_running,
            groups_waiting=self._buffer.num_buffered,
            groups_stale=self._buffer.counts.stale,
            workers=len(self._fleet.workers),
            workers_behind=self._fleet.num_behind,
            tokens=num_tokens,
            delivery_failures=self._fleet.delivery_failures,
            incidents=self._run_state.incidents,
        )

    def _take(self, reply: RolloutReply, group_ref: Any) -> None:
        """A reward that could not be computed is unscored, never zero: the group shrinks, or goes."""
        now = time.perf_counter()
        self._progress.groups_done += 1
        self._progress.tokens += reply.num_tokens
        self._scoring_watch.observe(reply)
        algorithm = self._config.algorithm
        if reply.num_taking_part < algorithm.min_samples:
            self._exported.took(reply, "unscored")
            self._buffer.drop(reply.group_id)
            return
        if not reply.has_signal and self._buffer.filter(reply.group_id, algorithm.max_resampled_batches):
            self._exported.took(reply, "zero_advantage")
            return
        self._exported.took(reply, "kept")
        self._buffer.finished(
            Finished(reply.group_id, reply.policy, group_ref, reply.num_tokens, now - reply.score_s, now)
        )
