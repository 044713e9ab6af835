"""Which groups run, wait or were consumed: each one exactly once in the surviving history.

    next_id() --> running --finished()--> buffer --cut()--> a batch, leased by (attempt, step)
                     |                       |
                requeue() after a fault      drop(): too stale, unscored; filter(): teaches nothing

Plain bookkeeping of ids and whatever handle the caller attaches (the coordinator attaches object references).
A batch is cut once per step and asking again gives the same one; `snapshot` and `restore` carry it over a
restart.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from polyray.rollout.staleness import Verdict, judge, may_start
from polyray.types import PolicyVersion

HandleT = TypeVar("HandleT")


@dataclass(frozen=True, slots=True)
class Finished(Generic[HandleT]):
    """A scored group waiting for the learner.

    Example:
        Finished(group_id=40, policy=PolicyVersion(...), handle=ref, num_tokens=96, generate_s=.2,
        score_s=.01)
    """

    group_id: int
    policy: PolicyVersion
    handle: HandleT
    num_tokens: int
    generated_at: float
    """Clock of the process that keeps the ledger, in seconds."""
    scored_at: float


class GroupLedger(Generic[HandleT]):
    """See the module. Not thread-safe: the coordinator's event loop owns it."""

    def __init__(self, batch: int, max_staleness: int, total_steps: int) -> None:
        self.batch = batch
        self.max_staleness = max_staleness
        self.total_steps = total_steps
        self.attempt = 0
        self.learner_version = 0
        self.dropped = 0
        self.filtered = 0
        self._cursor = 0
        self._first_of_step = 0
        self._requeued: list[int] = []
        self._running: set[int] = set()
        self._buffer: dict[int, Finished[HandleT]] = {}
        self._lease: tuple[int, list[Finished[HandleT]]] | None = None

    @property
    def num_running(self) -> int:
        """Groups that a worker is busy with."""
        return len(self._running)

    @property
    def num_buffered(self) -> int:
        """Scored groups that wait."""
        return len(self._buffer)

    def may_start(self, served_version: int) -> bool:
        """Whether a worker that serves this version may take one more group."""
        accepted = self._batches_cut() * self.batch + len(self._buffer)
        if accepted + len(self._running) >= self.total_steps * self.batch:
            return False
        return may_start(accepted, len(self._running), served_version, self.batch, self.max_staleness)

    def next_id(self) -> int:
        """The group to start now: what a fault gave back first, then the next of the stream."""
        if self._requeued:
            group_id = heapq.heappop(self._requeued)
        else:
            group_id = self._cursor
            self._cursor += 1
        self._running.add(group_id)
        return group_id

    def requeue(self, group_id: int) -> None:
        """A running group was lost with its worker; it will be started again, once."""
        self._running.remove(group_id)
        heapq.heappush(self._requeued, group_id)

    def finished(self, group: Finished[HandleT]) -> None:
        """A running group was generated and scored."""
        self._running.remove(group.group_id)
        self._buffer[group.group_id] = group

    def drop(self, group_id: int) -> None:
        """A running group turned out unusable (unscored): another one will be started in its
        place."""
        self._running.remove(group_id)
        self.dropped += 1

    def filter(self, group_id: int, max_batches: int) -> bool:
        """Drops a running group that teaches nothing; False where the step has replaced enough of them already.

        Which ones are replaced follows from their ids, not from the order in which they finish: so it is the same
        in a repeated run.
        """
        if group_id >= self._first_of_step + max_batches * self.batch:
            return False
        self._running.remove(group_id)
        self.filtered += 1
        return True

    def cut(self, step: int) -> list[Finished[HandleT]] | None:
        """The batch of `step`, the same at every call; None while it is not complete.

        At S = 0 sorted by group id (row order changes the adapter's bytes), else the oldest version first.
        """
        if self._lease is not None and self._lease[0] == step:
            return self._lease[1]
        self._drop_stale()
        if step != self.learner_version or len(self._buffer) < self.batch:
            return None
        order = sorted(self._buffer.values(), key=lambda item: (item.policy.version, item.group_id))
        chosen = (
            sorted(order[: self.batch], key=lambda item: item.group_id) if self.max_staleness == 0 else order
        )
        chosen = chosen[: self.batch]
        for item in chosen:
            del self._buffer[item.group_id]
        self._lease = (step, chosen)
        self._first_of_step = self._cursor
        return chosen

    def published(self, version: int) -> None:
        """The learner consumed the batches up to `version`."""
        self.learner_version = version
        if self._lease is not None and self._lease[0] < version:
            self._lease = None

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which `restore` continues: what was started but not consumed comes again."""
        leased = [item.group_id for item in self._lease[1]] if self._lease else []
        pending = sorted({*self._running, *self._buffer, *self._requeued, *leased})
        return {
            "attempt": self.attempt,
            "version": self.learner_version,
            "cursor": self._cursor,
            "pending": pending,
            "dropped": self.dropped,
            "filtered": self.filtered,
            "first_of_step": self._first_of_step,
        }

    def restore(self, snapshot: Mapping[str, Any] | None) -> int:
        """Starts a new attempt from a snapshot (None: from nothing) and returns its number."""
        values = snapshot or {
            "attempt": 0, "version": 0, "cursor": 0, "pending": [],
            "dropped": 0, "filtered": 0, "first_of_step": 0,
        }  # fmt: skip
        self.attempt = max(self.attempt, values["attempt"]) + 1
        self.learner_version = values["version"]
        self.dropped = values["dropped"]
        self.filtered = values["filtered"]
        self._first_of_step = values["first_of_step"]
        self._cursor = values["cursor"]
        self._requeued = list(values["pending"])
        heapq.heapify(self._requeued)
        self._running = set()
        self._buffer = {}
        self._lease = None
        return self.attempt

    def _batches_cut(self) -> int:
        return self.learner_version + (1 if self._lease is not None else 0)

    def _drop_stale(self) -> None:
        for item in list(self._buffer.values()):
            verdict = judge(item.policy, self.learner_version, self.attempt, self.max_staleness)
            if verdict is not Verdict.USE:
                del self._buffer[item.group_id]
                self.dropped += 1
