"""check_history accepts a whole history and names its first fault."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.errors import RolloutError
from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.runs.history import check_history
from polyray.types import PolicyVersion


def _line(step: int, groups: list[int], versions: list[int], dropped: Any = ()) -> dict[str, Any]:
    return {"step": step, "attempt": 1, "groups": groups, "versions": versions, "dropped": list(dropped)}


FIRST = _line(0, [0, 1], [0, 0])


def test_whole_history_with_drops_and_stale_groups_passes() -> None:
    lines = [_line(0, [0, 2], [0, 0]), _line(1, [3, 5], [0, 1], [[1, "unscored"], [4, "stale"]])]
    check_history(lines, batch=2, max_staleness=1, steps=2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([FIRST], r"\b1 lines.*\b0 .*\b1\b"),
        ([FIRST, _line(1, [2], [1])], r"step 1\b.*\b1 groups.*\b2\b"),
        ([FIRST, _line(1, [2, 1], [1, 1])], r"group 1 .*trained.* step 1\b.*trained"),
        ([FIRST, _line(1, [2, 3], [1, 1], [[0, "stale"]])], r"group 0 .*trained.* step 1\b.*stale"),
        ([FIRST, _line(1, [2, 4], [1, 1])], r"\b1 groups.*\b3\b"),
        ([FIRST, _line(1, [2, 3], [1, 2])], r"step 1\b.*group 3\b.*version 2\b.*max_staleness=1"),
        (
            [FIRST, _line(1, [2, 3], [1, 1]), _line(2, [4, 5], [2, 0])],
            r"group 5\b.*version 0\b.*max_staleness=1",
        ),
    ],
)
def test_history_error_names_the_step_and_group(lines: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        check_history(lines, batch=2, max_staleness=1, steps=max(2, len(lines)))


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_history_of_a_rollout_buffer_with_faults_passes(max_staleness: int) -> None:
    buffer: RolloutBuffer[int] = RolloutBuffer(2, max_staleness, 6)
    buffer.restore(None)
    lines: list[dict[str, Any]] = []
    for step in range(6):
        turn = 0
        while (batch := buffer.take_batch(step)) is None:
            while buffer.may_start(step):
                group_id = buffer.next_id()
                turn += 1
                if turn % 5 == 2:
                    buffer.requeue(group_id)
                elif turn % 5 == 4:
                    buffer.drop(group_id)
                else:
                    policy = PolicyVersion(buffer.attempt, step, "0")
                    buffer.finished(Finished(group_id, policy, 0, 8, 0.0, 0.0))
        if step == 3 and buffer.attempt == 1:
            snapshot = buffer.snapshot()
            lines = [line for line in lines if line["step"] < step]
            buffer.restore(snapshot)
            while buffer.may_start(step):
                group_id = buffer.next_id()
                buffer.finished(Finished(group_id, PolicyVersion(2, step, "0"), 0, 8, 0.0, 0.0))
            batch = buffer.take_batch(step)
            assert batch is not None
        groups = batch.groups
        dropped = [list(item) for item in batch.dropped]
        lines.append(_line(step, [g.group_id for g in groups], [g.policy.version for g in groups], dropped))
        buffer.published(step + 1)
    check_history(lines, batch=2, max_staleness=max_staleness, steps=6)
