"""Was every group of a finished run consumed exactly once? A check of ledger.jsonl, line by line.

The learner appends one line per step (see `BatchLease.history` in polyray/orchestrator/coordinator.py) and
cuts the file to the checkpoint on resume, so the lines are those of the surviving history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyray.errors import RolloutError


def check_history(lines: Sequence[Mapping[str, Any]], *, batch: int, max_staleness: int, steps: int) -> None:
    """Raises RolloutError, naming the step and the group, unless the lines are a whole history.

    One line per step from 0, `batch` groups in each, none older than `max_staleness` versions; no group in two of
    them, none both trained on and dropped, and none of the stream missing.
    """
    if [line["step"] for line in lines] != list(range(steps)):
        found = [line["step"] for line in lines]
        raise RolloutError(
            f"ledger.jsonl has {len(found)} lines, expected one for each of the steps 0 to {steps - 1}"
        )
    left: dict[int, str] = {}
    for line in lines:
        step = line["step"]
        if len(line["groups"]) != batch:
            raise RolloutError(f"step {step} consumed {len(line['groups'])} groups, expected {batch}")
        for group_id, version in zip(line["groups"], line["versions"], strict=True):
            if not 0 <= step - version <= max_staleness:
                raise RolloutError(
                    f"step {step} trained on group {group_id} of version {version}; max_staleness={max_staleness}"
                )
        for group_id, how in [*((item, "trained on") for item in line["groups"]), *line["dropped"]]:
            if group_id in left:
                raise RolloutError(
                    f"group {group_id} was {left[group_id]} and, at step {step}, {how}: once is right"
                )
            left[group_id] = how
    missing = set(range(max(left, default=-1) + 1)) - left.keys()
    if missing:
        raise RolloutError(
            f"{len(missing)} groups were neither trained on nor dropped with a reason, the first is {min(missing)}"
        )
