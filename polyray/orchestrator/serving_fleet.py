"""The coordinator's view of rollout workers: verified versions, replacements, joins.

    publish(v) --> every worker has one task that brings it up to date: load, prove, serve; the newest version counts,
                   older ones that it missed are skipped
    recover()  --> a worker that died, hangs or fails is replaced; the new one is brought up to date first
    refused    --> one worker may be at fault; a version that a second one refuses ends the run

A run needs rollout.num_workers. Once these serve, and the other parts of the run have their places, the optional
workers (up to rollout.max_workers) start. They join when there is room for them, and the run does not wait for a
worker that has never served while enough others do (polyray/orchestrator/roster.py). They are retired when the
learner has lost its place.

At S = 0 the coordinator waits for all (`all_serve`). At S > 0 it does not wait, and at most half of the workers with
groups load at a time: if a load needs an idle engine, the others keep sampling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import ray
import ray.exceptions

from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.errors import PolyrayError, RolloutError, WeightSyncError, is_user_error, root_cause
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.delivery_report import DeliveryReport
from polyray.orchestrator.dispatch import Dispatcher
from polyray.orchestrator.rollout_pool import PoolWorker, RolloutPool
from polyray.orchestrator.roster import FailureAction, Roster
from polyray.orchestrator.run_state import RunState
from polyray.orchestrator.sync_limiter import WeightSyncLimiter
from polyray.types import PolicyVersion
from polyray.weight_sync.registry import PolicyRegistry

WINDOW_FACTOR = 2
"""Groups in flight per worker, in engine batches: the next ones are at hand when a sequence finishes."""


class ServingFleet:
    """Belongs to the coordinator's event loop."""

    def __init__(
        self,
        config: TrainConfig,
        pool: RolloutPool,
        dtype: str,
        run_state: RunState,
        on_served: Callable[[], None],
    ) -> None:
        rollout = config.rollout
        self._config = config
        self._pool = pool
        self._run_state = run_state
        self._on_served = on_served
        self._registry = PolicyRegistry(dtype)
        self._current: tuple[PolicyUpdate, Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_progress: set[str] = set()
        self._by_name = {worker.name: worker for worker in pool.workers}
        self._roster = Roster(len(pool.workers), rollout.max_worker_replacements)
        self._grown_for = 0
        """The attempt of the learner since which the others were started."""
        self._may_grow = False
        self._refused: dict[PolicyVersion, str] = {}
        """Version -> the first worker that would not load it."""
        self.attempt = 0
        self.delivery_failures = 0
        """Deliveries that a worker did not take or prove, since the start."""
        self._report = DeliveryReport()
        self._loading = WeightSyncLimiter(loads_at_once(rollout, self._roster.num_expected))
        self.dispatcher = Dispatcher(groups_per_worker(rollout, self._roster.num_expected))

    @property
    def workers(self) -> list[PoolWorker]:
        """The pool as it is now, with replacements."""
        return self._pool.workers

    @property
    def has_version(self) -> bool:
        """Whether anything was published in this attempt."""
        return self._current is not None

    @property
    def all_serve(self) -> bool:
        """Whether every worker that has joined, and as many as the run needs, have proven to serve the newest
        version."""
        return self._current is not None and self._roster.all_serve

    @property
    def num_behind(self) -> int:
        """Workers that have not proven the newest version."""
        return self._roster.num_behind

    @property
    def newest(self) -> PolicyVersion | None:
        """The version that was published last in this attempt."""
        return None if self._current is None else self._current[0].policy

    def lacks_newest(self, worker: PoolWorker) -> bool:
        """Whether there is a version that this live worker has still to prove."""
        known = worker.name in self._by_name
        return known and self._current is not None and self.served_by(worker) != self.newest

    def worker(self, name: str) -> PoolWorker:
        """The live worker of this name."""
        return self._by_name[name]

    def served_by(self, worker: PoolWorker) -> PolicyVersion | None:
        """The version that a worker has proven to serve; None before the first."""
        return self._registry.served_by(worker.name)

    def still_serves(self, policy: PolicyVersion) -> bool:
        """Whether a worker serves this version, or will: it is the newest one."""
        return self.newest == policy or any(self.served_by(worker) == policy for worker in self._pool.workers)

    def group_ended(self, name: str) -> None:
        """Note the end of a worker's group, after new groups were started."""
        if self.dispatcher.is_idle(name):
            self._loading.ran_out(name)

    def new_attempt(self, attempt: int) -> None:
        """The learner starts again: nothing that is served may be sampled from until it publishes."""
        self.attempt = attempt
        self._current = None
        self.dispatcher.serve_nothing()

    def publish(self, payload: PolicyUpdate) -> None:
        """Bring every worker to this version, in the background. Raises WeightSyncError for one out of order."""
        self._registry.publish(payload)
        self._current = payload, ray.put(payload)
        self._roster.published()
        if payload.policy.attempt != self._grown_for:  # the learner has its place
            self._grown_for, self._may_grow = payload.policy.attempt, True
        self._report.begin()
        for worker in self._pool.workers:
            self._bring_up(worker)

    def retire_others(self) -> None:
        """Ends the workers above those that the run needs, to the last; they are started again when all others serve
        the next version."""
        did_all = self.all_serve
        for worker in [worker for worker in self.workers if worker.index >= self._roster.num_needed]:
            self._roster.left(worker.name)
            self._forget(worker)
            self._pool.retire(worker)
        self._may_grow = False
        self._share_out()
        self._notify(did_all)

    def receipt(self) -> dict[str, float]:
        """Seconds, largest difference and idle share of the engines, since the last receipt."""
        return self._report.take()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`; an error it ends in is one of ours, or a defect, and ends the run either way."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)

    async def recover(self, worker: PoolWorker, error: BaseException) -> None:
        """Replace a worker after an error; a user's mistake ends the run instead."""
        cause = root_cause(error)
        if is_user_error(cause):
            self._run_state.fail(cause)
        elif worker.name in self._by_name and self._run_state.failure is None:
            self._replace(worker, cause)  # the first of several reports

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            known = error if isinstance(error, PolyrayError) else RolloutError(f"coordinator: {error!r}")
            self._run_state.fail(known)

    def _bring_up(self, worker: PoolWorker) -> None:
        # One task per worker: calls that wait for an actor to start may overtake each other, and an older version
        # must never be loaded after a newer one.
        if worker.name not in self._in_progress:
            self._in_progress.add(worker.name)
            self.spawn(self._bring_up_to_date(worker))

    async def _bring_up_to_date(self, worker: PoolWorker) -> None:
        try:
            while self._run_state.failure is None and self.lacks_newest(worker):
                if self._registry.served_by(worker.name) is None:  # it blocks nothing
                    await self._deliver(worker)
                    continue
                async with self._loading.turn(worker.name, self.dispatcher.is_idle(worker.name)):
                    if self.lacks_newest(worker):
                        await self._deliver(worker)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.delivery_failures += worker.name in self._by_name
            await self.recover(worker, error)
        except PolyrayError:
            self.delivery_failures += 1
            raise
        finally:
            self._in_progress.discard(worker.name)

    async def _deliver(self, worker: PoolWorker) -> None:
        assert self._current is not None
        payload, ref = self._current
        allowance = 0.0 if self._registry.served_by(worker.name) else self._config.rollout.ready_within_s
        try:
            ack, busy_s = await asyncio.wait_for(
                worker.handle.deliver.remote(ref), self._config.delivery.timeout_s + allowance
            )
        except ray.exceptions.RayTaskError as error:
            self._check_refusal(worker, payload.policy, root_cause(error))
            raise
        if worker.name not in self._by_name:
            return  # it was replaced while it loaded
        proof = self._registry.prove(ack, payload)
        if payload.policy.attempt == self.attempt:
            self.dispatcher.serve(worker.name, worker.index, payload.policy.version)
        self._report.add(worker.name, proof.max_difference, busy_s)
        did_all = self.all_serve
        if self.newest == payload.policy:
            self._join(worker)
        self._notify(did_all)

    def _notify(self, did_all: bool) -> None:
        """React to a change of served versions; `did_all`: whether all served the newest version before."""
        if self.all_serve and not did_all:
            self._report.end()
            self._grow()
        self._run_state.changed.set()
        self._on_served()

    def _join(self, worker: PoolWorker) -> None:
        others = self._roster.num_joined
        if self._roster.proved(worker.name):
            self._run_state.incident(
                "worker_joined", f"rollout worker {worker.name} serves now, beside {others} others"
            )
        self._share_out()

    def _share_out(self) -> None:
        """Among those that are there."""
        rollout, num_workers = self._config.rollout, self._roster.num_expected
        self.dispatcher.window = groups_per_worker(rollout, num_workers)
        self._loading.allow(loads_at_once(rollout, num_workers))

    def _grow(self) -> None:
        """The others come last: they would take the room of what the run needs, if they came first."""
        most = self._config.rollout.max_workers
        if not self._may_grow or most is None or most <= self._roster.num_needed:
            return
        self._may_grow = False
        for worker in self._pool.grow():
            self._by_name[worker.name] = worker
            self._bring_up(worker)

    def _check_refusal(self, worker: PoolWorker, policy: PolicyVersion, cause: BaseException) -> None:
        """One refusal may be the worker's fault, as with bytes that arrive damaged; two are the payload's."""
        if not isinstance(cause, WeightSyncError):
            return
        first = self._refused.setdefault(policy, worker.name)
        if first != worker.name:
            self._run_state.fail(
                WeightSyncError(f"{policy.name} was refused by {first}, and then by {worker.name}: {cause}")
            )

    def _replace(self, worker: PoolWorker, error: BaseException) -> None:
        """Replace a worker, unless too many were lost before it."""
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        did_all = self.all_serve
        loss = self._roster.lost(worker.name, in_time=not isinstance(error, TimeoutError))
        if loss is FailureAction.TOO_MANY:
            self._run_state.fail(
                RolloutError(
                    f"{self._roster.replacements} rollout workers were lost, more than "
                    f"rollout.max_worker_replacements={self._config.rollout.max_worker_replacements}; the last one "
                    f"({worker.name}): {reason}"
                )
            )
            return
        self._forget(worker)
        if loss is FailureAction.GIVEN_UP:
            self._leave_a_place_above(worker)
            self._pool.retire(worker)
            self._run_state.incident(
                "worker_given_up",
                f"rollout workers failed {self._roster.failed_joins} times before they served anything; the run "
                f"continues with {self._roster.num_joined}. The last one ({worker.name}): {reason}",
            )
        else:
            self._start_instead(worker, None if loss is FailureAction.STILL_WAITS else reason)
        self._share_out()
        self._notify(did_all)  # the lost one may have been the last to wait for

    def _leave_a_place_above(self, worker: PoolWorker) -> None:
        """Move a serving optional worker into a needed place that would stay empty."""
        if worker.index < self._roster.num_needed:
            above = [other for other in self.workers if other.index >= self._roster.num_needed]
            other = next(other for other in above if self._roster.has_joined(other.name))
            worker.index, other.index = other.index, worker.index

    def _start_instead(self, worker: PoolWorker, reason: str | None) -> None:
        replacement = self._pool.replace(worker)
        self._by_name[replacement.name] = replacement
        if reason is not None:
            self._run_state.incident(
                "worker_replaced",
                f"rollout worker {worker.name} was replaced by {replacement.name}: {reason}",
            )
        if self._current is not None:
            self._bring_up(replacement)

    def _forget(self, worker: PoolWorker) -> None:
        del self._by_name[worker.name]
        self._registry.forget(worker.name)
        self.dispatcher.remove(worker.name)
        self._report.forget(worker.name)


def groups_per_worker(rollout: RolloutSpec, num_workers: int) -> int:
    """Largest number of groups of a worker: enough to keep its engine full, at most its share of all.

    Without the share, the first worker to serve a version would take all groups that this version may start.
    """
    share = -(-(rollout.max_staleness + 1) * rollout.prompts_per_step // num_workers)
    return max(1, min(WINDOW_FACTOR * rollout.max_sequences // rollout.group_size, share))


def loads_at_once(rollout: RolloutSpec, num_workers: int) -> int:
    """Number of workers with groups that may load at once: all if the run waits for it, else half of them."""
    return num_workers if rollout.max_staleness == 0 else -(-num_workers // 2)
