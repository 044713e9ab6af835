"""Members of a pool, and the consequences of a loss."""

from __future__ import annotations

import pytest

from polyray.orchestrator import roster as roster_module
from polyray.orchestrator.roster import FailureAction, Roster


def make(num_needed: int = 2, max_replacements: int = 1, joined: int = 0) -> Roster:
    roster = Roster(num_needed, max_replacements)
    roster.published()
    for index in range(joined):
        roster.proved(f"w{index}")
    return roster


def test_version_is_served_after_all_joined_and_required_workers_proved_it() -> None:
    roster = make(joined=1)
    assert not roster.all_serve and roster.num_expected == 2
    assert not roster.proved("w1") and roster.all_serve
    assert roster.proved("w2") and (roster.num_joined, roster.num_expected) == (3, 3)
    roster.published()
    assert not roster.all_serve and roster.num_behind == 3
    assert not any(roster.proved(name) for name in ("w0", "w1"))
    assert not roster.all_serve
    roster.left("w2")
    assert roster.all_serve and roster.num_behind == 0


def test_loss_of_a_required_worker_counts_and_too_many_end_the_run() -> None:
    roster = make(joined=2)
    assert roster.lost("w0", in_time=True) is FailureAction.REPLACED
    assert (roster.replacements, roster.num_joined, roster.all_serve) == (1, 1, False)
    assert roster.lost("w1", in_time=False) is FailureAction.TOO_MANY and roster.replacements == 2


def test_loss_of_an_optional_worker_is_free_and_lack_of_room_is_silent() -> None:
    roster = make(joined=3, max_replacements=0)
    assert roster.lost("w0", in_time=True) is FailureAction.REPLACED
    assert roster.lost("new", in_time=False) is FailureAction.STILL_WAITS
    assert roster.lost("newer", in_time=True) is FailureAction.REPLACED
    assert (roster.replacements, roster.failed_joins) == (0, 1)


def test_workers_that_never_serve_are_dropped_unless_another_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roster_module, "MAX_FAILED_JOINS", 2)
    roster = make(joined=2, max_replacements=0)
    losses = [roster.lost(f"new{index}", in_time=True) for index in range(2)]
    assert roster.proved("joins") and roster.failed_joins == 0
    assert roster.lost("joins", in_time=True) is FailureAction.REPLACED
    losses += [roster.lost(f"other{index}", in_time=True) for index in range(3)]
    assert losses == [FailureAction.REPLACED] * 4 + [FailureAction.GIVEN_UP]
