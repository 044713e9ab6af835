"""Every group has exactly one fate, under random orders of deliveries, deaths, leases, losses and restarts."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from polyray.orchestrator.rollout_buffer import Batch, Finished, RolloutBuffer
from polyray.types import PolicyVersion

BATCH, STEPS = 2, 4


class History(RuleBasedStateMachine):
    """One run. `consumed`: ids that the surviving history has trained on, with the versions that sampled them."""

    buffer: RolloutBuffer[str]
    max_staleness: int

    @initialize(max_staleness=st.integers(0, 2))
    def begins(self, max_staleness: int) -> None:
        self.max_staleness = max_staleness
        self.buffer = RolloutBuffer(BATCH, max_staleness, STEPS)
        self.buffer.restore(None)
        self.running: dict[int, int] = {}
        self.consumed: list[int] = []
        self.dropped: list[int] = []
        self.lease: Batch[str] | None = None
        self.checkpoints: list[tuple[str, list[Finished[str]], list[int], list[int]]] = []

    def _groups_run(self) -> bool:
        return bool(self.running)

    @rule(age=st.integers(0, 2))
    def starts(self, age: int) -> None:
        version = max(0, self.buffer.learner_version - age)  # a worker may be behind
        if self.buffer.may_start(version):
            group_id = self.buffer.next_id()
            assert group_id not in {*self.running, *self.consumed, *self.dropped}
            self.running[group_id] = version

    @precondition(_groups_run)
    @rule(data=st.data(), end=st.sampled_from(["finished", "finished", "requeue", "drop", "filter"]))
    def ends(self, data: st.DataObject, end: str) -> None:
        group_id = data.draw(st.sampled_from(sorted(self.running)))
        if end == "filter" and not self.buffer.filter(group_id, max_batches=1):
            return
        version = self.running.pop(group_id)
        if end == "finished":
            policy = PolicyVersion(self.buffer.attempt, version, "0" * 64)
            self.buffer.finished(Finished(group_id, policy, f"group-{group_id}", 8, 0.0, 0.0))
        elif end == "requeue":
            self.buffer.requeue(group_id)
        else:
            self.dropped.append(group_id)
            if end == "drop":
                self.buffer.drop(group_id)

    @rule()
    def learner_asks(self) -> None:
        step = self.buffer.learner_version
        batch = self.buffer.take_batch(step)
        if batch is None:
            return
        assert self.lease is None or batch is self.lease  # asked again, it is the same
        ids = [item.group_id for item in batch.groups]
        assert len(ids) == len(set(ids)) == BATCH and not {*ids} & {*self.consumed, *self.dropped}
        for item in batch.groups:
            assert (
                0 <= step - item.policy.version <= self.max_staleness
                and item.handle == f"group-{item.group_id}"
            )
        self.lease = batch

    @precondition(lambda self: self.lease is not None and self.lease.groups)
    @rule(data=st.data())
    def object_is_lost(self, data: st.DataObject) -> None:
        assert self.lease is not None
        group_id = data.draw(st.sampled_from([item.group_id for item in self.lease.groups]))
        self.buffer.lost(self.lease.step, group_id)
        self.buffer.lost(self.lease.step + 1, group_id)  # of no batch

    @precondition(lambda self: self.lease is not None and not self.lease.lost)
    @rule()
    def learner_publishes(self) -> None:
        assert self.lease is not None
        self.consumed += [item.group_id for item in self.lease.groups]
        self.lease = None
        self.buffer.published(self.buffer.learner_version + 1)

    @rule()
    def checkpoint_is_written(self) -> None:
        snapshot = json.dumps(self.buffer.snapshot())
        assert self.max_staleness or not self.buffer.waiting()  # sampling again gives the same groups
        self.checkpoints.append((snapshot, deepcopy(self.buffer.waiting()), [*self.consumed], self._gone()))

    @precondition(lambda self: self.checkpoints)
    @rule(data=st.data(), new_process=st.booleans())
    def learner_restarts(self, data: st.DataObject, new_process: bool) -> None:
        snapshot, waiting, consumed, dropped = data.draw(st.sampled_from(self.checkpoints))
        if new_process:
            self.buffer = RolloutBuffer(BATCH, self.max_staleness, STEPS)
        attempt = self.buffer.attempt
        assert self.buffer.restore(json.loads(snapshot)) > attempt
        self.running, self.consumed, self.dropped, self.lease = {}, [*consumed], [*dropped], None
        for item in waiting:
            assert self.buffer.restore_group(item) and not self.buffer.restore_group(item)

    def _gone(self) -> list[int]:
        """Ids that left without being trained on: those that were reported, and stale ones that only now left."""
        values: dict[str, Any] = self.buffer.snapshot()
        stale = [group_id for group_id, reason in values["dropped"] if reason in ("stale", "other_lineage")]
        leased = [] if self.lease is None else [group_id for group_id, reason in self.lease.dropped]
        return sorted({*self.dropped, *stale, *leased})

    @invariant()
    def every_id_has_one_fate(self) -> None:
        self.dropped = self._gone()
        snapshot = self.buffer.snapshot()
        fates = [*self.consumed, *self.dropped, *snapshot["pending"]]
        assert sorted(fates) == list(range(snapshot["cursor"]))
        assert len(self.consumed) == BATCH * self.buffer.learner_version

    @invariant()
    def at_most_s_plus_one_batches_are_under_way(self) -> None:
        leased = 0 if self.lease is None else len(self.lease.groups)
        under_way = self.buffer.num_running + self.buffer.num_buffered + leased
        assert under_way <= (self.max_staleness + 1) * BATCH
        assert self.buffer.num_running == len(self.running)


TestHistory = History.TestCase


@pytest.mark.parametrize("wrong", ["lost groups are forgotten", "requeued groups get a new id"])
def test_history_notices_a_broken_buffer(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A property that no fault violates would prove nothing."""
    if wrong == "lost groups are forgotten":
        monkeypatch.setattr(RolloutBuffer, "requeue", lambda self, number: self._running.remove(number))
    else:

        def requeue(self: RolloutBuffer[str], number: int) -> None:
            self._running.remove(number)
            self._requeued.append(self._cursor)
            self._cursor += 1

        monkeypatch.setattr(RolloutBuffer, "requeue", requeue)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(History)
