"""Heuristic baselines: rewards that look at the group and are then treated as if they were a sample's own.

None of them is the gradient of an objective of the set: sample i is paid for what it differs from, and the others
get nothing for differing from it. They are here to be compared with. Exact set objectives: set_credits.py.
Suffix _G = samples of one prompt, _GG = pairs of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.advantages import group_advantages
from polyray.algorithms.checks import check_weight
from polyray.metrics.arrays import (
    Floats,
    binary_vector,
    finite_vector,
    integer_vector,
    unit_distances,
    unit_vector,
)
from polyray.types import WRONG_CLASS


def shaped_advantages(
    quality_G: npt.ArrayLike, distance_GG: npt.ArrayLike, diversity_weight: float
) -> Floats:
    """r_i + diversity_weight x mean distance to the others, minus the group's mean: the common shaping. Heuristic.

    Its expected gradient is (N-1)/N grad Q + diversity_weight (N-2)/(2N) grad D: about half the weight it
    seems to have, depending on N. `pairwise_set_credits` is what it means to be.

    Args:
        quality_G: [N >= 2] in [0, 1].
        distance_GG: [N, N] in [0, 1], symmetric, zero diagonal.
        diversity_weight: lambda, not negative.

    Returns:
        [N] float64, summing to 0.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=2)
    check_weight(diversity_weight, "diversity_weight")
    return group_advantages(quality + diversity_weight * _mean_distances(distance_GG, len(quality)))


def darling_advantages(
    quality_G: npt.ArrayLike,
    distance_GG: npt.ArrayLike,
    combine: Literal["multiply", "add"] = "multiply",
) -> Floats:
    """Quality x mean distance to the others, minus the mean (DARLING, arXiv 2509.02534). Heuristic.

    The paper's distances are 0 or 1 (a classifier of equivalence), multiplied with the quality; add is the
    other arm of its ablation. No standard deviation.

    Args:
        quality_G: [N >= 2] in [0, 1].
        distance_GG: [N, N] in [0, 1], symmetric, zero diagonal.
        combine: as above.

    Returns:
        [N] float64, summing to 0.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=2)
    diversity = _mean_distances(distance_GG, len(quality))
    if combine == "multiply":
        return group_advantages(quality * diversity)
    if combine == "add":
        return group_advantages(quality + diversity)
    raise ValueError(f"combine={combine!r} must be 'multiply' or 'add'")


def unlikeliness_advantages(
    rewards_G: npt.ArrayLike, mean_logprobs_G: npt.ArrayLike, penalty: float = 0.25
) -> Floats:
    """GRPO on r_i (1 - penalty x rank_i / G), rank 0 = the least likely sample (arXiv 2506.02355). Heuristic.

    The paper divides by the group's `deviation`.

    Args:
        rewards_G: [G >= 2] finite.
        mean_logprobs_G: [G] finite, mean log-probability per token; equal ones share their mean rank.
        penalty: beta, in [0, 1].

    Returns:
        [G] float64, summing to 0.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    logprobs = finite_vector(mean_logprobs_G, "mean_logprobs_G")
    if len(logprobs) != len(rewards):
        raise ValueError(f"mean_logprobs_G has {len(logprobs)} entries but there are {len(rewards)} samples")
    if not 0 <= penalty <= 1:
        raise ValueError(f"penalty={penalty} must lie in [0, 1]; the paper uses 0.25")
    _, position_G, counts = np.unique(logprobs, return_inverse=True, return_counts=True)
    ranks_G = (np.cumsum(counts) - (counts + 1) / 2)[position_G]
    return group_advantages(rewards * (1 - penalty * ranks_G / len(rewards)))


