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


def test_engine_waits_for_its_run_as_long_as_a_load_takes() -> None:
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


def test_runs_take_turns_in_proportion_to_their_shares() -> None:
    shares = {"a": 2.0, "b": 1.0, "c": 0.5}
    turns: FairQueue[str] = FairQueue()
    for _ in range(40):
        for run, share in shares.items():
            turns.put(run, run, cost=8 / share)
    taken = [any_of(turns) for _ in range(35)]
    assert {run: taken.count(run) for run in shares} == {"a": 20, "b": 10, "c": 5}
    late: FairQueue[str] = FairQueue()
    for _ in range(10):
        late.put("a", "a", cost=1.0)
    assert [any_of(late) for _ in range(6)] == ["a"] * 6
    for _ in range(3):
        late.put("late", "late", cost=1.0)  # idle until now: level with the others
    assert [any_of(late) for _ in range(6)] == ["late", "a"] * 3


def test_newcomer_is_level_with_a_run_that_waits_for_nothing() -> None:
    turns: FairQueue[str] = FairQueue()
    for _ in range(100):
        turns.put("old", "old", cost=1.0)
        any_of(turns)
    for run in ("new", "old"):
        for _ in range(4):
            turns.put(run, run, cost=1.0)
    assert [any_of(turns) for _ in range(6)] == ["new", "old"] * 3


def test_refused_items_wait_in_their_order() -> None:
    turns: FairQueue[int] = FairQueue()
    assert (any_of(turns), bool(turns)) == (None, False)
    for run, number in (("a", 1), ("b", 2), ("b", 3), ("a", 4)):
        turns.put(run, number)
    assert turns and turns.num_runs == 2
    assert [turns.take(lambda number: number != 1) for _ in range(3)] == [2, 3, None]
    assert [any_of(turns) for _ in range(3)] == [1, 4, None]
    in_slice: FairQueue[str] = FairQueue(Clock())
    in_slice.put("a", "a0")
    any_of(in_slice)
    in_slice.load_took(1.0)
    in_slice.put("a", "a1")
    in_slice.put("b", "b0")
    assert in_slice.take(lambda message: message != "a1") is None  # a's slice is not over
    assert [any_of(in_slice) for _ in range(2)] == ["a1", "b0"]


def test_forgotten_or_drained_items_are_removed() -> None:
    turns: FairQueue[int] = FairQueue()
    for number in range(4):
        turns.put("ab"[number % 2], number)
    assert (turns.forget("a"), turns.forget("a"), turns.drain()) == ([0, 2], [], [1, 3])
    assert not turns
