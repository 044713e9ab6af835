"""polychromic_advantages: its parts, and its expected policy gradient against the exact one."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

from polyray.algorithms import (
    clipped_surrogate,
    cluster_set_credits,
    leave_one_out_advantages,
    pairwise_set_credits,
    polychromic_advantages,
    product_set_credits,
)

QUALITY_V = np.array([0.9, 0.4, 0.0])
"""What each of three outcomes is worth; the last is wrong and has no class."""
CLASSES_V = np.array([5, 8, -1])
DISTANCES_VV = np.array([[0, 0.3, 1.0], [0.3, 0, 0.6], [1.0, 0.6, 0]])
LOGITS_V = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
OBJECTIVES = ["pairwise", "product", "cluster"]


def set_value(
    outcomes: tuple[int, ...], objective: str, quality_weight: float, diversity_weight: float
) -> float:
    quality = float(np.mean([QUALITY_V[v] for v in outcomes]))
    distance = float(np.mean([DISTANCES_VV[v, w] for v, w in combinations(outcomes, 2)]))
    distinct = len({int(CLASSES_V[v]) for v in outcomes} - {-1})
    diversity = {
        "pairwise": distance,
        "product": quality * distance,
        "cluster": quality * distinct / len(outcomes),
    }
    return quality_weight * quality + diversity_weight * diversity[objective]


def advantages_of(
    outcomes: tuple[int, ...], objective, set_size: int, quality_weight=1.0, diversity_weight=0.6
):
    index = list(outcomes)
    return polychromic_advantages(
        QUALITY_V[index],
        objective=objective,
        quality_weight=quality_weight,
        diversity_weight=diversity_weight,
        set_size=set_size,
        classes_G=CLASSES_V[index],
        distance_GG=DISTANCES_VV[np.ix_(index, index)],
    )


def exact_gradient(
    objective: str, set_size: int, quality_weight: float, diversity_weight: float
) -> np.ndarray:
    """d/d logits of E[F(y_1..y_k)] for k i.i.d. outcomes, by differentiating the expectation itself."""
    logits = LOGITS_V.clone().requires_grad_()
    probabilities = torch.softmax(logits, 0)
    expectation = torch.zeros((), dtype=torch.float64)
    for outcomes in product(range(3), repeat=set_size):
        chance = torch.prod(probabilities[list(outcomes)])
        expectation = expectation + chance * set_value(outcomes, objective, quality_weight, diversity_weight)
    return torch.autograd.grad(expectation, logits)[0].numpy()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("num_samples", "set_size"), [(3, 2), (5, 3), (5, 4)])
@pytest.mark.parametrize("quality_weight", [1.0, 0.0])
def test_expected_policy_gradient_is_the_gradient_of_the_objective(
    objective, num_samples, set_size, quality_weight
) -> None:
    probabilities = torch.softmax(LOGITS_V, 0).numpy()
    estimate = np.zeros(3)
    for outcomes in product(range(3), repeat=num_samples):
        advantages = advantages_of(outcomes, objective, set_size, quality_weight).advantages_G
        for outcome, advantage in zip(outcomes, advantages, strict=True):
            score = np.eye(3)[outcome] - probabilities  # d log pi(outcome) / d logits
            estimate += probabilities[list(outcomes)].prod() * advantage / num_samples * score
    exact = exact_gradient(objective, set_size, quality_weight, 0.6)
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(estimate, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pkpo_without_diversity_is_leave_one_out(objective) -> None:
    quality = np.random.default_rng(0).random(16)
    result = polychromic_advantages(
        quality, objective=objective, quality_weight=1.0, diversity_weight=0.0, set_size=4
    )
    np.testing.assert_allclose(result.advantages_G, leave_one_out_advantages(quality), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(result.diversity_part_G, np.zeros(16))


def test_parts_are_the_credits_times_the_group_size() -> None:
    outcomes = (0, 0, 1, 2, 1, 2)
    quality, classes = QUALITY_V[list(outcomes)], CLASSES_V[list(outcomes)]
    distance = DISTANCES_VV[np.ix_(outcomes, outcomes)]
    rloo = leave_one_out_advantages(quality)
    expected = {
        "pairwise": 6 * pairwise_set_credits(quality, distance, 0.6) - rloo,
        "product": 0.6 * 6 * product_set_credits(quality, distance, 4),
        "cluster": 0.6 * 6 * cluster_set_credits(quality, classes, 4),
    }
    for objective, diversity_part in expected.items():
        result = advantages_of(outcomes, objective, 4, quality_weight=0.5)
        np.testing.assert_allclose(result.quality_part_G, 0.5 * rloo, rtol=0, atol=1e-14)
        np.testing.assert_allclose(result.diversity_part_G, diversity_part, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(result.advantages_G, result.quality_part_G + result.diversity_part_G)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_diversity_weight_reaches_the_gradient(objective) -> None:
    outcomes = (0, 0, 0, 1, 2, 1)

    def gradient(diversity_weight: float) -> torch.Tensor:
        logits = LOGITS_V.clone().requires_grad_()
        logprobs = torch.log_softmax(logits, 0)[list(outcomes)].unsqueeze(1)
        advantages = advantages_of(outcomes, objective, 3, diversity_weight=diversity_weight).advantages_G
        loss, _ = clipped_surrogate(
            logprobs, logprobs.detach(), torch.from_numpy(advantages), clip_low=0.2, clip_high=0.2
        )
        return torch.autograd.grad(loss.mean(), logits)[0]

    assert (gradient(10.0) - gradient(0.0)).abs().max() > 0.1


def call(**changes):
    arguments = {"objective": "cluster", "quality_weight": 1.0, "diversity_weight": 0.5, "set_size": 2}
    return polychromic_advantages([1.0, 0.0, 0.5], **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "objective='cluster'.*classes_G.*None"),
        ({"objective": "product", "classes_G": [0, 1, 2]}, "objective='product'.*distance_GG.*None"),
        ({"objective": "pairwise"}, "objective='pairwise'.*distance_GG.*None"),
        ({"objective": "volume"}, "objective='volume'.*'cluster'"),
        ({"set_size": 3}, r"k=3.*\b2\b"),
        ({"set_size": 1}, r"k=1.*\b2\b"),
        ({"set_size": 3, "diversity_weight": 0.0}, r"k=3.*\b2\b"),
        ({"quality_weight": float("inf")}, "quality_weight=inf"),
        ({"quality_weight": -1.0}, "quality_weight=-1.0"),
        ({"diversity_weight": float("nan")}, "diversity_weight=nan"),
    ],
)
def test_bad_arguments_are_named(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)
