"""Metrics of a batch against loops over its completions."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.config.algorithm import GrpoSpec
from polyray.learner.advantages import GroupAdvantages
from polyray.learner.group_metrics import (
    LARGEST_K,
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


@st.composite
def drawn_group(draw: Any) -> tuple[ScoredGroup, GroupAdvantages]:
    """Up to ten completions, at least one of them scored, with advantages of two parts."""
    rewards = [
        draw(st.sampled_from((0.0, 1.0))),
        *draw(st.lists(st.sampled_from((0, 0.5, 0.999, 1, NAN)), max_size=9)),
    ]
    size, seed = len(rewards), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    group = random_group(seed, rewards, classes=rng.integers(-1, 4, size).tolist())
    distances = rng.random((size, size))
    distances = np.triu(distances, 1) + np.triu(distances, 1).T
    parts = {"style": tuple(rng.choice([NAN, 0.2, 1.0], size)), "second_opinion": (1.0,) * size}
    group = replace(group, distances_GG=distances if draw(st.booleans()) else None, components=parts)
    scored_G = np.isfinite(group.rewards_G) * draw(st.sampled_from((0, 1)))
    quality_G, diversity_G = scored_G * rng.normal(size=size), scored_G * rng.normal(size=size)
    return group, GroupAdvantages(quality_G + diversity_G, quality_G, diversity_G)


def brute_force(drawn: list[tuple[ScoredGroup, GroupAdvantages]]) -> dict[str, Any]:
    rewards, lengths, correct_advantages, style = [], [], [], []
    any_correct, distinct, diversity, zero = [], [], [], []
    truncated = quality = both = 0.0
    for group, advantages in drawn:
        scored = [i for i, reward in enumerate(group.rewards_G) if not np.isnan(reward)]
        correct = [i for i in scored if group.rewards_G[i] >= 1]
        rewards += [group.rewards_G[i] for i in scored]
        correct_advantages += [advantages.advantages_G[i] for i in correct]
        style += [x for x in (group.components["style"][i] for i in scored) if not np.isnan(x)]
        sets = [set(chosen) & set(correct) for chosen in combinations(scored, min(LARGEST_K, len(scored)))]
        any_correct.append(np.mean([bool(chosen) for chosen in sets]))
        distinct.append(np.mean([len({group.classes_G[i] for i in chosen} - {-1}) for chosen in sets]))
        pairs = [
            float(0 <= group.classes_G[i] != group.classes_G[j] >= 0)
            if group.distances_GG is None
            else group.distances_GG[i, j]
            for i, j in combinations(scored, 2)
        ]
        diversity.append(np.mean(pairs) if pairs else 0.0)
        zero.append(not advantages.advantages_G.any())
        quality += sum(advantages.quality_part_G**2)
        both += sum(advantages.quality_part_G**2) + sum(advantages.diversity_part_G**2)
        lengths += [len(completion.token_ids) for completion in group.group.completions]
        truncated += sum(completion.finish_reason == "length" for completion in group.group.completions)
    return {
        "reward_mean": np.mean(rewards),
        "reward_std": np.std(rewards),
        "pass_at_1": np.mean([reward >= 1 for reward in rewards]),
        "pass_at_8": np.mean(any_correct),
        "distinct_classes": np.mean(distinct),
        "diversity": np.mean(diversity),
        "advantage_share_quality": quality / both if both else 0,
        "advantage_share_diversity": (both - quality) / both if both else 0,
        "mean_advantage_correct": np.mean(correct_advantages) if correct_advantages else 0,
        "zero_advantage_share": np.mean(zero),
        "completion_length_mean": np.mean(lengths),
        "completion_length_max": max(lengths),
        "truncated_share": truncated / len(lengths),
        "unscored": len(lengths) - len(rewards),
        "tokens_generated": sum(lengths),
        "reward/style": np.mean(style) if style else None,
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(drawn_group(), min_size=1, max_size=3))
def test_metrics_equal_loops_over_scored_completions(
    drawn: list[tuple[ScoredGroup, GroupAdvantages]],
) -> None:
    sums = Sums()
    for group, advantages in drawn:
        add_group_metrics(sums, group, advantages, GrpoSpec())
    found = finished_metrics(sums)
    for name, expected in brute_force(drawn).items():
        assert found[name] == (expected if expected is None else pytest.approx(expected, abs=1e-9)), name
    assert "reward/second_opinion" not in found


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
