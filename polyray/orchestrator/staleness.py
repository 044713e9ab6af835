"""Staleness rules: which groups may be started, and which may still be trained on. No state.

S = max_staleness, v = a policy version, batch = groups per learner step (design.md section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from polyray.types import PolicyVersion


class StalenessDecision(Enum):
    """Staleness decision for a group at consumption."""

    USE = "use"
    STALE = "stale"
    OTHER_LINEAGE = "other_lineage"


def may_start(accepted: int, running: int, served_version: int, batch: int, max_staleness: int) -> bool:
    """True where one more group, sampled by version `served_version`, can still be consumed in time.

    `accepted` counts groups of the surviving history: consumed batches and what is buffered. With S = 0
    exactly one batch is ever under way.
    """
    return accepted + running + 1 <= (max_staleness + served_version + 1) * batch


def judge(
    group_policy: PolicyVersion,
    learner_version: int,
    attempt: int,
    max_staleness: int,
    ancestors: Mapping[int, int] | None = None,
) -> StalenessDecision:
    """Whether a group of `group_policy` may enter the batch that updates `learner_version` in `attempt`.

    `ancestors`: earlier attempt -> the newest of its versions from which this attempt descends. Its later versions
    are void.
    """
    inherited = (ancestors or {}).get(group_policy.attempt, -1)
    if group_policy.attempt != attempt and group_policy.version > inherited:
        return StalenessDecision.OTHER_LINEAGE
    if 0 <= learner_version - group_policy.version <= max_staleness:
        return StalenessDecision.USE
    return StalenessDecision.STALE
