"""Restart from a checkpoint's snapshot, and a report of the groups lost since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray

from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.orchestrator.run_state import RunState
from polyray.periodic_eval.validation import UNVALIDATED
from polyray.runs.saved_groups import SNAPSHOT_FILES, decode_groups, num_groups
from polyray.types import GroupRequest


def restore_groups(
    snapshot: Mapping[str, Any],
    ledger: RolloutBuffer[Any],
    request_of: Callable[[int], GroupRequest],
    run_state: RunState,
) -> None:
    """Scored groups of a checkpoint wait again; those that do not belong here any more are sampled again.

    Args:
        snapshot: as `Coordinator.snapshot` made it, with the groups as files (polyray/runs/saved_groups.py).
        ledger: restored from the same snapshot.
        request_of: what a group of this id is asked for.
    """
    files = snapshot.get(SNAPSHOT_FILES, {})
    expected, taken = num_groups(files), 0
    for scored in decode_groups(files, request_of):
        group = scored.group
        taken += ledger.restore_group(
            Finished(group.group_id, group.policy, ray.put(scored), group.num_tokens, 0.0, 0.0)
        )
    if taken < expected:
        run_state.incident(
            "groups_not_taken_back",
            f"{expected - taken} of the {expected} scored groups of the checkpoint do not belong to the run as it is "
            "now, and are sampled again",
        )


def report_lost_validation(snapshot: Mapping[str, Any], run_state: RunState) -> None:
    """The checkpoint's own version is validated when it is served again; no engine can serve earlier ones."""
    for version in snapshot.get(UNVALIDATED, ()):
        if version < snapshot["version"]:
            run_state.incident(
                "validation_lost",
                f"the validation of version {version} was not finished when the run ended at step "
                f"{snapshot['version']}; dynamics.jsonl has no line of it",
            )
