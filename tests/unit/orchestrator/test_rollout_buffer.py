"""Groups are started, given back, dropped, handed out and replayed exactly once in the surviving history."""

from __future__ import annotations

import json

import pytest

from polyray.orchestrator.rollout_buffer import BufferCounts
from tests.unit.orchestrator.ledger_steps import cut, do_step, finish, new_ledger, start_all


def test_a_batch_is_cut_once_and_handed_out_again_unchanged() -> None:
    ledger = new_ledger(max_staleness=1)
    for _ in range(3):
        finish(ledger, ledger.next_id(), 0)
    first = ledger.take_batch(0)
    assert first is not None
    assert [(item.group_id, item.handle) for item in first.groups] == [(0, "handle-0"), (1, "handle-1")]
    finish(ledger, ledger.next_id(), 0)
    assert ledger.take_batch(0) is first
    assert ledger.num_buffered == 2
    ledger.published(1)
    assert cut(ledger, 1) == [2, 3]


def test_no_batch_before_it_is_complete_nor_for_another_step() -> None:
    ledger = new_ledger()
    finish(ledger, ledger.next_id(), 0)
    assert ledger.take_batch(0) is None
    finish(ledger, ledger.next_id(), 0)
    assert ledger.take_batch(1) is None
    assert cut(ledger, 0) == [0, 1]
    assert ledger.take_batch(1) is None  # version 1 is not published: its batch does not exist yet


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_a_version_that_stands_still_fills_s_plus_one_batches(max_staleness: int) -> None:
    ledger = new_ledger(batch=3, max_staleness=max_staleness)
    assert start_all(ledger, 0) == list(range(3 * (max_staleness + 1)))
    assert ledger.num_running == 3 * (max_staleness + 1)
    for group_id in range(3 * (max_staleness + 1)):
        finish(ledger, group_id, 0)
    assert not ledger.may_start(0)  # finishing makes no room: what is buffered still counts
    assert ledger.take_batch(0) is not None
    assert not ledger.may_start(0)  # neither does the cut: only a newer version does
    ledger.published(1)
    first = 3 * (max_staleness + 1)
    assert start_all(ledger, 1) == [first, first + 1, first + 2]


def test_a_worker_left_behind_may_start_less_than_one_that_serves_the_newest() -> None:
    ledger = new_ledger(batch=2, max_staleness=1)
    for group_id in start_all(ledger, 0):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    ledger.published(1)
    assert not ledger.may_start(0)
    assert ledger.may_start(1)


def test_at_staleness_zero_one_batch_is_ever_under_way() -> None:
    ledger = new_ledger(batch=4)
    for step in range(5):
        assert do_step(ledger, step) == [4 * step + offset for offset in range(4)]
        assert (ledger.num_running, ledger.num_buffered) == (0, 0)


def test_nothing_starts_beyond_the_last_step() -> None:
    ledger = new_ledger(batch=2, max_staleness=2, total_steps=2)
    assert start_all(ledger, 0) == [0, 1, 2, 3]  # S alone would admit 6
    for group_id in range(4):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    ledger.published(1)
    assert not ledger.may_start(1)
    assert cut(ledger, 1) == [2, 3]
    ledger.published(2)
    assert not ledger.may_start(2)


def test_a_lost_group_comes_again_once_before_new_ones() -> None:
    ledger = new_ledger(batch=4)
    assert start_all(ledger, 0) == [0, 1, 2, 3]
    ledger.requeue(2)
    ledger.requeue(1)
    assert ledger.num_running == 2
    assert start_all(ledger, 0) == [1, 2]
    ledger.drop(3)
    assert start_all(ledger, 0) == [4]


def test_a_group_that_is_not_running_cannot_be_given_back_finished_or_dropped() -> None:
    ledger = new_ledger()
    group_id = ledger.next_id()
    finish(ledger, group_id, 0)
    for refused in (ledger.requeue, ledger.drop, lambda number: finish(ledger, number, 0)):
        with pytest.raises(KeyError):
            refused(group_id)


