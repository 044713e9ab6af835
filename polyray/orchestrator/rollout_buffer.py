"""Rollout buffer: tracks every group exactly once, from its id to its end.

    next_id() --> running --finished()--> buffer --cut()--> a batch, leased by (attempt, step)
                     |          |            |                |
                requeue()     drop()       too stale        lost(): its handle leads nowhere any more
              after a fault   filter()

Plain bookkeeping of ids and the caller's handles (the coordinator attaches object references).
A batch is cut once per step and asking again gives the same one. `snapshot` and `restore` carry it over a
restart, and `restore_group` those groups that need not be sampled again. A group that leaves without being trained on
is recorded with its reason, so that a run can account for every id.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Generic, Literal, TypeVar

from polyray.types import PolicyVersion

HandleT = TypeVar("HandleT")
DropReason = Literal["unscored", "truncated", "zero_advantage", "stale", "other_lineage"]


class StalenessDecision(Enum):
    """Staleness decision for a group at consumption."""

    USE = "use"
    STALE = "stale"
    OTHER_LINEAGE = "other_lineage"


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


@dataclass(slots=True)
class Batch(Generic[HandleT]):
    """Groups of one learner step: places that are filled once and do not change.

    Example:
        Batch(step=17, places=[Finished(...), None], lost={1: 274}, dropped=((271, "stale"),))
    """

    step: int
    places: list[Finished[HandleT] | None]
    """Every n-th place belongs to one rank, so a place keeps its number when its group changes."""
    lost: dict[int, int] = field(default_factory=dict)
    """Place -> the group that was lost there and is on its way again."""
    dropped: tuple[tuple[int, DropReason], ...] = ()
    """Groups that left since the batch before, without being trained on."""

    @property
    def groups(self) -> list[Finished[HandleT]]:
        """The groups of a complete batch."""
        return [place for place in self.places if place is not None]


@dataclass(slots=True)
class BufferCounts:
    """Counts since the start of the surviving history.

    Example:
        BufferCounts(dropped=2, filtered=0, stale=2, stale_tokens=1800, used=64, used_tokens=20480)
    """

    dropped: int = 0
    filtered: int = 0
    stale: int = 0
    """Dropped groups that were too old."""
    stale_tokens: int = 0
    used: int = 0
    used_tokens: int = 0

    @property
    def stale_length_ratio(self) -> float:
        """Mean tokens of groups dropped for age over those of groups trained on; above 1: long ones are lost."""
        if not self.stale or not self.used_tokens:
            return 0.0
        return (self.stale_tokens / self.stale) / (self.used_tokens / self.used)


class RolloutBuffer(Generic[HandleT]):
    """See the module. Not thread-safe: the coordinator's event loop owns it."""

    def __init__(self, batch: int, max_staleness: int, total_steps: int) -> None:
        self.batch = batch
        self.max_staleness = max_staleness
        self.total_steps = total_steps
        self.attempt = 0
        self.learner_version = 0
        self.counts = BufferCounts()
        self._ancestors: dict[int, int] = {}
        """Attempt -> its newest version that this one descends from."""
        self._dropped: list[tuple[int, DropReason]] = []
        self._cursor = 0
        self._first_of_step = 0
        self._requeued: list[int] = []
        self._running: set[int] = set()
        self._buffer: dict[int, Finished[HandleT]] = {}
        self._unjudged: list[int] = []
        """Buffered groups that were not checked for staleness since the version last changed."""
        self._lease: Batch[HandleT] | None = None

    @property
    def num_running(self) -> int:
        """Groups that a worker is busy with."""
        return len(self._running)

    @property
    def num_buffered(self) -> int:
        """Scored groups that wait."""
        return len(self._buffer)

    @property
    def may_take_batch(self) -> bool:
        """False if there can be no batch now, at any step."""
        return self._lease is not None or len(self._buffer) >= self.batch

    @property
    def leased_step(self) -> int | None:
        """Step of the batch that is cut and not consumed yet; None without one."""
        return None if self._lease is None else self._lease.step

    def may_start(self, served_version: int) -> bool:
        """Whether a worker that serves this version may take one more group."""
        accepted = self._places_used() + len(self._buffer)
        if accepted + len(self._running) >= self.total_steps * self.batch:
            return False
        return may_start(accepted, len(self._running), served_version, self.batch, self.max_staleness)

    def may_start_lost(self, served_version: int) -> bool:
        """The same, where nothing but what the leased batch still lacks is to be started."""
        lost = self._lease.lost.values() if self._lease is not None else ()
        waits = any(group_id in self._requeued for group_id in lost)
        # A group that was dropped when it was sampled again is replaced by another one, if none waits or runs.
        dropped = bool(lost) and not (self._running or self._buffer)
        return (waits or dropped) and self.may_start(served_version)

    def next_id(self) -> int:
        """The group to start now: what the learner waits for first, then what a fault gave back, then the next of
        the stream."""
        lost = self._lease.lost.values() if self._lease is not None else ()
        waiting = [group_id for group_id in lost if group_id in self._requeued]
        if waiting:
            group_id = min(waiting)
            self._requeued.remove(group_id)
            heapq.heapify(self._requeued)
        elif self._requeued:
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
        self._unjudged.append(group.group_id)

    def drop(self, group_id: int, reason: DropReason = "unscored") -> None:
        """A running group turned out unusable: another one will be started in its place."""
        self._running.remove(group_id)
        self._gone(group_id, reason)

    def has_dropped(self, reason: DropReason, batches: int) -> bool:
        """Whether more than so many batches of groups were dropped for this reason since the last batch was cut."""
        return sum(dropped == reason for _, dropped in self._dropped) > batches * self.batch

    def filter(self, group_id: int, max_batches: int) -> bool:
        """Drops a running group that has no signal; False where the step has replaced enough of them already.

        Which ones are replaced follows from their ids, not from the order in which they finish: so it is the same
        in a repeated run.
        """
        if group_id >= self._first_of_step + max_batches * self.batch:
            return False
        self._running.remove(group_id)
        self._gone(group_id, "zero_advantage")
        return True

    def lost(self, step: int, group_id: int) -> None:
        """Requeue a lost group of the leased batch; it returns to the same place.

        A second call, or one for a consumed batch, changes nothing.
        """
        if self._lease is None or self._lease.step != step:
            return
        for place, item in enumerate(self._lease.places):
            if item is not None and item.group_id == group_id:
                self._lease.places[place] = None
                self._lease.lost[place] = group_id
                heapq.heappush(self._requeued, group_id)

    def take_batch(self, step: int) -> Batch[HandleT] | None:
        """The batch of `step`, the same at every call; None while it is not complete.

        At S = 0 sorted by group id (row order changes the adapter's bytes), else the oldest version first.
        """
        self._drop_stale()
        if self._lease is not None and self._lease.step == step:
            self._refill(self._lease)
            return None if self._lease.lost else self._lease
        if step != self.learner_version or len(self._buffer) < self.batch:
            return None
        chosen = self._oldest_first()[: self.batch]
        if self.max_staleness == 0:
            chosen.sort(key=lambda item: item.group_id)
        for item in chosen:
            del self._buffer[item.group_id]
        self._lease = Batch(step, list(chosen), dropped=tuple(self._dropped))
        self._dropped = []
        self._first_of_step = self._cursor
        return self._lease

    def published(self, version: int) -> None:
        """The learner consumed the batches up to `version`."""
        self.learner_version = version
        self._unjudged = list(self._buffer)
        if self._lease is not None and self._lease.step < version:
            self.counts.used += len(self._lease.groups)
            self.counts.used_tokens += sum(item.num_tokens for item in self._lease.groups)
            self._lease = None

    def waiting(self) -> list[Finished[HandleT]]:
        """Scored groups that a resumed run can still train on, without sampling them again.

        At most S + 1 batches. None at S = 0: sampling again gives the same groups.
        """
        if self.max_staleness == 0:
            return []
        leased = self._lease.groups if self._lease else []
        return [
            item for item in (*leased, *self._oldest_first()) if self._judged(item) is StalenessDecision.USE
        ]

    def restore_group(self, group: Finished[HandleT]) -> bool:
        """Put a group of `waiting` back into the buffer, after `restore`.

        Returns False, without a change, for a group that is not pending, or that can no longer be trained on.
        """
        if group.group_id not in self._requeued or self._judged(group) is not StalenessDecision.USE:
            return False
        self._requeued.remove(group.group_id)
        heapq.heapify(self._requeued)
        self._buffer[group.group_id] = group
        self._unjudged.append(group.group_id)
        return True

    def snapshot(self) -> dict[str, Any]:
        """Plain values for `restore`; groups that were started and not consumed are sampled again."""
        leased = [item.group_id for item in self._lease.groups] if self._lease else []
        dropped = [*(self._lease.dropped if self._lease else ()), *self._dropped]
        pending = sorted({*self._running, *self._buffer, *self._requeued, *leased})
        oldest = self.learner_version - self.max_staleness
        return {
            "attempt": self.attempt,
            "ancestors": [list(item) for item in self._ancestors.items() if item[1] >= oldest],
            "version": self.learner_version,
            "cursor": self._cursor,
            "pending": pending,
            "counts": asdict(self.counts),
            "dropped": [list(item) for item in dropped],
            "first_of_step": self._first_of_step,
        }

    def restore(self, snapshot: Mapping[str, Any] | None) -> int:
        """Starts a new attempt from a snapshot (None: from nothing) and returns its number."""
        values = snapshot or {
            "attempt": 0, "ancestors": [], "version": 0, "cursor": 0, "pending": [], "counts": {}, "dropped": [],
            "first_of_step": 0,
        }  # fmt: skip
        self._ancestors = dict(values.get("ancestors", ()))
        self._ancestors |= {values["attempt"]: values["version"]} if snapshot else {}
        self.attempt = max(self.attempt, values["attempt"]) + 1
        self.learner_version = values["version"]
        self.counts = BufferCounts(**values["counts"])
        self._dropped = [(group_id, reason) for group_id, reason in values["dropped"]]
        self._first_of_step = values["first_of_step"]
        self._cursor = values["cursor"]
        self._requeued = list(values["pending"])
        heapq.heapify(self._requeued)
        self._running = set()
        self._buffer = {}
        self._unjudged = []
        self._lease = None
        return self.attempt

    def _places_used(self) -> int:
        """Groups of consumed batches, and those of the leased one that are there."""
        taken, lease = self.learner_version * self.batch, self._lease
        return taken + (len(lease.places) - len(lease.lost) if lease is not None else 0)

    def _oldest_first(self) -> list[Finished[HandleT]]:
        return sorted(self._buffer.values(), key=lambda item: (item.policy.version, item.group_id))

    def _refill(self, batch: Batch[HandleT]) -> None:
        """Put each lost group into its own place; if it was dropped this time, the oldest waiting group."""
        for place, group_id in list(batch.lost.items()):
            item = self._buffer.pop(group_id, None)
            if item is None and group_id not in self._running and group_id not in self._requeued:
                waiting = [
                    other for other in self._oldest_first() if other.group_id not in batch.lost.values()
                ]
                item = self._buffer.pop(waiting[0].group_id) if waiting else None
            if item is not None:
                batch.places[place] = item
                del batch.lost[place]

    def _judged(self, item: Finished[HandleT]) -> StalenessDecision:
        return judge(
            item.policy, self.learner_version, self.attempt, self.max_staleness, ancestors=self._ancestors
        )

    def _gone(self, group_id: int, reason: DropReason) -> None:
        self._dropped.append((group_id, reason))
        if reason == "zero_advantage":
            self.counts.filtered += 1
        else:
            self.counts.dropped += 1

    def _drop_stale(self) -> None:
        unjudged, self._unjudged = self._unjudged, []
        for item in [self._buffer[group_id] for group_id in unjudged if group_id in self._buffer]:
            verdict = self._judged(item)
            if verdict is not StalenessDecision.USE:
                del self._buffer[item.group_id]
                self.counts.stale += 1
                self.counts.stale_tokens += item.num_tokens
                self._gone(item.group_id, "stale" if verdict is StalenessDecision.STALE else "other_lineage")


def may_start(accepted: int, running: int, served_version: int, batch: int, max_staleness: int) -> bool:
    """True where one more group, sampled by version `served_version`, can still be consumed in time.

    `accepted` counts groups of the surviving history: consumed batches and what is buffered. With S = 0
    exactly one batch is ever under way.
    """
    return accepted + running + 1 <= (max_staleness + served_version + 1) * batch


def judge(
    group_policy: PolicyVersion,
    learner_version: int,
    attempt: int,
    max_staleness: int,
    ancestors: Mapping[int, int] | None = None,
) -> StalenessDecision:
    """Whether a group of `group_policy` may enter the batch that updates `learner_version` in `attempt`.

    `ancestors`: earlier attempt -> the newest of its versions from which this attempt descends. Its later versions
    are void.
    """
    inherited = (ancestors or {}).get(group_policy.attempt, -1)
    if group_policy.attempt != attempt and group_policy.version > inherited:
        return StalenessDecision.OTHER_LINEAGE
    if 0 <= learner_version - group_policy.version <= max_staleness:
        return StalenessDecision.USE
    return StalenessDecision.STALE
