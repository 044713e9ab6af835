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
from polyray.learner.group_metrics import LARGEST_K, add_group_metrics, finished_metrics
from polyray.learner.reduce import Sums
from polyray.types import ScoredGroup
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
