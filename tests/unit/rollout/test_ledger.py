"""Groups are started, given back, dropped, handed out and replayed exactly once in the surviving history."""

from __future__ import annotations

import json

import pytest

from polyray.rollout.ledger import Finished, GroupLedger, LedgerCounts
from polyray.types import PolicyVersion


def _ledger(batch: int = 2, max_staleness: int = 0, total_steps: int = 100) -> GroupLedger[str]:
    ledger: GroupLedger[str] = GroupLedger(batch, max_staleness, total_steps)
    ledger.restore(None)
    return ledger


def _finish(ledger: GroupLedger[str], group_id: int, version: int, attempt: int = 1) -> None:
    policy = PolicyVersion(attempt, version, "0" * 64)
    ledger.finished(Finished(group_id, policy, f"handle-{group_id}", 8, 0.0, 0.0))


def _start_all(ledger: GroupLedger[str], served_version: int) -> list[int]:
    started: list[int] = []
    while ledger.may_start(served_version):
        started.append(ledger.next_id())
    return started


def _cut(ledger: GroupLedger[str], step: int) -> list[int] | None:
    batch = ledger.cut(step)
    return None if batch is None else [item.group_id for item in batch.groups]


def _do_step(ledger: GroupLedger[str], step: int) -> list[int]:
    """One synchronous step: everything that may start runs, is consumed and published."""
    for group_id in _start_all(ledger, step):
        _finish(ledger, group_id, step, ledger.attempt)
    batch = _cut(ledger, step)
    assert batch is not None
    ledger.published(step + 1)
    return batch


def test_a_batch_is_cut_once_and_handed_out_again_unchanged() -> None:
    ledger = _ledger(max_staleness=1)
    for _ in range(3):
        _finish(ledger, ledger.next_id(), 0)
    first = ledger.cut(0)
    assert first is not None
    assert [(item.group_id, item.handle) for item in first.groups] == [(0, "handle-0"), (1, "handle-1")]
    _finish(ledger, ledger.next_id(), 0)
    assert ledger.cut(0) is first
    assert ledger.num_buffered == 2
    ledger.published(1)
    assert _cut(ledger, 1) == [2, 3]


def test_no_batch_before_it_is_complete_nor_for_another_step() -> None:
    ledger = _ledger()
    _finish(ledger, ledger.next_id(), 0)
    assert ledger.cut(0) is None
    _finish(ledger, ledger.next_id(), 0)
    assert ledger.cut(1) is None
    assert _cut(ledger, 0) == [0, 1]
    assert ledger.cut(1) is None  # version 1 is not published: its batch does not exist yet


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_a_version_that_stands_still_fills_s_plus_one_batches(max_staleness: int) -> None:
    ledger = _ledger(batch=3, max_staleness=max_staleness)
    assert _start_all(ledger, 0) == list(range(3 * (max_staleness + 1)))
    assert ledger.num_running == 3 * (max_staleness + 1)
    for group_id in range(3 * (max_staleness + 1)):
        _finish(ledger, group_id, 0)
    assert not ledger.may_start(0)  # finishing makes no room: what is buffered still counts
    assert ledger.cut(0) is not None
    assert not ledger.may_start(0)  # neither does the cut: only a newer version does
    ledger.published(1)
    first = 3 * (max_staleness + 1)
    assert _start_all(ledger, 1) == [first, first + 1, first + 2]


def test_a_worker_left_behind_may_start_less_than_one_that_serves_the_newest() -> None:
    ledger = _ledger(batch=2, max_staleness=1)
    for group_id in _start_all(ledger, 0):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1]
    ledger.published(1)
    assert not ledger.may_start(0)
    assert ledger.may_start(1)


def test_at_staleness_zero_one_batch_is_ever_under_way() -> None:
    ledger = _ledger(batch=4)
    for step in range(5):
        assert _do_step(ledger, step) == [4 * step + offset for offset in range(4)]
        assert (ledger.num_running, ledger.num_buffered) == (0, 0)


def test_nothing_starts_beyond_the_last_step() -> None:
    ledger = _ledger(batch=2, max_staleness=2, total_steps=2)
    assert _start_all(ledger, 0) == [0, 1, 2, 3]  # S alone would admit 6
    for group_id in range(4):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1]
    ledger.published(1)
    assert not ledger.may_start(1)
    assert _cut(ledger, 1) == [2, 3]
    ledger.published(2)
    assert not ledger.may_start(2)


def test_a_lost_group_comes_again_once_before_new_ones() -> None:
    ledger = _ledger(batch=4)
    assert _start_all(ledger, 0) == [0, 1, 2, 3]
    ledger.requeue(2)
    ledger.requeue(1)
    assert ledger.num_running == 2
    assert _start_all(ledger, 0) == [1, 2]
    ledger.drop(3)
    assert _start_all(ledger, 0) == [4]


