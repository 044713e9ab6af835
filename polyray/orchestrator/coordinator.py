"""Coordinator of a run: dispatches groups, cuts batches, delivers and verifies every version.

    learner: begin_attempt -> publish(v) -> next_batch(v) -> publish(v + 1) -> ...
                                 |               ^
             deliver + prove     v               | scored groups, S-gated
                    every rollout worker --------'

An async actor that holds metadata and references only. Calls into rollout workers are made here, in
weight_sync_manager.py and in periodic_eval.py, each with a deadline; a worker that misses one is replaced and its
groups are sampled again. Workers of Ray Train cannot be called, so they pull. A fatal error is kept in
`RunState.failure`: the learner then gets STOP and the driver raises the error.

At S = 0 a publish returns when every worker serves the version. At S > 0 it returns at once, and the workers load
the version one by one while the others sample and the learner continues.

Every queue of a run, its owner, its bound and the event that takes something out of it:

    queue                  owner                       bound                            taken out by
    ids to sample again    RolloutBuffer._requeued     S + 1 batches                    a worker with room
    groups in flight       WorkerRow.groups            groups_per_worker(); S + 1       reply, deadline or loss of the
                                                       batches in all                   worker
    scored groups          RolloutBuffer._buffer       S + 1 batches                    next_batch of the learner
    leased batch           RolloutBuffer._lease        1                                publish of the next version
    versions to load       one task for each worker    1 each: the newest               proof or loss of the worker
    turns to load          WorkerRow.holds_turn        half of the workers at S > 0     a proof; no groups left
    validation groups      PeriodicEval                num_prompts for each version     reply; no worker serves it
    work at an engine      RolloutWorker               FILL x max_sequences             the engine, in fair turns
    completions to score   RewardClient                CALLS_PER_REPLICA x replicas     scores, or "unscored"

Calls that wait (publish, next_batch, validation) wake with every `RunState.notify`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import ray
import ray.exceptions

from polyray.cluster.session import NAMESPACE, on_this_node, reap
from polyray.config.run import TrainConfig
from polyray.errors import PolyrayError, RolloutError, WeightSyncMismatch
from polyray.learner.monitors import raised_monitors, stop_reason
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.monitoring import (
    RewardFailureMonitor,
    RunLoad,
    RunMetrics,
    RunProgress,
)
from polyray.orchestrator.periodic_eval import PeriodicEval
from polyray.orchestrator.rollout_actor import RolloutReply, Scoring
from polyray.orchestrator.rollout_buffer import Batch, BufferCounts, Finished, RolloutBuffer
from polyray.orchestrator.rollout_pool import PoolWorker, RolloutPool
from polyray.orchestrator.weight_sync_manager import WeightSyncManager
from polyray.orchestrator.worker_table import ExpectedLengths, RunState, WorkerRow, WorkerTable
from polyray.periodic_eval import UNVALIDATED
from polyray.runs.logging import log_as, log_at
from polyray.runs.saved_groups import SNAPSHOT_FILES, decode_groups, num_groups
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import GroupRequest

logger = logging.getLogger(__name__)

LONG_POLL_S = 1.0
MAX_CONCURRENT_CALLS = 1000
"""Long polls of every learner worker, and the driver's questions: none may wait for another."""
NOT_READY: Literal["not_ready"] = "not_ready"
STOP: Literal["stop"] = "stop"
DRAIN: Literal["drain"] = "drain"
RESTARTING = "waiting for the learner to start again"
"""The phase of a run whose learner has failed."""


