"""Round robin by slices, on a clock that the test moves."""

from __future__ import annotations

import pytest

from polyray.rollout.turns import LOAD_SHARE, Turns


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_run_is_a_queue() -> None:
    turns: Turns[int] = Turns()
    assert (turns.current, turns.head(), bool(turns), turns.advance()) == (None, None, False, False)
    for number in range(3):
        turns.put("", number)
    assert turns and not turns.slice_is_over
    assert [turns.pop() for _ in range(3)] == [0, 1, 2]
    assert not turns and turns.current == ""


def test_a_slice_is_as_long_as_a_load_at_its_start_allows_and_over_only_where_somebody_waits() -> None:
    clock = Clock()
    turns: Turns[int] = Turns(clock)
    turns.load_took(0.06)
    assert turns.slice_s == pytest.approx(0.06 / LOAD_SHARE) == pytest.approx(2.0)
    turns.put("a", 1)
    turns.put("a", 2)
    assert turns.advance() and turns.current == "a"
    clock.now = 5.0
    assert not turns.slice_is_over
    turns.put("b", 3)
    assert turns.slice_is_over
    assert turns.advance() and turns.current == "b"
    clock.now = 6.9
    assert not turns.slice_is_over
    clock.now = 7.0
    assert turns.slice_is_over


def test_turns_go_round_and_pass_over_who_has_nothing() -> None:
    turns: Turns[str] = Turns()
    for run in ("a", "b", "c", "d"):
        turns.put(run, run)
    seen = []
    while turns.advance():
        seen.append(turns.pop())
        if seen == ["b", "c"]:
            turns.put("c", "c again")
    assert seen == ["b", "c", "d", "a", "c again"]


def test_what_is_forgotten_or_drained_is_gone() -> None:
    turns: Turns[int] = Turns()
    for number in range(4):
        turns.put("ab"[number % 2], number)
    assert turns.forget("a") == [0, 2]
    assert turns.forget("a") == []
    assert list(turns.drain()) == [1, 3]
    assert not turns
