"""Several updates per batch, what they are measured from, and what is done to rewards and sets before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyray.algorithms import stale_polychromic_advantages
from polyray.algorithms.polychromic import GroupView
from polyray.config.algorithm import GrpoSpec, PassAtKSpec, PolychromicSpec, ReinforceSpec
from polyray.config.objective import AnnealSpec
from polyray.config.run import TrainConfig
from polyray.learner.advantages import (
    Measured,
    algorithm_at,
    compute_advantages,
    group_has_signal,
    scale_batch,
)
from polyray.models.lora import POLICY, REFERENCE
from polyray.types import ScoredGroup
from tests.unit.algorithms.enumeration import PROBABILITIES_V, QUALITY_V, exact_gradient, expected_update
from tests.unit.learner.step_fixtures import (
    as_batch,
    assert_equal_gradients,
    build_learner,
    gradients,
    mixed_groups,
    token_logprobs,
    with_ratios,
)
from tests.unit.tiny_policy import build_policy, random_group, train_config


def _config(learner: dict[str, Any] | None = None, **algorithm: Any) -> TrainConfig:
    return train_config(
        algorithm={"type": "grpo", **algorithm},
        learner={"max_grad_norm": 1e9, "warmup_steps": 0, **(learner or {})},
    )


def _weights(learner: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters])


@pytest.mark.parametrize("normalisation", ["constant", "token"])
@pytest.mark.parametrize("size", [1, 2])  # the last may be smaller, and no group is split
def test_mini_batches_and_passes_are_single_updates_in_order(normalisation: str, size: int) -> None:
    groups = mixed_groups()
    together = build_learner(
        _config({"updates_per_batch": 2, "mini_batch_groups": size}, normalisation=normalisation)
    )
    metrics = together.step(as_batch(groups))
    one_by_one = build_learner(_config(normalisation=normalisation))
    for _ in range(2):
        for start in range(0, 3, size):
            one_by_one.step(as_batch(groups[start : start + size]))
    assert metrics["updates"] == {1: 6, 2: 4}[size]
    assert float((_weights(together) - _weights(one_by_one)).abs().max()) < 1e-6
    assert float((_weights(together) - _weights(build_learner(_config()))).abs().max()) > 1e-3
    assert together.scheduler.last_epoch == 1  # one training step, whatever its updates


def test_proximal_learner_measures_the_ratio_from_before_the_first_update() -> None:
    options = {"importance_correction": "none", "sequence_mask_band": None}
    learner = {"updates_per_batch": 3, "learning_rate": 0.03}
    stale = build_learner(_config(learner, proximal="learner", **options))
    stale.step(as_batch(mixed_groups()))
    fresh = build_learner(_config(learner, **options))
    zero = [0.0] * 6
    own = [
        with_ratios(
            group, {i: tuple(zero[: len(c.token_ids)]) for i, c in enumerate(group.group.completions)}
        )
        for group in mixed_groups()
    ]
    metrics = fresh.step(as_batch(own))
    assert float((_weights(stale) - _weights(fresh)).abs().max()) < 1e-6
    assert metrics["clip_share"] != 0  # the updates after the first were clipped


def test_kl_in_the_reward_is_k1_of_the_whole_completion() -> None:
    group = with_ratios(random_group(4, [1, 0, 0.5], lengths=[2, 3, 1]), {})
    model = build_policy().double()
    model.set_adapter(REFERENCE)
    k1 = []
    with torch.no_grad():
        for completion in group.group.completions:
            reference = token_logprobs(model, group.group.prompt_token_ids, completion.token_ids, 1.0)
            k1.append(float(completion.rollout_logprobs.sum()) - float(reference.sum()))
    model.set_adapter(POLICY)
    assert max(k1) - min(k1) > 0.01
    config = _config(kl_coefficient=0.7, kl_placement="reward", kl_estimator="k1")
    shaped = replace(group, rewards_G=group.rewards_G - 0.7 * np.array(k1))
    assert_equal_gradients(gradients(config, [group])[0], gradients(_config(), [shaped])[0])


def test_kl_in_the_reward_has_the_exact_gradient_of_the_penalised_objective() -> None:
    reference_V = np.array([0.25, 0.25, 0.2, 0.3])
    log_ratio_V = np.log(PROBABILITIES_V / reference_V)
    spec = PolychromicSpec(
        objective="max",
        diversity_weight=0.5,
        set_size=2,
        kl_coefficient=0.3,
        kl_placement="reward",
        kl_estimator="k1",
    )

    def weights(outcomes: tuple[int, ...]) -> np.ndarray:
        index = list(outcomes)
        group = random_group(0, QUALITY_V[index].tolist(), lengths=[1] * len(index))
        measured = Measured(kl_G=log_ratio_V[index], log_weights_G=np.zeros(len(index)))
        return compute_advantages(group, spec, measured=measured).advantages_G / len(index)

    def value(outcomes: tuple[int, ...]) -> float:
        index = list(outcomes)
        best = QUALITY_V[index].max()
        return float(QUALITY_V[index].mean() + 0.5 * best - 0.3 * log_ratio_V[index].mean())

    # The score function times the log ratio is the whole gradient of the KL: that of log pi itself has mean 0.
    np.testing.assert_allclose(expected_update(weights, 3), exact_gradient(value, 2), atol=1e-12)


def test_mode_threshold_has_a_flat_best_policy_over_good_answers() -> None:
    """The expected update at the best policy of the anchored rewards is 0, where the anchor is in every group."""
    reference_V, rewards_V, beta = np.array([0.5, 0.1, 0.3, 0.1]), np.array([1.0, 1.0, 0.0, 1.0]), 0.4
    spec = GrpoSpec(kl_coefficient=beta, kl_placement="reward", kl_estimator="k1", mode_threshold=0.9)
    good_V = rewards_V >= 0.9
    best_V = np.where(good_V, 0.5 * np.exp(1 / beta), reference_V)
    best_V /= best_V.sum()

    def anchored(index: list[int]) -> np.ndarray:
        group = random_group(0, rewards_V[index].tolist(), lengths=[1] * len(index))
        for v, completion in zip(index, group.group.completions, strict=True):
            completion.rollout_logprobs[:] = np.log(best_V[v])
        kl_G = np.array([float(c.rollout_logprobs.sum(dtype=np.float64)) for c in group.group.completions])
        measured = Measured(kl_G=kl_G - np.log(reference_V)[index], log_weights_G=np.zeros(len(index)))
        return compute_advantages(group, spec, measured=measured).advantages_G

    # Outcome 0 is the likeliest good answer under the reference; a wrong answer keeps its reward.
    np.testing.assert_allclose(anchored([0, 1, 2, 3]), 0.0, atol=1e-6)


def test_scale_of_the_batch_is_one_deviation_for_all_groups() -> None:
    groups = [
        random_group(0, [1, 0, 0, 0]),
        random_group(1, [0.5, 0.4, 0.5, 0.6]),
        random_group(2, [1, 1, 1, 1]),
    ]
    plain = [compute_advantages(group, GrpoSpec()).advantages_G for group in groups]
    expected = [advantages_G / (np.concatenate(plain).std(ddof=1) + 1e-6) for advantages_G in plain]
    spec = GrpoSpec(scale="batch")
    scaled = scale_batch(groups, [compute_advantages(group, spec) for group in groups], spec)
    for one, other in zip(scaled, expected, strict=True):
        np.testing.assert_allclose(one.advantages_G, other, atol=1e-12)
    of_all = np.concatenate([one.advantages_G for one in scaled])
    assert of_all.std(ddof=1) == pytest.approx(1, abs=1e-5)


def test_masked_or_dropped_truncated_completions_train_nothing() -> None:
    # 0 and 3 are truncated and their rewards are the mean: without them the others' advantages are equal.
    group = with_ratios(random_group(0, [0.5, 1, 0, 0.5], lengths=[3, 2, 4, 2]), {})
    rest = replace(
        group,
        group=replace(group.group, completions=group.group.completions[1:3]),
        rewards_G=group.rewards_G[1:3],
        classes_G=group.classes_G[1:3],
    )
    expected, _ = gradients(_config(), [rest])
    for truncated in ("mask", "drop"):
        actual, metrics = gradients(_config(truncated=truncated), [group])
        assert_equal_gradients(actual, expected)
        assert metrics["truncated_share"] == 0.5
    kept, _ = gradients(_config(), [group])
    assert_equal_gradients(kept, [gradient / 2 for gradient in expected])
    sets = random_group(0, [1, 1, 0.5, 1, 0, 1], classes=[7, 8, -1, 9, -1, 8])  # 0 and 3 are truncated
    spec, take = PolychromicSpec(objective="cluster", diversity_weight=1, set_size=2), [1, 2, 4, 5]
    smaller = random_group(0, sets.rewards_G[take].tolist(), classes=sets.classes_G[take].tolist())
    dropped_G = compute_advantages(sets, spec.at({"truncated": "drop"})).advantages_G
    np.testing.assert_allclose(dropped_G[take], compute_advantages(smaller, spec).advantages_G, atol=1e-12)
    assert dropped_G[[0, 3]].tolist() == [0, 0]


def test_overlong_punishment_by_hand() -> None:
    group = random_group(0, [1, 0, 0], lengths=[10, 8, 5], classes=[7, 8, 9])
    spec = GrpoSpec(overlong_buffer=4, overlong_weight=0.5)
    # Limit 10: no punishment up to 6, half of it at 8, all of it at 10.
    expected = np.array([1 - 0.5, -0.25, 0.0])
    actual = compute_advantages(group, spec, max_tokens=10).advantages_G
    np.testing.assert_allclose(actual, expected - expected.mean(), atol=1e-12)
    of_sets = PolychromicSpec(
        objective="cluster", diversity_weight=1, set_size=2, overlong_buffer=4, overlong_weight=0.5
    )
    plain = compute_advantages(group, of_sets).advantages_G
    punished = compute_advantages(group, of_sets, max_tokens=10).advantages_G
    np.testing.assert_allclose(punished - plain, [-0.375, 0.0, 0.375], atol=1e-12)


@pytest.mark.parametrize(
    ("step", "k", "weight"),
    [(0, 8, 0.0), (2, 6, 0.25), (3, 6, 0.375), (4, 5, 0.5), (8, 2, 1.0), (99, 2, 1.0)],
)
def test_k_and_lambda_are_annealed(step: int, k: int, weight: float) -> None:
    spec = PolychromicSpec(
        objective="cluster",
        diversity_weight=0.0,
        set_size=8,
        anneal=AnnealSpec(set_size=2, diversity_weight=1.0, over_steps=8),
    )
    now = algorithm_at(spec, step)
    assert isinstance(now, PolychromicSpec)
    assert (now.set_size, now.diversity_weight) == (k, weight)


def test_stale_set_product_weighs_sets_by_learner_ratios() -> None:
    group = with_ratios(
        random_group(3, [1, 0, 1, 1], classes=[4, -1, 5, 4], lengths=[2, 3, 1, 2]),
        {0: (0.4, 0.1), 1: (-0.2, -0.1, 0.0), 2: (0.3,), 3: (-0.6, 0.1)},
    )
    options = {
        "type": "polychromic", "objective": "distinct_correct", "diversity_weight": 1.0, "set_size": 2,
        "proximal": "learner", "importance_correction": "none", "sequence_mask_band": None,
    }  # fmt: skip
    config = train_config(
        algorithm={**options, "stale_weights": "set_product", "stale_weight_cap": 50.0},
        learner={"max_grad_norm": 1e9},
    )
    actual, _ = gradients(config, [group])
    advantages = stale_polychromic_advantages(
        group.rewards_G,
        [0.5, -0.3, 0.3, -0.5],
        objective="distinct_correct",
        quality_weight=1.0,
        diversity_weight=1.0,
        set_size=2,
        view=GroupView(classes_G=group.classes_G),
    ).advantages_G
    model = build_policy().double()
    loss = torch.zeros((), dtype=torch.float64)
    for completion, advantage in zip(group.group.completions, advantages, strict=True):
        logprobs = token_logprobs(model, group.group.prompt_token_ids, completion.token_ids, 1.0)
        loss = loss - advantage * logprobs.sum() / (4 * 6)
    loss.backward()
    assert_equal_gradients(actual, [p.grad for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("rewards", "classes", "has_signal"),
    [
        ([1, 1, 1, 1], [3, 3, 3, 4], True),
        ([1, 1, 1, 1], [3, 3, 3, 3], False),
        ([0, 0, 0, 0], [-1] * 4, False),
    ],
)
def test_group_signal_follows_its_credits(
    rewards: Sequence[float], classes: Sequence[int], has_signal: bool
) -> None:
    group: ScoredGroup = random_group(0, rewards, classes=classes)
    spec = PolychromicSpec(objective="cluster", diversity_weight=1, set_size=2)
    assert group_has_signal(group, spec, max_tokens=6) is has_signal
    assert not group_has_signal(group, PassAtKSpec(set_size=2), max_tokens=6)
    assert group_has_signal(
        random_group(0, [1.0, float("nan"), float("nan")]), spec, max_tokens=6
    )  # judged elsewhere


@pytest.mark.parametrize(
    ("weight", "reward", "has_signal"), [(0.0, 1, False), (0.0, 0, True), (0.1, 1, True)]
)
def test_group_without_a_baseline_has_a_signal_unless_its_advantages_are_zero(
    weight: float, reward: int, has_signal: bool
) -> None:
    spec = ReinforceSpec(positive_weight=weight)
    assert group_has_signal(random_group(0, [reward] * 4), spec, max_tokens=6) is has_signal


def test_group_whose_masked_completions_alone_have_advantages_has_no_signal() -> None:
    group, spec = random_group(0, [1, 0, 0, 0]), GrpoSpec(truncated="mask")
    assert group_has_signal(group, spec, max_tokens=6)

    def cut(*places: int) -> ScoredGroup:
        completions = [
            replace(completion, finish_reason="length" if at in places else "stop")
            for at, completion in enumerate(group.group.completions)
        ]
        return replace(group, group=replace(group.group, completions=tuple(completions)))

    assert not group_has_signal(cut(0, 1, 2, 3), spec, max_tokens=6)
    assert group_has_signal(cut(0, 1, 2), spec, max_tokens=6), "the last one is below the mean"
    assert group_has_signal(cut(0, 1, 2, 3), GrpoSpec(), max_tokens=6)


def test_group_with_kl_in_the_reward_as_its_only_signal_is_kept() -> None:
    spec = GrpoSpec(kl_coefficient=0.3, kl_placement="reward", kl_estimator="k1")
    group = random_group(0, [1, 1, 1, 1], lengths=[2, 3, 1, 2])
    measured = Measured(kl_G=np.array([0.1, 0.4, 0.0, 0.2]), log_weights_G=np.zeros(4))
    assert np.abs(compute_advantages(group, spec, measured=measured).advantages_G).max() > 0.01
    assert group_has_signal(group, spec, max_tokens=6)
    assert not group_has_signal(group, GrpoSpec(), max_tokens=6)
    # Equal completions have equal log-probs: their KL says nothing either.
    same = replace(group.group, completions=(group.group.completions[0],) * 4)
    assert not group_has_signal(replace(group, group=same), spec, max_tokens=6)
    unscored = replace(group, rewards_G=np.array([1.0, 1.0, np.nan, np.nan]))
    pair = replace(group.group, completions=(*same.completions[:2], *group.group.completions[2:]))
    assert not group_has_signal(replace(unscored, group=pair), spec, max_tokens=6)
