"""Groups are started, given back, dropped, handed out and replayed exactly once in the surviving history.

test_buffer_histories.py has the property over random histories; here are the rules that it cannot state: order, exact
bounds, reasons, and groups that do not belong.
"""

from __future__ import annotations

import json

import pytest

from polyray.orchestrator.rollout_buffer import (
    BufferCounts,
    Finished,
    RolloutBuffer,
    StalenessDecision,
    judge,
    may_start,
)
from polyray.types import PolicyVersion


def new_ledger(batch: int = 2, max_staleness: int = 0, total_steps: int = 100) -> RolloutBuffer[str]:
    ledger: RolloutBuffer[str] = RolloutBuffer(batch, max_staleness, total_steps)
    ledger.restore(None)
    return ledger


def finish(ledger: RolloutBuffer[str], group_id: int, version: int, attempt: int = 1) -> None:
    policy = PolicyVersion(attempt, version, "0" * 64)
    ledger.finished(Finished(group_id, policy, f"handle-{group_id}", 8, 0.0, 0.0))


def start_all(ledger: RolloutBuffer[str], served_version: int) -> list[int]:
    started: list[int] = []
    while ledger.may_start(served_version):
        started.append(ledger.next_id())
    return started


def cut(ledger: RolloutBuffer[str], step: int) -> list[int] | None:
    batch = ledger.take_batch(step)
    return None if batch is None else [item.group_id for item in batch.groups]


def do_step(ledger: RolloutBuffer[str], step: int) -> list[int]:
    """One synchronous step: everything that may start runs, is consumed and published."""
    for group_id in start_all(ledger, step):
        finish(ledger, group_id, step, ledger.attempt)
    batch = cut(ledger, step)
    assert batch is not None
    ledger.published(step + 1)
    return batch


@pytest.mark.parametrize(
    ("max_staleness", "served_version", "last_admitted"),
    [(0, 0, 4), (0, 3, 16), (1, 0, 8), (1, 3, 20), (2, 0, 12), (2, 3, 24)],
)
def test_admits_up_to_the_batches_that_can_still_consume_it(
    max_staleness: int, served_version: int, last_admitted: int
) -> None:
    # With batches of 4: group number n (from 1, over accepted and running) is admitted iff n <= last_admitted.
    for accepted in (0, 1, last_admitted - 1):
        running = last_admitted - 1 - accepted
        assert may_start(accepted, running, served_version, 4, max_staleness)
        assert not may_start(accepted, running + 1, served_version, 4, max_staleness)
        assert not may_start(accepted + 1, running, served_version, 4, max_staleness)


@pytest.mark.parametrize(
    ("version", "max_staleness", "verdict"),
    [
        (5, 0, StalenessDecision.USE),
        (4, 0, StalenessDecision.STALE),
        (4, 1, StalenessDecision.USE),
        (3, 1, StalenessDecision.STALE),
        (3, 2, StalenessDecision.USE),
        (6, 2, StalenessDecision.STALE),  # newer than the learner: from a history that was rolled back
    ],
)
def test_judges_by_the_distance_to_the_learner(
    version: int, max_staleness: int, verdict: StalenessDecision
) -> None:
    policy = PolicyVersion(2, version, "0" * 64)
    assert judge(policy, learner_version=5, attempt=2, max_staleness=max_staleness) is verdict


def test_other_attempts_are_another_lineage_however_fresh() -> None:
    policy = PolicyVersion(1, 5, "0" * 64)
    assert judge(policy, learner_version=5, attempt=2, max_staleness=2) is StalenessDecision.OTHER_LINEAGE


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        (3, StalenessDecision.STALE),
        (4, StalenessDecision.USE),
        (5, StalenessDecision.OTHER_LINEAGE),
        (6, StalenessDecision.OTHER_LINEAGE),
    ],
)
def test_versions_up_to_the_checkpoint_are_ancestors_and_later_ones_never_happened(
    version: int, verdict: StalenessDecision
) -> None:
    policy = PolicyVersion(1, version, "0" * 64)
    assert judge(policy, 6, attempt=3, max_staleness=2, ancestors={1: 4, 2: 5}) is verdict


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