@dataclass(frozen=True, slots=True)
class BatchLease:
    """A rank's share of a batch, as references.

    Example:
        BatchLease(step=17, refs=(ref, ref), group_ids=(272, 274), num_groups_total=16, history={"step": 17},
                   counters={"groups_dropped": 0}, timings={})
    """

    step: int
    refs: tuple[Any, ...]
    group_ids: tuple[int, ...]
    """Ids of the groups in `refs`."""
    num_groups_total: int
    history: Mapping[str, Any]
    """The batch's line in ledger.jsonl: every group of all ranks, and what was dropped since the batch before."""
    counters: Mapping[str, float]
    timings: Mapping[str, float]


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
        self._pool = pool
        self._table = WorkerTable(pool.workers, config.rollout)
        self._sync = WeightSyncManager(
            config, pool, self._table, dtype, self._run_state, self._dispatch_groups
        )
        self._eval = PeriodicEval(config, self._task, self._table, self._sync, scoring, self._run_state)
        self._scoring_watch = RewardFailureMonitor(config, self._run_state)
        self._lengths = ExpectedLengths()
        self._exported = RunMetrics(config)
        self._waited_since = 0.0
        self._progress = RunProgress()
        self._draining = False
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
        self._run_state.learner_called()
        self._table.new_attempt(attempt)
        self._eval.restart()
        if attempt > 1:
            self._run_state.incident(
                "learner_restarted",
                f"attempt {attempt} of the learner begins at step {self._buffer.learner_version}; unfinished groups "
                "are sampled again",
            )
        self._progress.phase = "delivering"
        self._run_state.notify()  # calls of the attempt before
        return attempt

    async def publish(self, payload: PolicyUpdate) -> dict[str, float] | None:
        """Deliver a version to every worker.

        At S = 0, and if the version is to be validated, returns when each worker has proven it, else at once.
        Returns None if the run ends instead, and for an attempt that has ended.
        """
        if not self._is_current_attempt(payload.policy.attempt):
            return None
        self._run_state.learner_called()
        payload = replace(payload, policy=replace(payload.policy, run=self._run))
        try:
            self._buffer.published(payload.policy.version)
            self._sync.publish(payload)
        except PolyrayError as error:
            self._run_state.fail(error)
        due = self._eval.due(payload.policy.version)
        if due or self._config.rollout.max_staleness == 0:
            while not self._table.all_serve and self._is_current_attempt(payload.policy.attempt):
                if self._draining and not self._begun:
                    return None  # there is nothing to write yet
                await self._run_state.woken()
        if not self._is_current_attempt(payload.policy.attempt):
            return None
        self._begun = True
        if due:
            self._eval.begin(payload.policy)
        self._waited_since = time.perf_counter()
        self._progress.version = payload.policy.version
        if not self._run_state.learner_is_gone:
            self._progress.phase = "stopping" if self._draining else "training"
        self._dispatch_groups()
        return self._sync.receipt()

    async def next_batch(
        self, attempt: int, step: int, rank: int, world_size: int
    ) -> BatchLease | Literal["not_ready", "stop", "drain"]:
        """This rank's share of the batch of `step`; NOT_READY after at most a second, STOP for a void attempt.

        DRAIN, to every rank alike: no further batch is cut; write a checkpoint and end.
        """
        deadline = time.perf_counter() + LONG_POLL_S
        if world_size == 1:  # of several ranks some still ask while Ray Train ends them
            self._run_state.learner_called()
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
        return not self._eval.are_out and self._sync.all_asleep()

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
            metrics = self._eval.result(version)
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
        self._progress.raised(raised_monitors(self._config.monitors, metrics))
        if (error := stop_reason(self._config.monitors, metrics)) is not None:
            self._run_state.fail(error)

    # ---- called by the driver and by Ray Train

    async def learner_failed(self, reason: str) -> None:
        """Release optional workers and GPU memory so that the learner can be rescheduled.

        Called before `begin_attempt`: Ray Train waits for the answer before it starts another learner.
        """
        self._run_state.learner_failed(reason)
        self._progress.phase = RESTARTING
        self._sync.retire_optional()
        if self._config.rollout.sleep_between_steps:
            await self._sync.fall_asleep()

    async def end(self, error: PolyrayError) -> None:
        """The learner is gone and is not started again: the run ends with its error."""
        self._run_state.fail(error)

    async def drain(self) -> None:
        """End the run after the current step; groups being sampled are dropped and sampled again later."""
        self._draining = True
        self._progress.phase = "stopping"
        self._run_state.notify()

    async def progress(self, incidents_seen: int = 0) -> dict[str, Any]:
        """Phase, version, groups so far, tokens so far (those of rounds, too), the newest metrics, texts
        of alarms, incidents from the `incidents_seen`-th on. The driver asks twice a second, which is also when
        metrics are exported."""
        self._run_state.check_learner()
        num_tokens = self._progress.tokens + self._eval.num_tokens
        self._exported.export(self._load(num_tokens))
        return self._progress.shown(num_tokens, self._run_state, incidents_seen)

    async def failure(self) -> PolyrayError | None:
        """The error that ended the run; None while it is well."""
        return self._run_state.failure

    async def workers(self) -> list[PoolWorker]:
        """The pool as it is now, with replacements."""
        return self._pool.workers

    # ---- dispatching

    def _dispatch_groups(self) -> None:
        """Starts every group that staleness and the workers' windows allow; to the end of a run, those that the step
        under way still lacks."""
        if self._run_state.failure is not None or self._table.newest is None:
            return
        if self._run_state.learner_is_gone and self._config.rollout.sleep_between_steps:
            return
        may_start = self._buffer.may_start_lost if self._draining else self._buffer.may_start
        while (row := self._table.choose(may_start)) is not None:
            request = self._request(self._buffer.next_id())
            by_tokens = self._config.rollout.dispatch == "tokens"
            weight = self._lengths.weight(request.prompt.prompt_id) if by_tokens else 1.0
            row.started(weight)
            row.asleep = False
            self._sync.spawn(self._rollout(row, request, weight, self._buffer.attempt))

    async def _rollout(self, row: WorkerRow, request: GroupRequest, weight: float, attempt: int) -> None:
        served = row.served
        try:
            meta_ref, group_ref = row.worker.handle.rollout.options(num_returns=2).remote(
                request, self._scoring
            )
            reply = await self._sync.group_of(row, meta_ref)
        except (ray.exceptions.RayError, TimeoutError) as error:
            if attempt == self._buffer.attempt:  # workers drop the groups of an ended attempt
                self._buffer.requeue(request.group_id)
                await self._sync.recover(row, error)
        else:
            if (
                served is not None
                and reply.policy.version < served.version
                and attempt == reply.policy.attempt
            ):
                raise WeightSyncMismatch(
                    f"worker {row.name} sampled group {request.group_id} with {reply.policy.name} after it had "
                    f"proven to serve {served.name}"
                )
            if attempt == self._buffer.attempt:
                if self._config.rollout.dispatch == "tokens":
                    self._lengths.observe(request.prompt.prompt_id, reply.num_tokens)
                self._take(reply, group_ref)
        finally:
            row.ended(weight)
        self._dispatch_groups()
        if (
            self._buffer.may_take_batch or not row.groups
        ):  # for every rank of the learner; for the worker's own load
            self._run_state.notify()

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
            workers=len(self._table.rows),
            workers_behind=self._table.num_behind,
            tokens=num_tokens,
            delivery_failures=self._sync.num_failures,
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
            are_scored = reply.num_scored >= algorithm.min_samples
            reason: Literal["truncated", "unscored"] = "truncated" if are_scored else "unscored"
            self._exported.took(reply, reason)
            self._buffer.drop(reply.group_id, reason)
            if self._buffer.has_dropped("truncated", algorithm.max_resampled_batches):
                self._run_state.fail(self._too_many_truncated(reply))
            return
        if not reply.has_signal and self._buffer.filter(reply.group_id, algorithm.max_resampled_batches):
            self._exported.took(reply, "zero_advantage")
            return
        self._exported.took(reply, "kept")
        self._buffer.finished(
            Finished(reply.group_id, reply.policy, group_ref, reply.num_tokens, now - reply.score_s, now)
        )

    def _too_many_truncated(self, reply: RolloutReply) -> RolloutError:
        algorithm, rollout = self._config.algorithm, self._config.rollout
        return RolloutError(
            f"algorithm.truncated=drop left {reply.num_taking_part} of {reply.num_samples} completions of group "
            f"{reply.group_id}, fewer than the {algorithm.min_samples} that the objective needs, and "
            f"{algorithm.max_resampled_batches} batches of groups were dropped for that since the last batch; raise "
            f"rollout.max_completion_tokens={rollout.max_completion_tokens}, or set algorithm.truncated=mask"
        )


