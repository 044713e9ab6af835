"""Heuristic baselines: rewards that look at the group and are then treated as if they were a sample's own.

None of them is the gradient of an objective of the set: sample i is paid for its distance to the others, which
get nothing for theirs to it. They are here to be compared with. Exact set objectives: set_credits.py.
Suffix _G = samples of one prompt, _GG = pairs of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.advantages import group_advantages
from polyray.algorithms.checks import check_weight
from polyray.metrics.arrays import Floats, finite_vector, unit_distances, unit_vector


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


def _mean_distances(distance_GG: npt.ArrayLike, num_samples: int) -> Floats:
    return unit_distances(distance_GG, "distance_GG", num_samples).sum(axis=1) / (num_samples - 1)