def test_groups_that_do_not_belong_are_not_taken_back() -> None:
    ledger = new_ledger(batch=2, max_staleness=1)
    assert start_all(ledger, 0) == [0, 1, 2, 3]
    for group_id in (0, 1):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    ledger.published(1)
    ledger.restore(ledger.snapshot())

    def offer(group_id: int, version: int, attempt: int = 1) -> bool:
        policy = PolicyVersion(attempt, version, "0" * 64)
        return ledger.restore_group(Finished(group_id, policy, "", 8, 0.0, 0.0))

    assert not offer(0, 1)  # consumed
    assert not offer(9, 1)  # never started
    assert not offer(2, 2)  # the lost attempt's version 2: another one comes
    assert not offer(2, 1, attempt=7)  # nobody's
    assert offer(2, 1)
    assert not offer(2, 1)  # once
    ledger.published(2)
    assert ledger.take_batch(2) is None
    assert start_all(ledger, 2) == [3, 4, 5]
    ledger.restore(ledger.snapshot())  # at version 2
    assert not offer(3, 0)  # too old
    assert offer(3, 1)


def test_lineage_spans_restarts_and_drops_old_entries() -> None:
    ledger = new_ledger(batch=1, max_staleness=2)
    snapshot = {}
    for version in (1, 2, 6):
        ledger.published(version)
        snapshot = json.loads(json.dumps(ledger.snapshot()))
        ledger = new_ledger(batch=1, max_staleness=2)
        ledger.restore(snapshot)
    assert (snapshot["attempt"], snapshot["ancestors"]) == (
        3,
        [],
    )  # 1 and 2 are more than two versions behind 6
    ledger.published(7)
    assert ledger.snapshot()["ancestors"] == [[3, 6]]


def test_attempts_count_up_with_any_snapshot() -> None:
    ledger = new_ledger()
    early = ledger.snapshot()
    assert ledger.attempt == 1
    assert ledger.restore(early) == 2
    assert ledger.restore(early) == 3  # the same checkpoint again: yet another lineage
    assert ledger.restore(None) == 4
    fresh: RolloutBuffer[str] = RolloutBuffer(2, 0, 100)
    assert fresh.restore({**early, "attempt": 9}) == 10


def test_interrupted_history_consumes_the_same_groups() -> None:
    unbroken = new_ledger(batch=3)
    expected = [do_step(unbroken, step) for step in range(5)]

    ledger = new_ledger(batch=3)
    consumed = [do_step(ledger, 0), do_step(ledger, 1)]
    start_all(ledger, 2)
    snapshot = ledger.snapshot()
    finish(ledger, 7, 2)  # the attempt goes on for a while after its checkpoint, in vain
    ledger.drop(6)
    ledger.restore(snapshot)
    consumed += [do_step(ledger, step) for step in (2, 3, 4)]
    assert consumed == expected
    assert ledger.counts.dropped == 0


def test_groups_of_the_attempt_before_never_enter_a_batch() -> None:
    ledger = new_ledger(batch=1)
    finish(ledger, ledger.next_id(), 0)
    ledger.restore(ledger.snapshot())
    group_id = ledger.next_id()
    assert group_id == 0
    finish(ledger, group_id, 1, attempt=1)  # that attempt's version 1 is no ancestor of this one
    assert ledger.take_batch(0) is None
    assert ledger.counts.dropped == 1


def test_drops_of_a_reason_count_since_the_last_batch_and_not_by_group_ids() -> None:
    ledger = new_ledger(batch=2, max_staleness=4)
    running = start_all(ledger, 0)
    assert running == list(range(10)), "the last of them stands five batches behind the first"
    ledger.drop(9, "truncated")
    assert not ledger.has_dropped("truncated", 1) and not ledger.has_dropped("unscored", 0)
    for group_id in (7, 8):
        ledger.drop(group_id, "truncated")
    assert ledger.has_dropped("truncated", 1) and not ledger.has_dropped("truncated", 2)
    finish(ledger, 0, 0)
    finish(ledger, 1, 0)
    assert cut(ledger, 0) == [0, 1] and not ledger.has_dropped("truncated", 0)