def rare_advantages(rewards_G: npt.ArrayLike, classes_G: npt.ArrayLike, alpha: float) -> Floats:
    """GRPO's advantages, each over (size of the sample's class) ** alpha (arXiv 2601.08763, a reading). Heuristic.

    The paper multiplies advantages over the `deviation` of the rewards by 1 / f ** alpha. f counts the samples of
    the group with the same strategy, and alpha is not reported. Here samples of class -1 keep the weight 1.

    Args:
        rewards_G: [G >= 2] finite.
        classes_G: [G] whole numbers; -1 has weight 1.
        alpha: in [0, 1]; 0 is GRPO, and with 1 all samples of a class together count as one.

    Returns:
        [G] float64. The sum is not 0 where classes have several samples.
    """
    advantages = group_advantages(rewards_G)
    classes = integer_vector(classes_G, "classes_G", len(advantages))
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must lie in [0, 1]; 0 is GRPO")
    _, class_of_G, sizes_C = np.unique(classes, return_inverse=True, return_counts=True)
    sizes_G = np.where(classes == WRONG_CLASS, 1, sizes_C[class_of_G])
    return advantages / sizes_G**alpha


def gapo_advantages(
    quality_G: npt.ArrayLike, classes_G: npt.ArrayLike, num_answers: int | None = None
) -> Floats:
    """Rewards minus the frequency of the sample's answer among valid ones, minus the mean (GAPO, arXiv 2511.12596).

    A valid sample gets 1 - (f - 1 / num_answers), an invalid one -1; f is the share of its class among the samples
    that have one. A quality q below 1 counts as 2 q - 1. The paper divides by the group's `deviation`. Heuristic: if
    all samples are valid, the expected gradient is (N - 1) (N - 2) / (2 N^2) times that of the mean pairwise
    1[classes differ], under half of what it pays.

    Args:
        quality_G: [N >= 2] in [0, 1].
        classes_G: [N] whole numbers; -1 is not valid.
        num_answers: L, how many valid answers the prompt has; None leaves 1 / L out.

    Returns:
        [N] float64, summing to 0.
    """
    rewards = 2 * unit_vector(quality_G, "quality_G", at_least=2) - 1
    classes = integer_vector(classes_G, "classes_G", len(rewards))
    if num_answers is not None and num_answers < 1:
        raise ValueError(f"num_answers={num_answers} must be at least 1; None leaves it out")
    valid = classes != WRONG_CLASS
    _, class_of_G, sizes_C = np.unique(classes, return_inverse=True, return_counts=True)
    excess_G = sizes_C[class_of_G] / max(1, valid.sum()) - (1 / num_answers if num_answers else 0.0)
    return group_advantages(np.where(valid, rewards - excess_G, rewards))


def ucpo_advantages(correct_G: npt.ArrayLike, mean_logprobs_G: npt.ArrayLike, tau: float) -> Floats:
    """GRPO, its right samples weighted towards 1 / likelihood (UCPO, arXiv 2605.00365, a reading). Heuristic.

    Of m right samples each gets the advantage times 1 - tau + tau m w, where the weights w sum to 1 and are
    proportional to exp(-mean log-probability per token): the unlikely ones gain what the likely ones lose. This is
    the update of the authors' training script, which leaves wrong samples as they are and divides by the group's
    `deviation`.

    Args:
        correct_G: [G >= 2] 0 or 1.
        mean_logprobs_G: [G] finite, mean log-probability per token.
        tau: in [0, 1]; 0 is GRPO, the authors' script has 0.2.

    Returns:
        [G] float64, summing to 0.
    """
    logprobs = finite_vector(mean_logprobs_G, "mean_logprobs_G", at_least=2)
    correct = binary_vector(correct_G, "correct_G", len(logprobs))
    if not 0 <= tau <= 1:
        raise ValueError(f"tau={tau} must lie in [0, 1]; the authors use 0.2")
    advantages = group_advantages(correct)
    if correct.any():
        surprise = np.exp(logprobs[correct].min() - logprobs[correct])
        advantages[correct] *= 1 - tau + tau * surprise / surprise.mean()
    return advantages


def _mean_distances(distance_GG: npt.ArrayLike, num_samples: int) -> Floats:
    return unit_distances(distance_GG, "distance_GG", num_samples).sum(axis=1) / (num_samples - 1)