def test_a_dropped_group_is_counted_and_replaced() -> None:
    ledger = new_ledger(batch=2)
    assert start_all(ledger, 0) == [0, 1]
    ledger.drop(0)
    assert ledger.counts.dropped == 1
    assert start_all(ledger, 0) == [2]
    finish(ledger, 2, 0)
    finish(ledger, 1, 0)
    assert cut(ledger, 0) == [1, 2]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0], [1, 0, 3, 2]])
def test_filtered_groups_do_not_depend_on_finishing_order(order: list[int]) -> None:
    ledger = new_ledger(batch=2)
    running = start_all(ledger, 0)
    while running:
        group_id = next((number for number in order if number in running), running[0])
        running.remove(group_id)
        if group_id == 3 or not ledger.filter(group_id, max_batches=2):
            finish(ledger, group_id, 0)
        running += start_all(ledger, 0)
    assert cut(ledger, 0) == [3, 4]  # 0, 1 and 2 went; 4 is beyond two batches
    assert (ledger.counts.filtered, ledger.counts.dropped) == (3, 0)
    ledger.published(1)
    assert start_all(ledger, 1) == [5, 6]
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    ledger.restore(snapshot)
    assert start_all(ledger, 1) == [5, 6]
    assert ledger.filter(6, max_batches=1)
    assert not ledger.filter(7, max_batches=1)  # the step began at 5


def test_at_staleness_zero_a_batch_is_sorted_by_group_id() -> None:
    ledger = new_ledger(batch=4)
    start_all(ledger, 0)
    for group_id in (3, 1, 0, 2):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1, 2, 3]


def test_above_staleness_zero_the_oldest_version_goes_first() -> None:
    ledger = new_ledger(batch=2, max_staleness=2)
    for _ in range(4):
        ledger.next_id()
    ledger.published(2)
    for group_id, version in ((0, 2), (1, 1), (2, 0), (3, 1)):
        finish(ledger, group_id, version)
    assert cut(ledger, 2) == [2, 1]
    ledger.published(3)
    assert cut(ledger, 3) == [3, 0]
    assert ledger.counts.dropped == 0


def test_stale_groups_and_groups_of_other_attempts_are_dropped_and_counted() -> None:
    ledger = new_ledger(batch=2, max_staleness=1)
    for _ in range(6):
        ledger.next_id()
    ledger.published(2)
    finish(ledger, 0, version=0)  # two versions behind
    finish(ledger, 1, version=1)
    finish(ledger, 2, version=2, attempt=7)
    finish(ledger, 3, version=3)  # the learner is not there yet
    assert ledger.take_batch(2) is None
    assert (ledger.counts.dropped, ledger.num_buffered) == (3, 1)
    finish(ledger, 4, version=2)
    assert cut(ledger, 2) == [1, 4]
    assert ledger.counts.dropped == 3


def test_stale_groups_leave_the_admission_count() -> None:
    ledger = new_ledger(batch=1, max_staleness=1)
    assert start_all(ledger, 0) == [0, 1]  # group 1 is slow
    finish(ledger, 0, 0)
    assert cut(ledger, 0) == [0]
    ledger.published(1)
    assert start_all(ledger, 1) == [2]
    finish(ledger, 2, 1)
    assert cut(ledger, 1) == [2]
    ledger.published(2)
    assert start_all(ledger, 2) == [3]
    finish(ledger, 3, 2)
    finish(ledger, 1, 0)  # two versions late
    assert not ledger.may_start(2)
    assert cut(ledger, 2) == [3]
    assert ledger.counts.dropped == 1
    assert start_all(ledger, 2) == [4]


def test_every_group_that_leaves_is_named_once_with_its_reason() -> None:
    ledger = new_ledger(batch=2, max_staleness=1)
    assert start_all(ledger, 0) == [0, 1, 2, 3]
    ledger.drop(1)
    assert ledger.filter(2, max_batches=4)
    for group_id in start_all(ledger, 0):
        finish(ledger, group_id, 0)
    finish(ledger, 0, 0)
    finish(ledger, 3, 0)
    first = ledger.take_batch(0)
    assert first is not None
    assert first.dropped == ((1, "unscored"), (2, "zero_advantage"))
    ledger.published(1)
    for group_id in start_all(ledger, 1):
        finish(ledger, group_id, 1)
    ledger.published(2)  # the learner went on without a batch: what version 0 left is too old now
    second = ledger.take_batch(2)
    snapshot = ledger.snapshot()
    assert second is not None and second.dropped == ((4, "stale"), (5, "stale"))
    assert (ledger.counts.stale, ledger.counts.dropped, ledger.counts.filtered) == (2, 3, 1)
    resumed = new_ledger(batch=2, max_staleness=1)
    resumed.restore(json.loads(json.dumps(snapshot)))
    assert resumed.counts == ledger.counts


