"""One per run: decides who samples what, cuts the learner's batches, delivers and proves every version.

    learner: begin_attempt -> publish(v) -> next_batch(v) -> publish(v + 1) -> ...
                                 |               ^
             deliver + prove     v               | scored groups, S-gated
                    every rollout worker --------'

An async actor that composes plain classes (GroupLedger, PolicyRegistry, the task's prompt stream) and holds
metadata and references only. All calls into rollout workers are made here, each with a deadline; a worker
that misses one is replaced and its groups come again. Workers of Ray Train cannot be called, so they pull;
what goes wrong for good is kept in `failure`: the learner is then told STOP and the driver raises it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
import ray.exceptions

from polyray.actors.rollout_pool import PoolWorker, RolloutPool, RolloutReply, Scoring
from polyray.config.mismatch import mismatch_text
from polyray.config.over_optimisation import alarm_text
from polyray.config.run import TrainConfig
from polyray.delivery.adapter import AdapterPayload
from polyray.delivery.registry import PolicyRegistry
from polyray.errors import (
    EXIT_USER_ERROR,
    EngineMismatch,
    OverOptimised,
    PolicyNotDelivered,
    PolyrayError,
    RewardError,
    RolloutError,
)
from polyray.rollout.ledger import Finished, GroupLedger
from polyray.rollout.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import GroupRequest

LONG_POLL_S = 1.0
NOT_READY: Literal["not_ready"] = "not_ready"
STOP: Literal["stop"] = "stop"
WINDOW_FACTOR = 2
"""Groups in flight per worker, in engine batches: the next ones are at hand when a sequence finishes."""


@dataclass(frozen=True, slots=True)
class BatchLease:
    """A rank's share of a batch, as references.

    Example:
        BatchLease(step=17, refs=(ref, ref), num_groups_total=16, counters={"groups_dropped": 0}, timings={})
    """

    step: int
    refs: tuple[Any, ...]
    num_groups_total: int
    counters: Mapping[str, float]
    timings: Mapping[str, float]


@dataclass(slots=True)
class _Progress:
    """What the driver shows."""

    phase: str = "starting"
    version: int = 0
    groups_done: int = 0
    tokens: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    alarms: int = 0


class Coordinator:
    """See the module. Every public method is called remotely."""

    def __init__(self, config: TrainConfig, pool: RolloutPool, scoring: Scoring, dtype: str) -> None:
        self._config = config
        self._pool = pool
        self._scoring = scoring
        self._task = build_task(config.task)
        self._ledger: GroupLedger[Any] = GroupLedger(
            config.rollout.prompts_per_step, config.rollout.max_staleness, config.learner.steps
        )
        self._registry = PolicyRegistry(config.delivery.tolerance_for(dtype))
        self._in_flight: dict[str, int] = {}
        self._deliveries: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: PolyrayError | None = None
        self._replacements = 0
        self._samples = [0, 0]
        self._busy: dict[str, tuple[float, float]] = {}
        self._idle_generate = 0.0
        self._served_at = 0.0
        self._last_unscored = ""
        self._progress = _Progress()

    # ---- called by the learner

    async def begin_attempt(self, snapshot: Mapping[str, Any] | None) -> int:
        """A learner group starts, from a checkpoint's snapshot or from nothing; leases of earlier ones are
        void."""
        attempt = self._ledger.restore(snapshot)
        self._progress.phase = "delivering"
        return attempt

    async def publish(self, payload: AdapterPayload) -> dict[str, float] | None:
        """Delivers a version to every worker; returns when each has proven it, None where the run ends
        instead."""
        started = time.perf_counter()
        try:
            self._registry.publish(payload)
            self._ledger.published(payload.policy.version)
            differences = await self._deliver_to_all(payload)
        except PolyrayError as error:
            self._fail(error)
            return None
        self._served_at = time.perf_counter()
        self._progress.version = payload.policy.version
        self._progress.phase = "training"
        self._pump()
        return {
            "deliver_s": self._served_at - started,
            "delivery_difference_max": max(differences),
            "idle_generate": self._idle_generate,
        }

    async def next_batch(
        self, attempt: int, step: int, rank: int, world_size: int
    ) -> BatchLease | Literal["not_ready", "stop"]:
        """This rank's share of the batch of `step`; NOT_READY after at most a second, STOP for a void
        attempt."""
        deadline = time.perf_counter() + LONG_POLL_S
        while True:
            if self._failure is not None or attempt != self._ledger.attempt:
                return STOP
            batch = self._ledger.cut(step)
            if batch is not None:
                return self._lease(step, batch, rank, world_size)
            self._pump()  # cutting may have dropped stale groups: others take their places
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, deadline - time.perf_counter()))
            except TimeoutError:
                return NOT_READY

    async def snapshot(self) -> dict[str, Any]:
        """What a checkpoint taken now must remember (see GroupLedger.snapshot)."""
        return self._ledger.snapshot()

    async def report(self, metrics: dict[str, Any]) -> None:
        """The newest line of metrics, for the progress display; an alarm in it may end the run."""
        self._progress.metrics = metrics
        watched = self._config.over_optimisation
        if watched is not None and metrics.get("over_optimisation"):
            self._progress.alarms += 1
            if watched.stop:
                self._fail(OverOptimised(f"stopped after step {metrics['step']}: {alarm_text(watched)}"))
        mismatch = self._config.mismatch_alarm
        if mismatch is not None and mismatch.stop and metrics.get("mismatch_alarm"):
            self._fail(EngineMismatch(f"stopped after step {metrics['step']}: {mismatch_text(mismatch)}"))

    # ---- called by the driver

    async def progress(self) -> dict[str, Any]:
        """Phase, version, groups and tokens so far, the newest metrics, alarms for over-optimisation."""
        state = self._progress
        return {
            "phase": state.phase,
            "step": state.version,
            "groups_done": state.groups_done,
            "tokens": state.tokens,
            "metrics": state.metrics,
            "alarms": state.alarms,
        }

    async def failure(self) -> PolyrayError | None:
        """What ended the run for good; None while it is well."""
        return self._failure

    async def workers(self) -> list[PoolWorker]:
        """The pool as it is now, with replacements."""
        return self._pool.workers

    # ---- dispatching

    def _pump(self) -> None:
        """Starts every group that staleness and the workers' windows allow."""
        if self._failure is not None or self._registry.current is None:
            return
        rollout = self._config.rollout
        window = max(1, WINDOW_FACTOR * rollout.max_sequences // rollout.group_size)
        while True:
            able = [
                worker
                for worker in self._pool.workers
                if self._in_flight.get(worker.name, 0) < window and self._may_serve(worker)
            ]
            if not able:
                return
            worker = min(able, key=lambda item: (self._in_flight.get(item.name, 0), item.index))
            self._in_flight[worker.name] = self._in_flight.get(worker.name, 0) + 1
            self._spawn(self._rollout(worker, self._ledger.next_id()))

    def _may_serve(self, worker: PoolWorker) -> bool:
        served = self._registry.served_by(worker.name)
        return (
            served is not None
            and served.attempt == self._ledger.attempt
            and self._ledger.may_start(served.version)
        )

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[None]) -> None:
        """A task that ends in an error has put it into `failure`, unless it is a defect of ours."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, PolyrayError) else RolloutError(f"coordinator: {error!r}"))

    async def _rollout(self, worker: PoolWorker, group_id: int) -> None:
        attempt, served = self._ledger.attempt, self._registry.served_by(worker.name)
        try:
            meta_ref, group_ref = worker.handle.rollout.options(num_returns=2).remote(
                self._request(group_id), self._scoring
            )
            reply = await asyncio.wait_for(meta_ref, self._config.rollout.group_timeout_s)
        except (ray.exceptions.RayError, TimeoutError) as error:
            if attempt == self._ledger.attempt:
                self._ledger.requeue(group_id)
            await self._recover(worker, error)
        else:
            if (
                served is not None
                and reply.policy.version < served.version
                and attempt == reply.policy.attempt
            ):
                raise PolicyNotDelivered(
                    f"worker {worker.name} sampled group {group_id} with {reply.policy.name} after it had proven "
                    f"to serve {served.name}"
                )
            if attempt == self._ledger.attempt:
                self._take(reply, group_ref)
        finally:
            if worker.name in self._in_flight:
                self._in_flight[worker.name] -= 1
        self._changed.set()
        self._pump()

    def _request(self, group_id: int) -> GroupRequest:
        rollout = self._config.rollout
        seeds = tuple(sample_seed(self._config.seed, group_id, index) for index in range(rollout.group_size))
        prompt = self._task.training_prompt(group_id, self._config.seed)
        return GroupRequest(group_id, prompt, seeds, rollout.max_completion_tokens, rollout.temperature)

    def _take(self, reply: RolloutReply, group_ref: Any) -> None:
        """A reward that could not be computed is unscored, never zero: the group shrinks, or goes."""
        now = time.perf_counter()
        self._samples[0] += reply.num_samples
        self._samples[1] += reply.num_samples - reply.num_scored
        self._progress.groups_done += 1
        self._progress.tokens += reply.num_tokens
        if reply.error:
            self._last_unscored = reply.error
        self._check_unscored()
        algorithm = self._config.algorithm
        if reply.num_taking_part < algorithm.min_samples:
            self._ledger.drop(reply.group_id)
            return
        if not reply.teaches and self._ledger.filter(reply.group_id, algorithm.max_resampled_batches):
            return
        self._ledger.finished(
            Finished(reply.group_id, reply.policy, group_ref, reply.num_tokens, now - reply.score_s, now)
        )

    def _check_unscored(self) -> None:
        total, unscored = self._samples
        limit = self._config.reward.service.max_unscored_share
        if total >= self._config.rollout.prompts_per_step * self._config.rollout.group_size // 2 and (
            unscored > limit * total
        ):
            self._fail(
                RewardError(
                    f"{unscored} of the last {total} completions could not be scored, above "
                    f"reward.service.max_unscored_share={limit:g}; the reason given: {self._last_unscored}"
                )
            )

    def _lease(self, step: int, batch: list[Finished[Any]], rank: int, world_size: int) -> BatchLease:
        generated = max(item.generated_at for item in batch)
        scored = max(item.scored_at for item in batch)
        staleness = [step - item.policy.version for item in batch]
        self._samples = [0, 0]
        return BatchLease(
            step=step,
            refs=tuple(item.handle for item in batch[rank::world_size]),
            num_groups_total=len(batch),
            counters={
                "groups_used": len(batch),
                "groups_dropped": self._ledger.dropped,
                "groups_filtered": self._ledger.filtered,
                "staleness_mean": sum(staleness) / len(staleness),
            },
            timings={
                "generate_s": max(0.0, generated - self._served_at),
                "score_s": max(0.0, scored - max(generated, self._served_at)),
            },
        )

    # ---- delivery and faults

    async def _deliver_to_all(self, payload: AdapterPayload) -> list[float]:
        """At S = 0 a barrier over all live workers; each one's proof is checked as it comes in."""
        ref = ray.put(payload)
        workers = list(self._pool.workers)
        results = await asyncio.gather(*(self._deliver_to(worker, payload, ref) for worker in workers))
        self._idle_generate = sum(idle for _, idle in results) / len(results)
        return [difference for difference, _ in results]

    async def _deliver_to(self, worker: PoolWorker, payload: AdapterPayload, ref: Any) -> tuple[float, float]:
        """(largest log-prob difference, share of the time since the last delivery that the engine idled)."""
        while True:
            try:
                # One at a time per worker: calls that wait for an actor to start may overtake each other, and an
                # older version must never be loaded after a newer one.
                async with self._deliveries[worker.name]:
                    ack, busy_s = await asyncio.wait_for(
                        worker.handle.deliver.remote(ref),
                        self._config.delivery.timeout_s + self._start_allowance(worker),
                    )
            except (ray.exceptions.RayError, TimeoutError) as error:
                worker = await self._recover(worker, error)
                continue
            proof = self._registry.prove(ack, payload)
            now = time.perf_counter()
            before_busy, before = self._busy.get(worker.name, (busy_s, now))
            self._busy[worker.name] = (busy_s, now)
            idle = 1 - (busy_s - before_busy) / (now - before) if now > before else 0.0
            return proof.max_difference, min(1.0, max(0.0, idle))

    def _start_allowance(self, worker: PoolWorker) -> float:
        """A worker that never served may still be starting its engine."""
        return 0.0 if self._registry.served_by(worker.name) else self._config.rollout.start_timeout_s

    async def _recover(self, worker: PoolWorker, error: BaseException) -> PoolWorker:
        """The user's mistakes end the run; whatever else a worker raises costs it its place."""
        cause = unwrapped(error)
        if isinstance(cause, PolyrayError) and cause.exit_code == EXIT_USER_ERROR:
            self._fail(cause)
            raise cause
        return await self._replace(worker, cause)

    async def _replace(self, worker: PoolWorker, error: BaseException) -> PoolWorker:
        """Another worker in its place, which is given the current version; the first of several reports
        counts."""
        current = self._pool.workers[worker.index]
        if current.name != worker.name or self._failure is not None:
            return current
        self._replacements += 1
        limit = self._config.rollout.max_worker_replacements
        if self._replacements > limit:
            reason = f"{type(error).__name__}: {error}"
            failure = RolloutError(
                f"{self._replacements} rollout workers were lost, more than "
                f"rollout.max_worker_replacements={limit}; "
                f"the last one ({worker.name}): {reason.splitlines()[0]}"
            )
            self._fail(failure)
            raise failure
        self._registry.forget(worker.name)
        self._in_flight.pop(worker.name, None)
        replacement = self._pool.replace(worker)
        if self._registry.current is not None:
            self._spawn(self._bring_up(replacement, self._registry.current))
        return replacement

    async def _bring_up(self, worker: PoolWorker, payload: AdapterPayload) -> None:
        try:
            await self._deliver_to(worker, payload, ray.put(payload))
        except PolyrayError as error:
            self._fail(error)
        self._pump()

    def _fail(self, error: PolyrayError) -> None:
        if self._failure is None:
            self._failure = error
            self._progress.phase = "failed"
        self._changed.set()


def unwrapped(error: BaseException) -> BaseException:
    """The error a remote method raised, out of Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PolyrayError) else error
