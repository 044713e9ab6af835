"""A history is whole, or the first thing that is wrong with it is named."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.errors import RolloutError
from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.runs.history import check_history
from polyray.types import PolicyVersion


def _line(step: int, groups: list[int], versions: list[int], dropped: Any = ()) -> dict[str, Any]:
    return {"step": step, "attempt": 1, "groups": groups, "versions": versions, "dropped": list(dropped)}


def test_a_whole_history_with_drops_and_stale_groups_passes() -> None:
    lines = [_line(0, [0, 2], [0, 0]), _line(1, [3, 5], [0, 1], [[1, "unscored"], [4, "stale"]])]
    check_history(lines, batch=2, max_staleness=1, steps=2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([_line(0, [0, 1], [0, 0])], r"\b1 lines.*\b0 .*\b1\b"),
        ([_line(0, [0, 1], [0, 0]), _line(1, [2], [1])], r"step 1\b.*\b1 groups.*\b2\b"),
        (
            [_line(0, [0, 1], [0, 0]), _line(1, [2, 1], [1, 1])],
            r"group 1 .*trained.* step 1\b.*trained",
        ),
        (
            [_line(0, [0, 1], [0, 0]), _line(1, [2, 3], [1, 1], [[0, "stale"]])],
            r"group 0 .*trained.* step 1\b.*stale",
        ),
        ([_line(0, [0, 1], [0, 0]), _line(1, [2, 4], [1, 1])], r"\b1 groups.*\b3\b"),
        (
            [_line(0, [0, 1], [0, 0]), _line(1, [2, 3], [1, 2])],
            r"step 1\b.*group 3\b.*version 2\b.*max_staleness=1",
        ),
    ],
)
def test_ledger_error_names_the_step_and_group(lines: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        check_history(lines, batch=2, max_staleness=1, steps=2)


def test_a_history_older_than_allowed_is_refused() -> None:
    with pytest.raises(RolloutError, match=r"group 0\b.*version 0\b.*max_staleness=0"):
        check_history([_line(0, [1], [0]), _line(1, [0], [0])], batch=1, max_staleness=0, steps=2)


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_the_ledgers_own_history_passes_through_faults(max_staleness: int) -> None:
    ledger: RolloutBuffer[int] = RolloutBuffer(2, max_staleness, 6)
    ledger.restore(None)
    lines: list[dict[str, Any]] = []
    for step in range(6):
        turn = 0
        while (batch := ledger.take_batch(step)) is None:
            while ledger.may_start(step):
                group_id = ledger.next_id()
                turn += 1
                if turn % 5 == 2:
                    ledger.requeue(group_id)
                elif turn % 5 == 4:
                    ledger.drop(group_id)
                else:
                    policy = PolicyVersion(ledger.attempt, step, "0")
                    ledger.finished(Finished(group_id, policy, 0, 8, 0.0, 0.0))
        if step == 3 and ledger.attempt == 1:
            snapshot = ledger.snapshot()
            lines = [line for line in lines if line["step"] < step]
            ledger.restore(snapshot)
            while ledger.may_start(step):
                group_id = ledger.next_id()
                ledger.finished(Finished(group_id, PolicyVersion(2, step, "0"), 0, 8, 0.0, 0.0))
            batch = ledger.take_batch(step)
            assert batch is not None
        groups = batch.groups
        dropped = [list(item) for item in batch.dropped]
        lines.append(_line(step, [g.group_id for g in groups], [g.policy.version for g in groups], dropped))
        ledger.published(step + 1)
    check_history(lines, batch=2, max_staleness=max_staleness, steps=6)