def test_a_group_that_is_not_running_cannot_be_given_back_finished_or_dropped() -> None:
    ledger = _ledger()
    group_id = ledger.next_id()
    _finish(ledger, group_id, 0)
    for refused in (ledger.requeue, ledger.drop, lambda number: _finish(ledger, number, 0)):
        with pytest.raises(KeyError):
            refused(group_id)


def test_a_dropped_group_is_counted_and_replaced() -> None:
    ledger = _ledger(batch=2)
    assert _start_all(ledger, 0) == [0, 1]
    ledger.drop(0)
    assert ledger.counts.dropped == 1
    assert _start_all(ledger, 0) == [2]
    _finish(ledger, 2, 0)
    _finish(ledger, 1, 0)
    assert _cut(ledger, 0) == [1, 2]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0], [1, 0, 3, 2]])
def test_which_groups_are_filtered_does_not_depend_on_the_order_they_finish_in(order: list[int]) -> None:
    ledger = _ledger(batch=2)
    running = _start_all(ledger, 0)
    while running:
        group_id = next((number for number in order if number in running), running[0])
        running.remove(group_id)
        if group_id == 3 or not ledger.filter(group_id, max_batches=2):
            _finish(ledger, group_id, 0)
        running += _start_all(ledger, 0)
    assert _cut(ledger, 0) == [3, 4]  # 0, 1 and 2 went; 4 is beyond two batches
    assert (ledger.counts.filtered, ledger.counts.dropped) == (3, 0)
    ledger.published(1)
    assert _start_all(ledger, 1) == [5, 6]
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    ledger.restore(snapshot)
    assert _start_all(ledger, 1) == [5, 6]
    assert ledger.filter(6, max_batches=1)
    assert not ledger.filter(7, max_batches=1)  # the step began at 5


def test_at_staleness_zero_a_batch_is_sorted_by_group_id() -> None:
    ledger = _ledger(batch=4)
    _start_all(ledger, 0)
    for group_id in (3, 1, 0, 2):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1, 2, 3]


def test_above_staleness_zero_the_oldest_version_goes_first() -> None:
    ledger = _ledger(batch=2, max_staleness=2)
    for _ in range(4):
        ledger.next_id()
    ledger.published(2)
    for group_id, version in ((0, 2), (1, 1), (2, 0), (3, 1)):
        _finish(ledger, group_id, version)
    assert _cut(ledger, 2) == [2, 1]
    ledger.published(3)
    assert _cut(ledger, 3) == [3, 0]
    assert ledger.counts.dropped == 0


def test_stale_groups_and_those_of_other_attempts_are_dropped_and_counted() -> None:
    ledger = _ledger(batch=2, max_staleness=1)
    for _ in range(6):
        ledger.next_id()
    ledger.published(2)
    _finish(ledger, 0, version=0)  # two versions behind
    _finish(ledger, 1, version=1)
    _finish(ledger, 2, version=2, attempt=7)
    _finish(ledger, 3, version=3)  # the learner is not there yet
    assert ledger.cut(2) is None
    assert (ledger.counts.dropped, ledger.num_buffered) == (3, 1)
    _finish(ledger, 4, version=2)
    assert _cut(ledger, 2) == [1, 4]
    assert ledger.counts.dropped == 3


def test_stale_groups_leave_the_admission_count() -> None:
    ledger = _ledger(batch=1, max_staleness=1)
    assert _start_all(ledger, 0) == [0, 1]  # group 1 is slow
    _finish(ledger, 0, 0)
    assert _cut(ledger, 0) == [0]
    ledger.published(1)
    assert _start_all(ledger, 1) == [2]
    _finish(ledger, 2, 1)
    assert _cut(ledger, 1) == [2]
    ledger.published(2)
    assert _start_all(ledger, 2) == [3]
    _finish(ledger, 3, 2)
    _finish(ledger, 1, 0)  # two versions late
    assert not ledger.may_start(2)
    assert _cut(ledger, 2) == [3]
    assert ledger.counts.dropped == 1
    assert _start_all(ledger, 2) == [4]


def test_what_was_started_but_not_consumed_comes_again_exactly_once() -> None:
    ledger = _ledger(batch=2, max_staleness=2)
    assert _start_all(ledger, 0) == [0, 1, 2, 3, 4, 5]
    for group_id in (0, 1, 3):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1]
    ledger.published(1)
    ledger.requeue(4)
    # Consumed: 0, 1. Buffered: 3. Given back: 4. Running: 2, 5.
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    resumed: GroupLedger[str] = GroupLedger(2, 2, 100)
    assert resumed.restore(snapshot) == 2
    assert (resumed.learner_version, resumed.num_running, resumed.num_buffered) == (1, 0, 0)
    assert _start_all(resumed, 1) == [2, 3, 4, 5, 6, 7]


