"""Credits of single completions in the value of sets: exact gradients of set ("polychromic") objectives.

For a symmetric f of k completions, N >= k + 1 i.i.d. samples Y and U_k(Y) the mean of f over k-subsets of Y,

    credit_i = U_k(Y) - U_k(Y without i) = (k/N) (mean of f over subsets with i - mean over subsets without i)

satisfies E[sum_i credit_i grad log pi(y_i)] = grad E[f(y_1..y_k)] exactly. Credits sum to 0 and ignore
constants added to f. The advantage for a loss that averages over the N samples is N x credit. Objectives:
arXiv 2509.25424 (set RL), 2604.17654 (Poly-EPO, the cluster objective). The closed forms enumerate nothing.

Not here: where distances and classes come from (tasks, rewards); stale samples, for which this is biased.
Called by the learner, once per group. Suffix _G = samples of one prompt, _GG = pairs of them, _C = classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.algorithms.advantages import leave_one_out_advantages
from polyray.algorithms.checks import check_group_size, check_weight
from polyray.metrics.arrays import Floats, Integers, integer_vector, unit_distances, unit_vector
from polyray.metrics.combinatorics import miss_probability
from polyray.types import WRONG_CLASS


def pairwise_set_credits(
    quality_G: npt.ArrayLike, distance_GG: npt.ArrayLike, diversity_weight: float
) -> Floats:
    """Credits of f = mean quality + diversity_weight x mean pairwise distance; the same for every k >= 2.

    credit_i = [(q_i - mean of the others) + 2 diversity_weight (dbar_i - Dbar_-i)] / N, with dbar_i the mean
    distance of i to the others and Dbar_-i the mean pairwise distance among the others.

    Args:
        quality_G: [N >= 3] in [0, 1].
        distance_GG: [N, N] in [0, 1], symmetric, zero diagonal.
        diversity_weight: lambda.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: values outside [0, 1], NaN, fewer than 3 samples, wrong shapes.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=3)
    distance = unit_distances(distance_GG, "distance_GG", len(quality))
    check_weight(diversity_weight, "diversity_weight")
    quality_credits = leave_one_out_advantages(quality) / len(quality)
    return quality_credits + diversity_weight * mean_distance_credits(distance)


def product_set_credits(quality_G: npt.ArrayLike, distance_GG: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = mean quality x mean pairwise distance over sets of k.

    Args:
        quality_G: [N >= k + 1] in [0, 1].
        distance_GG: [N, N] in [0, 1], symmetric, zero diagonal.
        k: set size, at least 2.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, k < 2, values outside [0, 1], NaN, wrong shapes.
    """
    quality = unit_vector(quality_G, "quality_G")
    distance = unit_distances(distance_GG, "distance_GG", len(quality))
    check_group_size(k, len(quality), at_least=2)
    distance_sums = distance.sum(axis=1)
    met = distance @ quality
    # Sums over pairs b < c: pair_sum of d_bc, own_sum of d_bc (q_b + q_c), the quality of the pair itself.
    pair_sum, own_sum, quality_sum = distance_sums.sum() / 2, met.sum(), quality.sum()
    whole = _product_value(quality_sum, pair_sum, own_sum, len(quality), k)
    without = _product_value(
        quality_sum - quality,
        pair_sum - distance_sums,
        own_sum - quality * distance_sums - met,
        len(quality) - 1,
        k,
    )
    return whole - without


def cluster_set_credits(quality_G: npt.ArrayLike, classes_G: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = mean quality x (number of different classes / k) over sets of k: Poly-EPO's objective.

    Args:
        quality_G: [N >= k + 1] in [0, 1].
        classes_G: [N] whole numbers; -1 (wrong, unparsable) never counts as a class, but its quality does.
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, values outside [0, 1], NaN, wrong shapes.
    """
    quality = unit_vector(quality_G, "quality_G")
    num_samples = len(quality)
    classes = integer_vector(classes_G, "classes_G", num_samples)
    check_group_size(k, num_samples)
    labels_C, class_of_G = np.unique(classes, return_inverse=True)
    counts_C, sizes_C = labels_C != WRONG_CLASS, np.bincount(class_of_G)
    quality_C = np.bincount(class_of_G, weights=quality)
    quality_sum = quality.sum()
    others_C = quality_sum - quality_C

    # A class is worth the quality of its members, plus that of the others as far as they meet it in a subset.
    whole_C = quality_C + others_C * _meeting_probability(sizes_C, num_samples - 1, k)
    whole = whole_C[counts_C].sum() / (k * num_samples)

    # Without sample i every other class loses the part of q_i; the class of i has one member less.
    meets_C = _meeting_probability(sizes_C, num_samples - 2, k)
    reduced_C = (quality_C + others_C * meets_C) * counts_C
    reduced_meets_C = meets_C * counts_C
    smaller_meets_C = _meeting_probability(sizes_C - 1, num_samples - 2, k)
    own_G = (quality_C[class_of_G] - quality) + (others_C * smaller_meets_C)[class_of_G]
    without = (
        (reduced_C.sum() - reduced_C[class_of_G])
        - quality * (reduced_meets_C.sum() - reduced_meets_C[class_of_G])
        + own_G * counts_C[class_of_G]
    ) / (k * (num_samples - 1))
    return whole - without


def mean_distance_credits(distance_GG: npt.ArrayLike) -> Floats:
    """Credits of f = mean pairwise distance, the same for every k >= 2.

    Args:
        distance_GG: [N >= 3, N] in [0, 1], symmetric, zero diagonal.

    Returns:
        [N] float64, summing to 0.
    """
    distance_GG = unit_distances(distance_GG, "distance_GG", len(np.asarray(distance_GG)))
    num_samples = len(distance_GG)
    sums_G = distance_GG.sum(axis=1)
    mean_to_others_G = sums_G / (num_samples - 1)
    mean_among_others_G = (sums_G.sum() - 2 * sums_G) / ((num_samples - 1) * (num_samples - 2))
    return (2 / num_samples) * (mean_to_others_G - mean_among_others_G)


def _product_value(
    quality_sum: Floats, pair_sum: Floats, own_sum: Floats, num_samples: int, k: int
) -> Floats:
    """U_k of mean quality x mean pairwise distance, from sums over samples and pairs; elementwise."""
    pair_probability = k * (k - 1) / (num_samples * (num_samples - 1))
    triple_probability = pair_probability * (k - 2) / (num_samples - 2) if k > 2 else 0.0
    value = pair_probability * own_sum + triple_probability * (pair_sum * quality_sum - own_sum)
    return value * (2 / (k * k * (k - 1)))


def _meeting_probability(sizes_C: Integers, num_others: int, k: int) -> Floats:
    """Chance that k - 1 of `num_others` samples hold a member of a class of each size.

    A class larger than `num_others` leaves no other sample: that value is multiplied by 0.
    """
    return 1.0 - miss_probability(num_others, k - 1)[np.minimum(sizes_C, num_others)]
