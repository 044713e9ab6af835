"""Brings rollout workers to the newest version, replaces those that fail, and puts their engines to sleep.

    publish(v) --> every worker has one task that brings it up to date: load, prove, serve; the newest version counts,
                   older ones that it missed are skipped
    recover()  --> a worker that died, hangs or fails is replaced; the new one is brought up to date first
    refused    --> one worker may be at fault; a version that a second one refuses ends the run

A run needs rollout.num_workers. Once these serve, and the other parts of the run have their places, the optional
workers (up to rollout.max_workers) start. They join when there is room for them, and the run does not wait for a
worker that has never served while enough others do (worker_table.py). They are retired when the learner has lost its
place.

At S = 0 the coordinator waits for all (`WorkerTable.all_serve`). At S > 0 it does not wait, and at most half of the
workers with groups load at a time: if a load needs an idle engine, the others keep sampling. A worker that has run
out of groups would only idle, so it need not wait for a turn.

Engines that share the learner's GPU sleep while it works and while it restarts. Work wakes them: the next version, or
a lost group that is sampled again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import ray
import ray.exceptions

from polyray.config.run import TrainConfig
from polyray.errors import PolyrayError, RolloutError, WeightSyncError, is_user_error, root_cause
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.rollout_pool import RolloutPool
from polyray.orchestrator.worker_table import FailureAction, RunState, WorkerRow, WorkerTable
from polyray.types import PolicyVersion
from polyray.weight_sync.proof import SyncVerifier

ResultT = TypeVar("ResultT")

PING_S = 10.0
"""Time that a worker has to answer a call which needs no engine."""


async def in_time(call: Awaitable[ResultT], seconds: float, what: str) -> ResultT:
    """The answer of a worker. Raises TimeoutError, which names `what` was asked, and any error of the call."""
    answer = asyncio.ensure_future(call)
    done, _ = await asyncio.wait({answer}, timeout=seconds)
    if not done:
        answer.cancel()
        raise TimeoutError(f"no answer within {seconds:g} s ({what})")
    return answer.result()


class WeightSyncManager:
    """Belongs to the coordinator's event loop, like the table that it changes."""

    def __init__(
        self,
        config: TrainConfig,
        pool: RolloutPool,
        table: WorkerTable,
        dtype: str,
        run_state: RunState,
        on_served: Callable[[], None],
    ) -> None:
        """`dtype`: of the base in engines and learner; `on_served` is called whenever a worker serves a version."""
        self._config = config
        self._pool = pool
        self._table = table
        self._run_state = run_state
        self._on_served = on_served
        self._verifier = SyncVerifier(dtype)
        self._published: PolicyUpdate | None = None
        """The version before the next one, also of an attempt that has ended."""
        self._payload_ref: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._grown_for = 0
        """The attempt of the learner since which the optional workers were started."""
        self._may_grow = False
        self._falling_asleep = False
        self._refused: dict[PolicyVersion, str] = {}
        """Version -> the first worker that would not load it."""
        self.num_failures = 0
        """Deliveries that a worker did not take or prove, since the start."""
        self._published_at = self._seconds = self._difference = 0.0

    def publish(self, payload: PolicyUpdate) -> None:
        """Bring every worker to this version, in the background.

        Raises WeightSyncError for one out of order: within an attempt a version follows its predecessor, and a new
        attempt may start anywhere.
        """
        now = payload.policy
        if self._published is not None:
            before = self._published.policy
            if now.attempt == before.attempt and now.version != before.version + 1:
                raise WeightSyncError(f"{now.name} cannot follow {before.name}: versions count up by one")
            if now.attempt < before.attempt:
                raise WeightSyncError(f"{now.name} belongs to an attempt that ended; {before.name} is newer")
        self._published, self._payload_ref = payload, ray.put(payload)
        self._table.newest = now
        self._published_at = time.perf_counter()
        if now.attempt != self._grown_for:  # the learner has its place
            self._grown_for, self._may_grow = now.attempt, True
        for row in self._table.rows:
            row.asleep = False
            self._bring_up(row)

    def receipt(self) -> dict[str, float]:
        """Metrics since the last receipt: seconds from publishing to the last proof of the newest version that all
        workers serve, largest difference in a proof (nats), idle share of the engines."""
        idle = [row.idle_share for row in self._table.rows if row.idle_share is not None]
        receipt = {
            "deliver_s": self._seconds,
            "delivery_difference_max": self._difference,
            "idle_generate": sum(idle) / len(idle) if idle else 0.0,
        }
        self._seconds = self._difference = 0.0
        return receipt

    def retire_optional(self) -> None:
        """End the workers above those that the run needs, to the last; they are started again when all others serve
        the next version."""
        did_all = self._table.all_serve
        for row in self._table.rows:  # a list of its own
            if row.worker.index >= self._table.num_needed:
                self._table.remove(row)
                self._verifier.forget(row.name)
                self._pool.retire(row.worker)
        self._may_grow = False
        self._notify(did_all)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; an error it ends in is one of ours, or a defect, and ends the run either way."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)

    async def group_of(self, row: WorkerRow, answer: Awaitable[ResultT]) -> ResultT:
        """The answer to a group. The worker ends groups that take too long in its engine; scoring has its own limits.
        A worker that stays silent for longer must answer another call."""
        future = asyncio.ensure_future(answer)
        while True:
            done, _ = await asyncio.wait({future}, timeout=self._config.rollout.group_timeout_s + PING_S)
            if done:
                return future.result()
            try:
                await in_time(row.worker.handle.usage.remote(), PING_S, "a sign of life, its group is late")
            except BaseException:
                future.cancel()
                raise

    async def recover(self, row: WorkerRow, error: BaseException) -> None:
        """Replace a worker after an error; a user's mistake ends the run instead."""
        cause = root_cause(error)
        if is_user_error(cause):
            self._run_state.fail(cause)
        elif self._table.has(row) and self._run_state.failure is None:
            self._replace(row, cause)  # the first of several reports

    # ---- sleep

    def all_asleep(self) -> bool:
        """Whether all engines sleep; otherwise ask them to, and notify the run's waiters when they do."""
        if all(row.asleep for row in self._table.rows):
            return True
        if not self._falling_asleep:
            self.spawn(self.fall_asleep())
        return False

    async def fall_asleep(self) -> None:
        """Return when every engine has given back its device's memory, those included that had to be replaced; or
        when a newer version has been published meanwhile."""
        self._falling_asleep = True
        newest = self._table.newest
        try:
            while self._run_state.failure is None and self._table.newest == newest:
                awake = [row for row in self._table.rows if not row.asleep]
                if not awake:
                    break
                for row in awake:
                    await self._put_to_sleep(row)
        finally:
            self._falling_asleep = False
            self._run_state.notify()

    async def _put_to_sleep(self, row: WorkerRow) -> None:
        if self._table.lacks_newest(row):  # a delivery would wake it again
            await self._run_state.woken()
            return
        newest, limits = self._table.newest, self._config.rollout
        allowance_s = 0.0 if row.served else limits.ready_within_s
        try:
            await in_time(row.worker.handle.sleep.remote(), limits.group_timeout_s + allowance_s, "to sleep")
        except (ray.exceptions.RayError, TimeoutError) as error:
            await self.recover(row, error)
        else:
            row.asleep = self._table.newest == newest

    # ---- one worker's version

    def _bring_up(self, row: WorkerRow) -> None:
        # One task per worker: calls that wait for an actor to start may overtake each other, and an older version
        # must never be loaded after a newer one.
        if not row.syncing:
            row.syncing = True
            self.spawn(self._bring_up_to_date(row))

    async def _bring_up_to_date(self, row: WorkerRow) -> None:
        try:
            while self._run_state.failure is None and self._table.lacks_newest(row):
                async with self._turn(row):
                    if self._table.lacks_newest(row):
                        await self._deliver(row)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.num_failures += self._table.has(row)
            await self.recover(row, error)
        except PolyrayError:
            self.num_failures += 1
            raise
        finally:
            row.syncing = False

    @asynccontextmanager
    async def _turn(self, row: WorkerRow) -> AsyncIterator[None]:
        """Wait until the worker may load. A worker without groups may load at once, outside the limit."""
        while row.groups and not self._table.may_load and self._table.has(row):
            await self._run_state.woken()
        row.holds_turn = row.groups > 0
        try:
            yield
        finally:
            if row.holds_turn:
                row.holds_turn = False
                self._run_state.notify()

    async def _deliver(self, row: WorkerRow) -> None:
        payload = self._published
        assert payload is not None
        limits, allowance_s = self._config.rollout, 0.0
        if row.served is None:
            allowance_s = limits.ready_within_s
        elif row.groups or row.validating:  # an engine of one version ends its groups first
            allowance_s = limits.group_timeout_s
        try:
            ack, busy_s = await in_time(
                row.worker.handle.deliver.remote(self._payload_ref),
                self._config.delivery.timeout_s + allowance_s,
                "to load a version: delivery.timeout_s, and the groups before it",
            )
        except ray.exceptions.RayTaskError as error:
            self._check_refusal(row, payload.policy, root_cause(error))
            raise
        if not self._table.has(row):
            return  # replaced while it loaded
        proof = self._verifier.check(ack, payload)
        did_all = self._table.all_serve
        others = self._table.num_joined
        if self._table.proved(row, payload.policy):
            self._run_state.incident(
                "worker_joined", f"rollout worker {row.name} serves now, beside {others} others"
            )
        row.stepped(busy_s)
        self._difference = max(self._difference, proof.max_difference)
        self._notify(did_all)

    def _notify(self, did_all: bool) -> None:
        """React to a change of served versions; `did_all`: whether all served the newest version before."""
        if self._table.all_serve and not did_all:
            self._seconds = time.perf_counter() - self._published_at
            self._grow()
        self._run_state.notify()
        self._on_served()

    def _check_refusal(self, row: WorkerRow, policy: PolicyVersion, cause: BaseException) -> None:
        """One refusal may be the worker's fault, as with bytes that arrive damaged; two are the payload's."""
        if not isinstance(cause, WeightSyncError):
            return
        first = self._refused.setdefault(policy, row.name)
        if first != row.name:
            self._run_state.fail(
                WeightSyncError(f"{policy.name} was refused by {first}, and then by {row.name}: {cause}")
            )

    # ---- members

    def _grow(self) -> None:
        """Start the optional workers, last: earlier they would take the room of workers that the run needs."""
        most = self._config.rollout.max_workers
        if not self._may_grow or most is None or most <= self._table.num_needed:
            return
        self._may_grow = False
        for worker in self._pool.grow():
            self._bring_up(self._table.add(worker))

    def _replace(self, row: WorkerRow, error: BaseException) -> None:
        """Replace a worker, unless too many were lost before it."""
        table, worker = self._table, row.worker
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        did_all = table.all_serve
        action = table.lost(row, in_time=not isinstance(error, TimeoutError))
        self._verifier.forget(worker.name)
        if action is FailureAction.TOO_MANY:
            self._run_state.fail(
                RolloutError(
                    f"{table.replacements} rollout workers were lost, more than "
                    f"rollout.max_worker_replacements={self._config.rollout.max_worker_replacements}; the last one "
                    f"({worker.name}): {reason}"
                )
            )
            return
        if action is FailureAction.GIVEN_UP:
            self._leave_a_place_above(row)
            self._pool.retire(worker)
            self._run_state.incident(
                "worker_given_up",
                f"rollout workers failed {table.failed_joins} times before they served anything; the run "
                f"continues with {table.num_joined}. The last one ({worker.name}): {reason}",
            )
        else:
            replacement = table.add(self._pool.replace(worker))
            if action is FailureAction.REPLACED:
                self._run_state.incident(
                    "worker_replaced",
                    f"rollout worker {worker.name} was replaced by {replacement.name}: {reason}",
                )
            if table.newest is not None:
                self._bring_up(replacement)
        self._notify(did_all)  # the run may have waited for the lost worker alone

    def _leave_a_place_above(self, row: WorkerRow) -> None:
        """Move a serving optional worker into a needed place that would stay empty."""
        worker, needed = row.worker, self._table.num_needed
        if worker.index < needed:
            other = next(other for other in self._table.rows if other.worker.index >= needed and other.joined)
            worker.index, other.worker.index = other.worker.index, worker.index

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            known = error if isinstance(error, PolyrayError) else RolloutError(f"coordinator: {error!r}")
            self._run_state.fail(known)