def _waiting_again(source: GroupLedger[str], resumed: GroupLedger[str]) -> list[int]:
    """Restores `resumed` from what `source` would write; the ids that wait again."""
    waiting = source.waiting()
    resumed.restore(json.loads(json.dumps(source.snapshot())))
    return [item.group_id for item in waiting if resumed.take_back(item)]


def test_what_waits_at_a_checkpoint_waits_again_and_only_the_rest_is_sampled_again() -> None:
    ledger = _ledger(batch=2, max_staleness=2)
    assert _start_all(ledger, 0) == [0, 1, 2, 3, 4, 5]
    for group_id in (0, 1, 3, 5):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1]
    ledger.published(1)
    resumed = _ledger(batch=2, max_staleness=2)
    assert _waiting_again(ledger, resumed) == [3, 5]
    assert (resumed.num_buffered, resumed.attempt) == (2, 2)
    assert resumed.snapshot()["pending"] == [2, 3, 4, 5]
    assert _start_all(resumed, 1) == [2, 4, 6, 7]  # as many as without the break: 2, 4 ran then
    batch = resumed.cut(1)
    assert batch is not None
    assert [(item.group_id, item.policy.attempt) for item in batch.groups] == [(3, 1), (5, 1)]
    assert resumed.counts.dropped == 0


def test_a_batch_that_another_rank_has_already_waits_again_too() -> None:
    ledger = _ledger(batch=2, max_staleness=1)
    for group_id in _start_all(ledger, 0):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1]
    resumed = _ledger(batch=2, max_staleness=1)
    assert _waiting_again(ledger, resumed) == [0, 1, 2, 3]
    assert _cut(resumed, 0) == [0, 1]


def test_what_waits_is_never_more_than_s_plus_one_batches_and_nothing_at_staleness_zero() -> None:
    for max_staleness, expected in ((0, 0), (1, 6), (3, 12)):
        ledger = _ledger(batch=3, max_staleness=max_staleness)
        for group_id in _start_all(ledger, 0):
            _finish(ledger, group_id, 0)
        assert len(ledger.waiting()) == expected
        resumed = _ledger(batch=3, max_staleness=max_staleness)
        assert len(_waiting_again(ledger, resumed)) == expected


def test_groups_that_do_not_belong_are_not_taken_back() -> None:
    ledger = _ledger(batch=2, max_staleness=1)
    assert _start_all(ledger, 0) == [0, 1, 2, 3]
    for group_id in (0, 1):
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1]
    ledger.published(1)
    ledger.restore(ledger.snapshot())

    def offer(group_id: int, version: int, attempt: int = 1) -> bool:
        policy = PolicyVersion(attempt, version, "0" * 64)
        return ledger.take_back(Finished(group_id, policy, "", 8, 0.0, 0.0))

    assert not offer(0, 1)  # consumed
    assert not offer(9, 1)  # never started
    assert not offer(2, 2)  # the lost attempt's version 2: another one comes
    assert not offer(2, 1, attempt=7)  # nobody's
    assert offer(2, 1)
    assert not offer(2, 1)  # once
    ledger.published(2)
    assert ledger.cut(2) is None
    assert _start_all(ledger, 2) == [3, 4, 5]
    ledger.restore(ledger.snapshot())  # at version 2
    assert not offer(3, 0)  # too old
    assert offer(3, 1)


def test_a_lineage_goes_through_every_restart_and_forgets_what_is_too_old() -> None:
    ledger = _ledger(batch=1, max_staleness=2)
    snapshot = {}
    for version in (1, 2, 6):
        ledger.published(version)
        snapshot = json.loads(json.dumps(ledger.snapshot()))
        ledger = _ledger(batch=1, max_staleness=2)
        ledger.restore(snapshot)
    assert (snapshot["attempt"], snapshot["ancestors"]) == (
        3,
        [],
    )  # 1 and 2 are more than two versions behind 6
    ledger.published(7)
    assert ledger.snapshot()["ancestors"] == [[3, 6]]


def test_a_batch_that_is_leased_but_not_published_is_replayed() -> None:
    ledger = _ledger(batch=2)
    _start_all(ledger, 0)
    _finish(ledger, 0, 0)
    _finish(ledger, 1, 0)
    assert _cut(ledger, 0) == [0, 1]
    assert ledger.snapshot()["pending"] == [0, 1]
    ledger.published(1)
    assert ledger.snapshot()["pending"] == []


def test_attempts_count_up_whatever_the_snapshot_says() -> None:
    ledger = _ledger()
    early = ledger.snapshot()
    assert ledger.attempt == 1
    assert ledger.restore(early) == 2
    assert ledger.restore(early) == 3  # the same checkpoint again: yet another lineage
    assert ledger.restore(None) == 4
    fresh: GroupLedger[str] = GroupLedger(2, 0, 100)
    assert fresh.restore({**early, "attempt": 9}) == 10