def lease_of(
    batch: Batch[Any], attempt: int, counts: BufferCounts, waited_since: float, rank: int, world_size: int
) -> BatchLease:
    """Share of one rank; `waited_since` is when the learner began to wait, by the clock of the ledger's process."""
    groups = batch.groups
    generated = max(item.generated_at for item in groups)
    scored = max(item.scored_at for item in groups)
    staleness = [batch.step - item.policy.version for item in groups]
    return BatchLease(
        step=batch.step,
        refs=tuple(item.handle for item in groups[rank::world_size]),
        group_ids=tuple(item.group_id for item in groups[rank::world_size]),
        num_groups_total=len(groups),
        history={
            "step": batch.step,
            "attempt": attempt,
            "groups": [item.group_id for item in groups],
            "versions": [item.policy.version for item in groups],
            "dropped": [list(item) for item in batch.dropped],
        },
        counters={
            "groups_used": len(groups),
            "groups_dropped": counts.dropped,
            "groups_filtered": counts.filtered,
            "groups_stale": counts.stale,
            "stale_length_ratio": counts.stale_length_ratio,
            "staleness_mean": sum(staleness) / len(staleness),
        },
        timings={
            "generate_s": max(0.0, generated - waited_since),
            "score_s": max(0.0, scored - max(generated, waited_since)),
        },
    )


