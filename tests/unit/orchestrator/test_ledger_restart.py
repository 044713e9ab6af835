"""A ledger after a restart: what was under way comes again, what was used does not, what waits is taken back."""

from __future__ import annotations

import json

from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.types import PolicyVersion
from tests.unit.orchestrator.ledger_steps import cut, do_step, finish, new_ledger, start_all


def test_unconsumed_groups_are_sampled_again_exactly_once() -> None:
    ledger = new_ledger(batch=2, max_staleness=2)
    assert start_all(ledger, 0) == [0, 1, 2, 3, 4, 5]
    for group_id in (0, 1, 3):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    ledger.published(1)
    ledger.requeue(4)
    # Consumed: 0, 1. Buffered: 3. Given back: 4. Running: 2, 5.
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    resumed: RolloutBuffer[str] = RolloutBuffer(2, 2, 100)
    assert resumed.restore(snapshot) == 2
    assert (resumed.learner_version, resumed.num_running, resumed.num_buffered) == (1, 0, 0)
    assert start_all(resumed, 1) == [2, 3, 4, 5, 6, 7]


def _waiting_again(source: RolloutBuffer[str], resumed: RolloutBuffer[str]) -> list[int]:
    """Restores `resumed` from what `source` would write; the ids that wait again."""
    waiting = source.waiting()
    resumed.restore(json.loads(json.dumps(source.snapshot())))
    return [item.group_id for item in waiting if resumed.restore_group(item)]


def test_groups_waiting_at_a_checkpoint_are_restored_and_the_rest_resampled() -> None:
    ledger = new_ledger(batch=2, max_staleness=2)
    assert start_all(ledger, 0) == [0, 1, 2, 3, 4, 5]
    for group_id in (0, 1, 3, 5):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    ledger.published(1)
    resumed = new_ledger(batch=2, max_staleness=2)
    assert _waiting_again(ledger, resumed) == [3, 5]
    assert (resumed.num_buffered, resumed.attempt) == (2, 2)
    assert resumed.snapshot()["pending"] == [2, 3, 4, 5]
    assert start_all(resumed, 1) == [2, 4, 6, 7]  # as many as without the break: 2, 4 ran then
    batch = resumed.take_batch(1)
    assert batch is not None
    assert [(item.group_id, item.policy.attempt) for item in batch.groups] == [(3, 1), (5, 1)]
    assert resumed.counts.dropped == 0


def test_a_batch_that_another_rank_has_already_waits_again_too() -> None:
    ledger = new_ledger(batch=2, max_staleness=1)
    for group_id in start_all(ledger, 0):
        finish(ledger, group_id, 0)
    assert cut(ledger, 0) == [0, 1]
    resumed = new_ledger(batch=2, max_staleness=1)
    assert _waiting_again(ledger, resumed) == [0, 1, 2, 3]
    assert cut(resumed, 0) == [0, 1]


def test_waiting_groups_stay_within_s_plus_one_batches_and_zero_at_staleness_zero() -> None:
    for max_staleness, expected in ((0, 0), (1, 6), (3, 12)):
        ledger = new_ledger(batch=3, max_staleness=max_staleness)
        for group_id in start_all(ledger, 0):
            finish(ledger, group_id, 0)
        assert len(ledger.waiting()) == expected
        resumed = new_ledger(batch=3, max_staleness=max_staleness)
        assert len(_waiting_again(ledger, resumed)) == expected


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


def test_a_batch_that_is_leased_but_not_published_is_replayed() -> None:
    ledger = new_ledger(batch=2)
    start_all(ledger, 0)
    finish(ledger, 0, 0)
    finish(ledger, 1, 0)
    assert cut(ledger, 0) == [0, 1]
    assert ledger.snapshot()["pending"] == [0, 1]
    ledger.published(1)
    assert ledger.snapshot()["pending"] == []


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