def test_an_interrupted_history_consumes_what_an_unbroken_one_does() -> None:
    unbroken = _ledger(batch=3)
    expected = [_do_step(unbroken, step) for step in range(5)]

    ledger = _ledger(batch=3)
    consumed = [_do_step(ledger, 0), _do_step(ledger, 1)]
    _start_all(ledger, 2)
    snapshot = ledger.snapshot()
    _finish(ledger, 7, 2)  # the attempt goes on for a while after its checkpoint, in vain
    ledger.drop(6)
    ledger.restore(snapshot)
    consumed += [_do_step(ledger, step) for step in (2, 3, 4)]
    assert consumed == expected
    assert ledger.counts.dropped == 0


def test_groups_of_the_attempt_before_never_enter_a_batch() -> None:
    ledger = _ledger(batch=1)
    _finish(ledger, ledger.next_id(), 0)
    ledger.restore(ledger.snapshot())
    group_id = ledger.next_id()
    assert group_id == 0
    _finish(ledger, group_id, 1, attempt=1)  # that attempt's version 1 is no ancestor of this one
    assert ledger.cut(0) is None
    assert ledger.counts.dropped == 1


def test_every_group_that_leaves_is_named_once_with_its_reason() -> None:
    ledger = _ledger(batch=2, max_staleness=1)
    assert _start_all(ledger, 0) == [0, 1, 2, 3]
    ledger.drop(1)
    assert ledger.filter(2, max_batches=4)
    for group_id in _start_all(ledger, 0):
        _finish(ledger, group_id, 0)
    _finish(ledger, 0, 0)
    _finish(ledger, 3, 0)
    first = ledger.cut(0)
    assert first is not None
    assert first.dropped == ((1, "unscored"), (2, "teaches_nothing"))
    ledger.published(1)
    for group_id in _start_all(ledger, 1):
        _finish(ledger, group_id, 1)
    ledger.published(2)  # the learner went on without a batch: what version 0 left is too old now
    second = ledger.cut(2)
    snapshot = ledger.snapshot()
    assert second is not None and second.dropped == ((4, "stale"), (5, "stale"))
    assert (ledger.counts.stale, ledger.counts.dropped, ledger.counts.filtered) == (2, 3, 1)
    resumed = _ledger(batch=2, max_staleness=1)
    resumed.restore(json.loads(json.dumps(snapshot)))
    assert resumed.counts == ledger.counts


def test_drops_since_the_last_batch_survive_a_restart() -> None:
    ledger = _ledger(batch=1)
    _start_all(ledger, 0)
    ledger.drop(0)
    resumed = _ledger(batch=1)
    resumed.restore(json.loads(json.dumps(ledger.snapshot())))
    assert _start_all(resumed, 0) == [1]
    _finish(resumed, 1, 0, resumed.attempt)
    batch = resumed.cut(0)
    assert batch is not None and batch.dropped == ((0, "unscored"),)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_lost_group_of_a_leased_batch_comes_back_into_its_place(max_staleness: int) -> None:
    ledger = _ledger(batch=3, max_staleness=max_staleness)
    for group_id in _start_all(ledger, 0)[:3]:
        _finish(ledger, group_id, 0)
    assert _cut(ledger, 0) == [0, 1, 2]
    ledger.lost(0, 1)
    ledger.lost(0, 1)
    ledger.lost(7, 2)  # not the leased step
    assert ledger.cut(0) is None
    assert ledger.may_start(0)
    assert ledger.next_id() == 1
    _finish(ledger, 1, 0)
    assert _cut(ledger, 0) == [0, 1, 2]
    assert ledger.num_buffered == 0


def test_a_lost_group_that_is_dropped_the_second_time_is_replaced_by_another() -> None:
    ledger = _ledger(batch=2)
    for group_id in _start_all(ledger, 0):
        _finish(ledger, group_id, 0)
    ledger.cut(0)
    ledger.lost(0, 0)
    assert _start_all(ledger, 0) == [0]
    ledger.drop(0)
    assert _start_all(ledger, 0) == [2]
    _finish(ledger, 2, 0)
    assert _cut(ledger, 0) == [2, 1]  # the other rank's share stays where it was
    assert sorted(ledger.snapshot()["pending"]) == [1, 2]


def test_the_length_of_what_is_too_old_is_measured_against_what_is_used() -> None:
    counts = LedgerCounts(dropped=3, stale=2, stale_tokens=600, used=4, used_tokens=400)
    assert counts.stale_length_ratio == 3.0
    assert LedgerCounts().stale_length_ratio == 0.0
