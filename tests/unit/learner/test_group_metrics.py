"""The metrics of a batch, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyray.config.algorithm import GrpoSpec, PolychromicSpec
from polyray.learner.advantages import GroupAdvantages, compute_advantages
from polyray.learner.group_metrics import (
    MEAN_SECOND_OPINION,
    SecondOpinionGap,
    add_group_metrics,
    add_second_opinion,
    finished_metrics,
    second_opinion_metrics,
)
from polyray.learner.reduce import Sums
from polyray.types import ScoredGroup, StepMetrics
from tests.unit.tiny_policy import random_group

NAN = float("nan")


def _metrics(*groups: ScoredGroup) -> StepMetrics:
    sums = Sums()
    for group in groups:
        add_group_metrics(sums, group, compute_advantages(group, GrpoSpec()), GrpoSpec())
    return finished_metrics(sums)


def _groups() -> tuple[ScoredGroup, ScoredGroup]:
    return (
        random_group(0, [1, 1, 0, 1], classes=[7, 7, -1, 8], lengths=[1, 2, 3, 4]),
        random_group(1, [0, NAN, 0, 0], classes=[-1, -1, -1, -1], lengths=[6, 5, 1, 2]),
    )


def test_rewards_and_pass_rates_are_over_scored_completions() -> None:
    metrics = _metrics(*_groups())
    assert metrics["reward_mean"] == pytest.approx(3 / 7)
    assert metrics["reward_std"] == pytest.approx(np.std([1, 1, 0, 1, 0, 0, 0]))
    assert metrics["pass_at_1"] == pytest.approx(3 / 7)
    assert metrics["pass_at_8"] == pytest.approx(1 / 2)  # k is cut to the 4 and 3 scored ones
    assert metrics["unscored"] == 1


def test_a_reward_just_below_one_is_no_pass() -> None:
    assert _metrics(random_group(0, [1.0, 0.999]))["pass_at_1"] == pytest.approx(1 / 2)


def test_classes_count_where_correct_and_diversity_is_pairs_that_differ() -> None:
    metrics = _metrics(*_groups())
    assert metrics["distinct_classes"] == pytest.approx((2 + 0) / 2)
    # Pairs of differing correct classes: (0, 3), (1, 3) of 6; none of 3 in the other group.
    assert metrics["diversity"] == pytest.approx((2 / 6 + 0) / 2)


def test_diversity_is_the_tasks_own_distance_where_there_is_one() -> None:
    distances = np.array([[0, 0.5, 0.1], [0.5, 0, 0.3], [0.1, 0.3, 0]])
    group = replace(random_group(0, [1, NAN, 0], classes=[1, 2, 3]), distances_GG=distances)
    assert _metrics(group)["diversity"] == pytest.approx(0.1)
    whole = replace(random_group(0, [1, 1, 0], classes=[1, 2, 3]), distances_GG=distances)
    assert _metrics(whole)["diversity"] == pytest.approx(0.3)


def test_one_scored_completion_has_no_pairs() -> None:
    group = random_group(0, [1, NAN], classes=[1, 2])
    sums, zeros = Sums(), np.zeros(2)
    add_group_metrics(sums, group, GroupAdvantages(zeros, zeros, zeros), GrpoSpec())
    assert finished_metrics(sums)["diversity"] == 0


def test_lengths_are_over_all_completions() -> None:
    metrics = _metrics(*_groups())
    assert metrics["completion_length_mean"] == pytest.approx(24 / 8)
    assert metrics["completion_length_max"] == 6
    assert metrics["tokens_generated"] == 24
    assert metrics["truncated_share"] == pytest.approx(4 / 8)  # numbers 0 and 3 of each group


def test_advantages_of_correct_ones_and_groups_without_signal() -> None:
    metrics = _metrics(*_groups())
    assert metrics["mean_advantage_correct"] == pytest.approx(0.25)
    assert metrics["zero_advantage_share"] == pytest.approx(1 / 2)
    assert (metrics["advantage_share_quality"], metrics["advantage_share_diversity"]) == (1, 0)


def test_shares_of_the_two_parts_of_the_advantage() -> None:
    spec = PolychromicSpec(objective="pairwise", diversity_weight=1.0, set_size=2)
    group = replace(
        random_group(0, [1, 0, 0]), distances_GG=np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float64)
    )
    # Quality: leave-one-out of [1, 0, 0]. Distance to the others minus mean distance among the others, twice:
    # 2 (1/2 - 0), 2 (1/2 - 0), 2 (0 - 1).
    quality, diversity = [1, -0.5, -0.5], [1, 1, -2]
    advantages = compute_advantages(group, spec)
    np.testing.assert_allclose(advantages.quality_part_G, quality, atol=1e-12)
    np.testing.assert_allclose(advantages.diversity_part_G, diversity, atol=1e-12)
    sums = Sums()
    add_group_metrics(sums, group, advantages, spec)
    metrics = finished_metrics(sums)
    assert metrics["advantage_share_quality"] == pytest.approx(1.5 / 7.5)
    assert metrics["advantage_share_diversity"] == pytest.approx(6 / 7.5)
    assert metrics["mean_advantage_correct"] == pytest.approx(2)


def test_components_of_the_reward_are_means_over_scored_completions() -> None:
    group = replace(
        random_group(0, [1, NAN, 0]), components={"format": (1.0, NAN, 0.5), "length": (0.2, 0.0, 0.4)}
    )
    metrics = _metrics(group)
    assert metrics["reward/format"] == pytest.approx(0.75)
    assert metrics["reward/length"] == pytest.approx(0.3)


def test_a_component_that_an_item_lacks_does_not_count() -> None:
    components = {"style": (0.2, NAN, 0.6), "other": (NAN, NAN, NAN), "second_opinion": (1.0, 1.0, 1.0)}
    metrics = _metrics(replace(random_group(0, [1, 1, 0]), components=components))
    assert metrics["reward/style"] == pytest.approx(0.4)
    assert metrics["reward/other"] is None
    assert "reward/second_opinion" not in metrics  # add_second_opinion


def _second_opinion(*rewards: tuple[list[float], list[float] | None]) -> StepMetrics:
    """Metrics of groups of (rewards, second opinions)."""
    sums = Sums()
    for index, (first, second) in enumerate(rewards):
        components = {} if second is None else {"second_opinion": tuple(second)}
        add_second_opinion(sums, replace(random_group(index, first), components=components))
    return second_opinion_metrics(sums)


def test_second_opinion_metrics_cover_items_with_both_scores() -> None:
    found = _second_opinion(
        ([0.1, 0.5, NAN, 0.9], [0.2, 0.3, 0.9, NAN]),
        ([0.4, 0.8], [0.9, 0.5]),
    )
    opinions = [0.2, 0.3, 0.9, 0.5]
    assert found[MEAN_SECOND_OPINION] == pytest.approx(np.mean(opinions))
    assert found["second_opinion_std"] == pytest.approx(np.std(opinions))
    assert found["second_opinion_missing"] == pytest.approx(1 / 5)
    # Deviations from each group's mean: (-.2, .2), (-.2, .2) against (-.05, .05), (.2, -.2).
    x, y = np.array([-0.2, 0.2, -0.2, 0.2]), np.array([-0.05, 0.05, 0.2, -0.2])
    assert found["second_opinion_correlation"] == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))
    levels = _second_opinion(([0.1, 0.2], [0.2, 0.1]), ([0.8, 0.9], [0.9, 0.8]))
    assert levels["second_opinion_correlation"] == pytest.approx(-1)


@pytest.mark.parametrize("missing", [None, [NAN, NAN]])
def test_missing_second_opinion_is_null_and_never_zero(missing: list[float] | None) -> None:
    assert _second_opinion(([0.1, 0.5], missing)) == {
        MEAN_SECOND_OPINION: None,
        "second_opinion_std": None,
        "second_opinion_missing": 1.0,
        "second_opinion_correlation": None,
    }
    assert _second_opinion(([0.5, 0.5], [0.1, 0.2]))["second_opinion_correlation"] is None
    assert second_opinion_metrics(Sums()) == {}


def _opinions(first: float, second: float | None, spread: float = 0.1) -> dict[str, Any]:
    return {
        "reward_mean": first,
        "reward_std": spread,
        MEAN_SECOND_OPINION: second,
        "second_opinion_std": None if second is None else 2 * spread,
    }


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_second_opinion_gap_is_in_standard_deviations_since_first_steps(cut: int) -> None:
    """`cut`: lines before a resume."""
    lines = [_opinions(0.5 + 0.01 * (t - 2), 0.5) for t in range(5)]
    lines += [_opinions(0.7, 0.4), _opinions(0.7, None), _opinions(0.6, 0.7)]
    gap = SecondOpinionGap(lines[:cut])
    found = [gap.observe(line)["second_opinion_gap"] for line in lines[cut:]]
    assert found[-3:] == pytest.approx([0.2 / 0.1 + 0.1 / 0.2, None, 0.1 / 0.1 - 0.2 / 0.2])


@pytest.mark.parametrize("line", [_opinions(0.5, None), _opinions(0.5, 0.5, spread=0.0)])
def test_second_opinion_gap_without_values_or_spread_is_null(line: dict[str, Any]) -> None:
    assert SecondOpinionGap([]).observe(line) == {"second_opinion_gap": None}
    assert SecondOpinionGap([]).observe({"reward_mean": 0.5, "reward_std": 0.1}) == {}
