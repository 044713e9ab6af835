"""Admission and consumption, against the rules of the design written out by hand."""

from __future__ import annotations

import pytest

from polyray.orchestrator.rollout_buffer import StalenessDecision, judge, may_start
from polyray.types import PolicyVersion


@pytest.mark.parametrize(
    ("max_staleness", "served_version", "last_admitted"),
    [(0, 0, 4), (0, 3, 16), (1, 0, 8), (1, 3, 20), (2, 0, 12), (2, 3, 24)],
)
def test_admits_up_to_the_batches_that_can_still_consume_it(
    max_staleness: int, served_version: int, last_admitted: int
) -> None:
    # With batches of 4: group number n (from 1, over accepted and running) is admitted iff n <= last_admitted.
    for accepted in (0, 1, last_admitted - 1):
        running = last_admitted - 1 - accepted
        assert may_start(accepted, running, served_version, 4, max_staleness)
        assert not may_start(accepted, running + 1, served_version, 4, max_staleness)
        assert not may_start(accepted + 1, running, served_version, 4, max_staleness)


@pytest.mark.parametrize(
    ("version", "max_staleness", "verdict"),
    [
        (5, 0, StalenessDecision.USE),
        (4, 0, StalenessDecision.STALE),
        (4, 1, StalenessDecision.USE),
        (3, 1, StalenessDecision.STALE),
        (3, 2, StalenessDecision.USE),
        (6, 2, StalenessDecision.STALE),  # newer than the learner: from a history that was rolled back
    ],
)
def test_judges_by_the_distance_to_the_learner(
    version: int, max_staleness: int, verdict: StalenessDecision
) -> None:
    policy = PolicyVersion(2, version, "0" * 64)
    assert judge(policy, learner_version=5, attempt=2, max_staleness=max_staleness) is verdict


def test_other_attempts_are_another_lineage_however_fresh() -> None:
    policy = PolicyVersion(1, 5, "0" * 64)
    assert judge(policy, learner_version=5, attempt=2, max_staleness=2) is StalenessDecision.OTHER_LINEAGE


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        (3, StalenessDecision.STALE),
        (4, StalenessDecision.USE),
        (5, StalenessDecision.OTHER_LINEAGE),
        (6, StalenessDecision.OTHER_LINEAGE),
    ],
)
def test_versions_up_to_the_checkpoint_are_ancestors_and_later_ones_never_happened(
    version: int, verdict: StalenessDecision
) -> None:
    policy = PolicyVersion(1, version, "0" * 64)
    assert judge(policy, 6, attempt=3, max_staleness=2, ancestors={1: 4, 2: 5}) is verdict
