"""Usefulness of a group: number of valid completions, and whether it has a signal."""

from __future__ import annotations

from dataclasses import replace

from polyray.config.algorithm import PolychromicSpec
from polyray.config.objective import AnnealSpec
from polyray.orchestrator.rollout_actor import usefulness
from polyray.types import PolicyVersion
from tests.unit.tiny_policy import random_group

SPEC = PolychromicSpec(objective="distinct_correct", diversity_weight=1, set_size=2)


def test_without_a_wish_everything_scored_is_useful() -> None:
    assert usefulness(random_group(0, [1, float("nan"), 1]), SPEC, 6) == (2, True)


def test_truncated_completions_are_counted_out() -> None:
    group = random_group(0, [1, 0, float("nan"), 1, 0])  # 0 and 3 are truncated
    assert usefulness(group, SPEC.at({"truncated": "drop"}), 6) == (2, True)


def test_a_group_is_judged_by_the_objective_of_its_version() -> None:
    spec = SPEC.at({"dynamic_sampling": True, "anneal": AnnealSpec(diversity_weight=0.0, over_steps=4)})
    group = random_group(0, [1, 1, 1], classes=[5, 5, 6])
    assert usefulness(group, spec, 6) == (3, True)
    later = replace(group, group=replace(group.group, policy=PolicyVersion(1, 4, "0" * 64)))
    assert usefulness(later, spec, 6) == (3, False)  # lambda is 0 by then, and all are right
