"""State that the parts of a coordinator share: its workers, one row each, and the incidents and failure of the run.

    WorkerTable   rollout workers: served version, groups, load, membership, sleep, engine time
    RunState      incidents, the final failure, and the signal that wakes every waiting call

Bookkeeping without I/O, owned by the coordinator's event loop. The coordinator dispatches groups by it, and the
weight sync manager changes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from polyray.config.rollout import RolloutSpec
from polyray.errors import PolyrayError
from polyray.orchestrator.rollout_pool import PoolWorker
from polyray.types import PolicyVersion

logger = logging.getLogger(__name__)

MAX_INCIDENTS = 10_000
"""Limit per run, so that repeated failures do not fill memory."""
MAX_FAILED_JOINS = 20
"""Failed joins in a row of workers above the needed ones; a lost node ends some."""
MAX_KNOWN_PROMPTS = 100_000
"""Prompts whose lengths are remembered; beyond them the mean of all is used."""
LEARNER_PATIENCE_S = 120.0
"""Longer than most starts of the learner take where there is a place."""
WINDOW_FACTOR = 2
"""Groups in flight per worker, in engine batches: the next ones are at hand when a sequence finishes."""


class RunState:
    """Incidents and final failure of a run, and the signal that wakes its waiters.

    Example:
        run_state = RunState(); run_state.fail(RolloutError("...")); run_state.failure  # the first one
    """

    def __init__(self) -> None:
        self.failure: PolyrayError | None = None
        self.incidents: list[dict[str, str]] = []
        """Faults so far, in words, survived or not; the driver writes them to incidents.jsonl."""
        self._change = asyncio.Event()
        self._gone_since: float | None = None
        self._told = False

    def fail(self, error: PolyrayError) -> None:
        """End the run. The first failure counts."""
        if self.failure is None:
            self.failure = error
            self.incident("failure", str(error))
        self.notify()

    def notify(self) -> None:
        """Wake every call that waits for a change: a group, a delivery, the end.

        Each change has an event of its own, so no waiter can clear one that another has not seen. An
        `asyncio.Condition` would need its lock here, which plain functions cannot wait for.
        """
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def woken(self) -> None:
        """Wait for the next change."""
        await self._change.wait()

    def incident(self, kind: str, message: str) -> None:
        """Record a fault; `kind` is a word to filter by."""
        if len(self.incidents) < MAX_INCIDENTS:
            self.incidents.append({"kind": kind, "message": message})
            # The message may contain text of a prompt, which stays in the run's own directory.
            logger.warning("incident: %s; incidents.jsonl says more", kind)

    @property
    def learner_is_gone(self) -> bool:
        """Whether the learner failed and the next one has not called yet."""
        return self._gone_since is not None

    def learner_failed(self, reason: str) -> None:
        """Record that the learner has ended, or one of its ranks, and may start again."""
        self._gone_since, self._told = time.monotonic(), False
        self.incident("learner_failed", reason)

    def learner_called(self) -> None:
        """Record a new call of the learner: not one that had been waiting for its answer."""
        self._gone_since = None

    def check_learner(self) -> None:
        """Report a long restart of the learner once, as an incident."""
        if self._gone_since is None or self._told or time.monotonic() - self._gone_since < LEARNER_PATIENCE_S:
            return
        self._told = True
        self.incident(
            "learner_waits",
            f"the learner failed {LEARNER_PATIENCE_S:g} s ago and has not begun again: it loads its model, or waits "
            "for a place (ray status shows what is missing)",
        )


class FailureAction(Enum):
    """Consequence of the loss of a worker."""

    REPLACED = "another one takes its place"
    STILL_WAITS = "another one waits for room in its place; no incident"
    GIVEN_UP = "its place stays empty: its replacements have ended too often"
    TOO_MANY = "the run ends: more workers were lost than it may replace"


@dataclass(slots=True, eq=False)
class WorkerRow:
    """One live worker. Its place (`worker.index`) outlives it, its name does not."""

    worker: PoolWorker
    served: PolicyVersion | None = None
    """Version that it has proven to serve, of any attempt; None before the first."""
    joined: bool = False
    """Whether it has served a version while that was the newest."""
    groups: int = 0
    """Training groups in flight."""
    validating: int = 0
    """Groups of rounds in flight."""
    load: float = 0.0
    """Expected work of these groups, in groups of mean length."""
    syncing: bool = False
    """Whether a task brings it up to date."""
    holds_turn: bool = False
    """Whether it loads a version while it has groups."""
    asleep: bool = False
    """Whether its engine has given back the memory of its device."""
    engine_time: tuple[float, float] | None = None
    """(seconds in which the engine has stepped so far, when it said so)."""
    idle_share: float | None = None
    """Share of the time between its last two deliveries in which its engine did not step."""

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.worker.name

    def started(self, weight: float = 1.0) -> None:
        """Count a group that was sent to it."""
        self.groups += 1
        self.load += weight

    def ended(self, weight: float = 1.0) -> None:
        """Count a group that came back or was lost."""
        self.groups -= 1
        self.load = max(0.0, self.load - weight) if self.groups else 0.0

    def stepped(self, busy_s: float) -> None:
        """Record the seconds in which its engine has stepped since it started."""
        now = time.perf_counter()
        before_s, before = self.engine_time or (busy_s, now)
        self.engine_time = busy_s, now
        if now > before:
            self.idle_share = min(1.0, max(0.0, 1 - (busy_s - before_s) / (now - before)))


class WorkerTable:
    """Rows of all live workers of a run, and the rules of membership.

    A run needs as many workers as it starts with, no matter which ones. A worker joins when it has proven the newest
    version; optional ones may still wait for room.

    Example:
        table = WorkerTable(pool.workers, config.rollout)
        row = table.choose(lambda version: version >= 3)  # None: no worker has room for a group
    """

    def __init__(self, workers: Sequence[PoolWorker], rollout: RolloutSpec) -> None:
        self._rollout = rollout
        self._rows = {worker.name: WorkerRow(worker) for worker in workers}
        self.num_needed = len(workers)
        self.attempt = 0
        """Attempt of the learner whose versions may be sampled from."""
        self.newest: PolicyVersion | None = None
        """Version that was published last in this attempt."""
        self.replacements = 0
        """Workers that the run needed and lost."""
        self.failed_joins = 0
        """Failed joins since an optional worker last joined."""

    @property
    def rows(self) -> list[WorkerRow]:
        """All rows, in the order of their places."""
        return sorted(self._rows.values(), key=lambda row: row.worker.index)

    def add(self, worker: PoolWorker) -> WorkerRow:
        """Add a worker that has just been started."""
        row = self._rows[worker.name] = WorkerRow(worker)
        return row

    def remove(self, row: WorkerRow) -> None:
        """Forget a worker and everything about it."""
        del self._rows[row.name]

    def has(self, row: WorkerRow) -> bool:
        """Whether this worker is still a member, rather than replaced or retired."""
        return row.name in self._rows

    # ---- versions

    def new_attempt(self, attempt: int) -> None:
        """The learner starts again: nothing that is served may be sampled from until it publishes."""
        self.attempt, self.newest = attempt, None

    def serving(self, policy: PolicyVersion) -> list[WorkerRow]:
        """Workers that have proven to serve exactly this version."""
        return [row for row in self.rows if row.served == policy]

    def lacks_newest(self, row: WorkerRow) -> bool:
        """Whether there is a version that this worker has still to prove."""
        return self.has(row) and self.newest is not None and row.served != self.newest

    @property
    def num_joined(self) -> int:
        """Workers that have proven a version."""
        return sum(row.joined for row in self._rows.values())

    @property
    def num_expected(self) -> int:
        """Workers to share the work among: those that have joined, and at least as many as the run needs."""
        return max(self.num_needed, self.num_joined)

    @property
    def num_behind(self) -> int:
        """Workers that have joined and have not proven the newest version."""
        return sum(row.joined and row.served != self.newest for row in self._rows.values())

    @property
    def all_serve(self) -> bool:
        """Whether every worker that has joined, and as many as the run needs, have proven the newest version."""
        return self.newest is not None and self.num_joined >= self.num_needed and not self.num_behind

    @property
    def may_load(self) -> bool:
        """Whether one more worker with groups may load a version.

        Any may at S = 0, where the run waits for all; otherwise half of them, so that the others keep sampling.
        """
        limit = self.num_expected if self._rollout.max_staleness == 0 else -(-self.num_expected // 2)
        return sum(row.holds_turn for row in self._rows.values()) < limit

    # ---- dispatch

    def choose(self, may_start: Callable[[int], bool]) -> WorkerRow | None:
        """The least loaded worker with room whose version may start a group; None if there is none.

        Args:
            may_start: whether one more group of this version may be started now.
        """
        window = groups_per_worker(self._rollout, self.num_expected)
        allowed: dict[int, bool] = {}
        best: WorkerRow | None = None
        for row in self._rows.values():
            served = row.served
            if served is None or served.attempt != self.attempt or row.groups >= window:
                continue
            if best is not None:
                heavier = row.load > best.load
                if heavier or (row.load == best.load and row.worker.index > best.worker.index):
                    continue
            if served.version not in allowed:
                allowed[served.version] = may_start(served.version)
            if allowed[served.version]:
                best = row
        return best

    # ---- membership

    def proved(self, row: WorkerRow, policy: PolicyVersion) -> bool:
        """Record a proven version. True if the worker joins a run that has all it needs."""
        row.served = policy
        if policy != self.newest or row.joined:
            return False
        beside = self.num_joined >= self.num_needed
        if beside:
            self.failed_joins = 0
        row.joined = True
        return beside

    def lost(self, row: WorkerRow, *, in_time: bool) -> FailureAction:
        """Remove a worker and decide what follows; `in_time`: it failed, rather than taking longer than it may."""
        self.remove(row)
        if self.num_joined < self.num_needed:
            self.replacements += 1
            too_many = self.replacements > self._rollout.max_worker_replacements
            return FailureAction.TOO_MANY if too_many else FailureAction.REPLACED
        if row.joined:
            return FailureAction.REPLACED
        if not in_time:
            return FailureAction.STILL_WAITS
        self.failed_joins += 1
        return FailureAction.GIVEN_UP if self.failed_joins > MAX_FAILED_JOINS else FailureAction.REPLACED


def groups_per_worker(rollout: RolloutSpec, num_workers: int) -> int:
    """Largest number of groups of a worker: enough to keep its engine full, at most its share of all.

    Without the share, the first worker to serve a version would take all groups that this version may start.
    """
    share = -(-(rollout.max_staleness + 1) * rollout.prompts_per_step // num_workers)
    return max(1, min(WINDOW_FACTOR * rollout.max_sequences // rollout.group_size, share))


@dataclass(slots=True)
class ExpectedLengths:
    """Expected work of a group, from the groups of its prompt so far: 1 is the mean of all.

    Example:
        lengths = ExpectedLengths(); lengths.observe("p1", 300); lengths.observe("p2", 100)
        lengths.weight("p1")  # 1.5
    """

    _of_prompt: dict[str, tuple[int, int]] = field(default_factory=dict)
    _tokens: int = 0
    _groups: int = 0

    def observe(self, prompt_id: str, num_tokens: int) -> None:
        """Record a group of this prompt with `num_tokens` tokens."""
        self._tokens += num_tokens
        self._groups += 1
        if prompt_id in self._of_prompt or len(self._of_prompt) < MAX_KNOWN_PROMPTS:
            tokens, groups = self._of_prompt.get(prompt_id, (0, 0))
            self._of_prompt[prompt_id] = tokens + num_tokens, groups + 1

    def weight(self, prompt_id: str) -> float:
        """Expected tokens over the mean of all groups; 1 for a prompt that was never seen."""
        known = self._of_prompt.get(prompt_id)
        if known is None or self._tokens == 0:
            return 1.0
        return (known[0] / known[1]) / (self._tokens / self._groups)
