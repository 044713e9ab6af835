"""Every preset takes two real optimiser steps, and its gradient is that of its advantages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from polyray.algorithms import crowding_marginals, polychromic
from polyray.config import algorithm
from polyray.config.loader import load_config
from polyray.config.presets import presets
from polyray.config.reward import DiversitySpec
from polyray.config.run import TrainConfig
from polyray.learner.advantages import OF_TYPE, compute_advantages
from polyray.rewards.base import Score, ScoreItem
from polyray.rewards.distances import group_distances
from polyray.types import WRONG_CLASS, ScoredGroup, TrainingBatch
from tests.unit.learner.step_fixtures import build_learner
from tests.unit.tiny_policy import build_policy, random_group

ROOT = Path(__file__).resolve().parents[3]
GRID = ROOT / "configs/train/hidden_trap_grid.yaml"


def scored_group(group_id: int) -> ScoredGroup:
    draw = np.random.default_rng(group_id)
    classes = draw.integers(-3, 3, 8).clip(-1)
    # Odd groups have graded rewards, even ones only 0 and 1.
    rewards = (classes >= 0) * (draw.random(8) if group_id % 2 else 1.0)
    group = random_group(group_id, rewards.tolist(), classes=classes.tolist())
    features = draw.normal(size=(8, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distances = np.clip((1 - features @ features.T) / 2, 0, 1)
    np.fill_diagonal(distances, 0)
    return replace(group, distances_GG=distances)


def load_preset(name: str, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, GRID, [f"algorithm=@{name}", *presets()[name].also, *overrides])


@pytest.mark.parametrize("name", presets())
def test_preset_trained_for_two_steps_moves_every_parameter(name: str) -> None:
    given = load_preset(name)
    config = load_preset(
        name,
        # Random rollout log-probs are far from the model's: wide bounds, so that no row drops out.
        "model.lora.rank=4",
        "model.lora.alpha=8",
        "learner.warmup_steps=0",
        "rollout.group_size=8",
        *(["algorithm.clip_high=10"] if given.algorithm.surrogate in ("ppo", "gspo") else []),
        *(["learner.mini_batch_groups=2"] if given.learner.mini_batch_groups else []),
        "algorithm.sequence_mask_band=5",
    )
    model = build_policy(config.model.lora, moved=False)
    learner = build_learner(config, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    updates = 2 if name in ("gspo", "cispo", "sapo", "kl_cov") else 1
    for step in range(2):
        groups = tuple(scored_group(4 * step + g) for g in range(4))
        metrics: dict[str, Any] = dict(learner.step(TrainingBatch(step, groups, len(groups))))
        assert metrics["updates"] == updates
        assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
        assert metrics["zero_advantage_share"] < 1
    moved = {
        name for name, p in model.named_parameters() if p.requires_grad and not torch.equal(p, before[name])
    }
    assert moved == set(before)


def test_every_type_and_objective_has_a_preset_and_advantages() -> None:
    union = get_args(get_args(algorithm.AlgorithmSpec)[0])
    types = {spec.model_fields["type"].default for spec in union}
    assert types == {*OF_TYPE, "polychromic"}
    loaded = [load_preset(name).algorithm for name in presets()]
    assert {spec.type for spec in loaded} == types
    objectives = {spec.objective for spec in loaded if isinstance(spec, algorithm.PolychromicSpec)}
    assert objectives == set(polychromic.OBJECTIVES) == set(get_args(polychromic.Objective))
    offered = get_args(algorithm.PolychromicSpec.model_fields["objective"].annotation)
    assert set(offered) == objectives
    assert algorithm.OF_CLASSES == polychromic.OF_CLASSES
    assert algorithm.OF_DISTANCES == polychromic.OF_DISTANCES


def test_sampled_sets_depend_on_the_group_alone_and_need_its_distances() -> None:
    spec = algorithm.PolychromicSpec(objective="vendi", diversity_weight=1.0, set_size=3, num_subsets=5)
    first, again = (compute_advantages(scored_group(3), spec).advantages_G for _ in range(2))
    assert first.tolist() == again.tolist()
    with pytest.raises(ValueError, match=r"group 3\b"):
        compute_advantages(replace(scored_group(3), distances_GG=None), algorithm.DarlingSpec())


@pytest.mark.parametrize(
    ("objective", "of_wrong"),
    [("facility", 0.0), ("determinant", -4.0), ("logdet", -6.909), ("vendi", -1.0), ("distinct_n", -1.0)],
)
def test_wrong_sample_earns_no_diversity_at_the_default_floor(objective: Any, of_wrong: float) -> None:
    # Seven right answers of seven classes and a wrong one, with the distances that a reward gives them.
    classes = [*range(7), WRONG_CLASS]
    rewards = [1.0] * 7 + [0.0]
    items = [ScoreItem("prompt", f"answer {at}") for at in range(8)]
    scores = [Score(reward, class_id) for reward, class_id in zip(rewards, classes, strict=True)]
    group = random_group(0, rewards, classes=classes, lengths=[3] * 8)
    for at, completion in enumerate(group.group.completions):  # no two share a bigram
        completion.token_ids[:] = [3 + at, 11 + at, 19 + at % 7]
    judge: Any = None  # of classes nobody is asked for a distance
    distances = np.array(group_distances(judge, DiversitySpec(), items, scores))
    spec = algorithm.PolychromicSpec(objective=objective, diversity_weight=1.0, set_size=4)
    found = compute_advantages(replace(group, distances_GG=distances), spec).diversity_part_G
    np.testing.assert_allclose(found, [*[-of_wrong / 7] * 7, of_wrong], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["grpo", "dapo", "drgrpo"])
def test_focal_gamma_scales_published_advantages_by_the_success_of_the_group(name: str) -> None:
    group = random_group(3, [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    plain = load_preset(name).algorithm
    focal = load_preset(name, "algorithm.focal_gamma=0.5").algorithm
    expected = compute_advantages(group, plain, max_tokens=64).advantages_G * (1 - 5 / 8) ** 0.5
    found = compute_advantages(group, focal, max_tokens=64).advantages_G
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("std", ["sample", "population"])
def test_rare_is_grpo_at_alpha_zero_and_weighs_normalised_advantages(std: Any) -> None:
    group = scored_group(1)
    grpo = algorithm.GrpoSpec(scale="group", std=std)
    plain = compute_advantages(group, grpo).advantages_G
    same = compute_advantages(group, algorithm.RareSpec(alpha=0.0, std=std)).advantages_G
    np.testing.assert_allclose(same, plain, rtol=1e-12)
    classes = group.classes_G.tolist()
    sizes = np.array([1 if c == WRONG_CLASS else classes.count(c) for c in classes])
    found = compute_advantages(group, algorithm.RareSpec(alpha=1.0, std=std)).advantages_G
    np.testing.assert_allclose(found, plain / sizes, rtol=1e-12)


@pytest.mark.parametrize("std", ["sample", "population"])
def test_ucpo_is_grpo_at_tau_zero_and_keeps_the_advantage_of_right_samples(std: Any) -> None:
    group = random_group(3, [1.0, 0.0, 1.0, 1.0, 0.0, 0.5])
    verdicts = replace(group, rewards_G=np.floor(group.rewards_G))
    plain = compute_advantages(verdicts, algorithm.GrpoSpec(scale="group", std=std)).advantages_G
    same = compute_advantages(group, algorithm.UcpoSpec(tau=0.0, std=std)).advantages_G
    np.testing.assert_allclose(same, plain, rtol=1e-12)
    moved = compute_advantages(group, algorithm.UcpoSpec(tau=1.0, std=std)).advantages_G
    np.testing.assert_allclose(moved[[0, 2, 3]].sum(), plain[[0, 2, 3]].sum(), rtol=1e-12)
    assert np.ptp(moved[[0, 2, 3]]) > 0.01


def test_setpo_adds_the_marginals_to_normalised_advantages() -> None:
    group = scored_group(1)
    plain = compute_advantages(group, algorithm.GrpoSpec(scale="group")).advantages_G
    assert group.distances_GG is not None
    found = compute_advantages(group, algorithm.SetPoSpec(diversity_weight=0.7)).advantages_G
    np.testing.assert_allclose(found, plain + 0.7 * crowding_marginals(group.distances_GG), rtol=1e-12)