def test_drops_since_the_last_batch_survive_a_restart() -> None:
    ledger = new_ledger(batch=1)
    start_all(ledger, 0)
    ledger.drop(0)
    resumed = new_ledger(batch=1)
    resumed.restore(json.loads(json.dumps(ledger.snapshot())))
    assert start_all(resumed, 0) == [1]
    finish(resumed, 1, 0, resumed.attempt)
    batch = resumed.take_batch(0)
    assert batch is not None and batch.dropped == ((0, "unscored"),)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_lost_group_of_a_leased_batch_comes_back_into_its_place(max_staleness: int) -> None:
    ledger = new_ledger(batch=3, max_staleness=max_staleness)
    for group_id in start_all(ledger, 0)[:3]:
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1, 2]
    ledger.lost(0, 1)
    ledger.lost(0, 1)
    ledger.lost(7, 2)  # not the leased step
    assert ledger.take_batch(0) is None
    assert ledger.may_start(0)
    assert ledger.next_id() == 1
    finish(ledger, 1, 0)
    assert cut(ledger, 0) == [0, 1, 2]
    assert ledger.num_buffered == 0


def test_a_lost_group_that_is_dropped_the_second_time_is_replaced_by_another() -> None:
    ledger = new_ledger(batch=2)
    for group_id in start_all(ledger, 0):
        finish(ledger, group_id, 0)
    ledger.take_batch(0)
    ledger.lost(0, 0)
    assert start_all(ledger, 0) == [0]
    ledger.drop(0)
    assert start_all(ledger, 0) == [2]
    finish(ledger, 2, 0)
    assert cut(ledger, 0) == [2, 1]  # the other rank's share stays where it was
    assert sorted(ledger.snapshot()["pending"]) == [1, 2]


def test_lost_groups_restart_only_up_to_the_batch_size() -> None:
    ledger = new_ledger(batch=2, max_staleness=1)
    for group_id in start_all(ledger, 0):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    ledger.published(1)
    assert cut(ledger, 1) == [2, 3]
    early, late = ledger.next_id(), ledger.next_id()
    ledger.requeue(early)
    assert ledger.may_start(1) and not ledger.may_start_lost(1)
    ledger.lost(1, 3)
    assert ledger.may_start_lost(1)
    ledger.lost(1, 2)
    assert [ledger.next_id(), ledger.next_id()] == [2, 3] and not ledger.may_start_lost(1)
    ledger.drop(2)
    assert not ledger.may_start_lost(1)  # another one is under way, and will take its place
    finish(ledger, 3, 1)
    finish(ledger, late, 1)
    assert cut(ledger, 1) == [late, 3]


def test_too_old_groups_take_no_capacity() -> None:
    ledger = new_ledger(batch=1, max_staleness=1)
    slow = ledger.next_id()
    for step in range(2):
        finish(ledger, ledger.next_id(), step)
        assert cut(ledger, step) is not None
        ledger.published(step + 1)
    last = ledger.next_id()
    finish(ledger, last, 2)
    assert cut(ledger, 2) == [last]
    finish(ledger, slow, 0)
    ledger.lost(2, last)
    assert ledger.next_id() == last
    ledger.drop(last)
    assert ledger.take_batch(2) is None and ledger.counts.stale == 1
    finish(ledger, ledger.next_id(), 2)
    assert cut(ledger, 2) == [last + 1]


def test_length_of_stale_groups_is_compared_with_used_groups() -> None:
    counts = BufferCounts(dropped=3, stale=2, stale_tokens=600, used=4, used_tokens=400)
    assert counts.stale_length_ratio == 3.0
    assert BufferCounts().stale_length_ratio == 0.0
