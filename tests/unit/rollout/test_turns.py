"""Round robin by slices, on a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.rollout.fair_queue import LOAD_SHARE, FairQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def any_of(turns: FairQueue[Any]) -> Any:
    return turns.take(lambda message: True)


def test_one_run_is_a_queue() -> None:
    turns: FairQueue[int] = FairQueue()
    assert (any_of(turns), bool(turns)) == (None, False)
    for number in range(3):
        turns.put("", number)
    assert turns
    assert [any_of(turns) for _ in range(4)] == [0, 1, 2, None]
    assert not turns


def test_slice_length_follows_the_load_time_and_ends_only_for_a_waiter() -> None:
    clock = Clock()
    turns: FairQueue[str] = FairQueue(clock)
    for number in range(3):
        turns.put("a", f"a{number}", cost=1.0)
    assert any_of(turns) == "a0"
    turns.load_took(0.06)
    assert turns.slice_s == pytest.approx(0.06 / LOAD_SHARE) == pytest.approx(2.0)
    turns.put("b", "b0", cost=5.0)
    turns.put("b", "b1", cost=5.0)
    clock.now = 1.9
    assert not turns.slice_is_over and any_of(turns) == "a1", "b has had less"
    clock.now = 5.0
    assert turns.slice_is_over and any_of(turns) == "b0"
    clock.now = 6.9
    assert not turns.slice_is_over and any_of(turns) == "b1"
    turns.put("b", "b2")
    clock.now = 7.0
    assert turns.slice_is_over and any_of(turns) == "a2"
    clock.now = 100.0
    assert any_of(turns) == "b2" and not turns.slice_is_over, "none waits"


def test_refused_message_of_the_current_slice_keeps_the_others_waiting() -> None:
    turns: FairQueue[str] = FairQueue(Clock())
    turns.put("a", "a0")
    any_of(turns)
    turns.load_took(1.0)
    turns.put("a", "a1")
    turns.put("b", "b0")
    assert turns.take(lambda message: message != "a1") is None
    assert [any_of(turns) for _ in range(2)] == ["a1", "b0"]


def test_the_engine_is_patient_for_as_long_as_a_load_takes_or_until_the_run_has_work() -> None:
    clock = Clock()
    turns: FairQueue[int] = FairQueue(clock)
    turns.put("a", 1)
    turns.put("b", 2)
    assert any_of(turns) == 1 and turns.patience_s == 0.0
    turns.load_took(0.06)
    clock.now = 0.02
    assert turns.patience_s == pytest.approx(0.04) and any_of(turns) is None
    turns.put("a", 3)
    assert turns.patience_s == 0.0
    assert any_of(turns) == 3 and turns.patience_s == 0.0
    turns.load_took(0.06)
    clock.now = 0.09
    assert turns.patience_s == 0.0
    assert any_of(turns) == 2


def test_turns_rotate_and_skip_empty_runs() -> None:
    turns: FairQueue[str] = FairQueue()
    for run in ("a", "b", "c", "d"):
        turns.put(run, run)
    seen = []
    while (run := any_of(turns)) is not None:
        seen.append(run)
        if seen == ["a", "b"]:
            turns.put("b", "b again")
    assert seen == ["a", "b", "c", "d", "b again"]


def test_runs_that_always_have_work_get_samples_in_proportion_to_their_shares() -> None:
    turns: FairQueue[str] = FairQueue()
    shares = {"a": 2.0, "b": 1.0, "c": 0.5}
    for _ in range(40):
        for run, share in shares.items():
            turns.put(run, run, cost=8 / share)
    taken = [any_of(turns) for _ in range(35)]
    assert {run: taken.count(run) for run in shares} == {"a": 20, "b": 10, "c": 5}


def test_a_run_that_had_nothing_to_do_comes_back_level_with_the_others() -> None:
    turns: FairQueue[str] = FairQueue()
    for _ in range(10):
        turns.put("a", "a", cost=1.0)
    assert [any_of(turns) for _ in range(6)] == ["a"] * 6
    for _ in range(3):
        turns.put("late", "late", cost=1.0)
    assert [any_of(turns) for _ in range(6)] == ["late", "a"] * 3


def test_refused_item_waits_and_others_are_taken() -> None:
    turns: FairQueue[int] = FairQueue()
    for run, number in (("a", 1), ("b", 2), ("b", 3)):
        turns.put(run, number)
    assert [turns.take(lambda number: number > 1) for _ in range(3)] == [2, 3, None]
    assert any_of(turns) == 1
    assert turns.num_runs == 2


def test_forgotten_or_drained_items_are_removed() -> None:
    turns: FairQueue[int] = FairQueue()
    for number in range(4):
        turns.put("ab"[number % 2], number)
    assert turns.forget("a") == [0, 2]
    assert turns.forget("a") == []
    assert turns.drain() == [1, 3]
    assert not turns