def restore_groups(
    snapshot: Mapping[str, Any],
    ledger: RolloutBuffer[Any],
    request_of: Callable[[int], GroupRequest],
    run_state: RunState,
) -> None:
    """Put the scored groups of a checkpoint back into the buffer; groups that no longer fit are sampled again.

    Args:
        snapshot: as `Coordinator.snapshot` made it, with the groups as files (polyray/runs/saved_groups.py).
        ledger: restored from the same snapshot.
        request_of: request of a group, by its id.
    """
    files = snapshot.get(SNAPSHOT_FILES, {})
    expected, taken = num_groups(files), 0
    for scored in decode_groups(files, request_of):
        group = scored.group
        taken += ledger.restore_group(
            Finished(group.group_id, group.policy, ray.put(scored), group.num_tokens, 0.0, 0.0)
        )
    if taken < expected:
        run_state.incident(
            "groups_not_taken_back",
            f"{expected - taken} of the {expected} scored groups of the checkpoint do not belong to the run as it is "
            "now, and are sampled again",
        )


def report_lost_validation(snapshot: Mapping[str, Any], run_state: RunState) -> None:
    """Report versions whose validation is lost: no engine can serve a version before the checkpoint's own."""
    for version in snapshot.get(UNVALIDATED, ()):
        if version < snapshot["version"]:
            run_state.incident(
                "validation_lost",
                f"the validation of version {version} was not finished when the run ended at step "
                f"{snapshot['version']}; dynamics.jsonl has no line of it",
            )


def start_coordinator(name: str, config: TrainConfig, pool: RolloutPool, scoring: Scoring) -> Any:
    """Start a coordinator actor called `name` on the caller's node; first end any older actor of that name.

    The run cannot continue without its coordinator, so it depends on the driver's node only. Any other lost node
    then means lost workers, which are replaced.
    """
    reap(name)
    actor = ray.remote(Coordinator).options(
        name=name,
        namespace=NAMESPACE,
        num_cpus=0,
        max_concurrency=MAX_CONCURRENT_CALLS,
        scheduling_strategy=on_this_node(),
    )
    return actor.remote(config, pool, scoring, pool.settings.dtype)
