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

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb, isfinite
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.advantages import leave_one_out_advantages
from polyray.metrics.arrays import (
    Floats,
    Integers,
    check_set_size,
    integer_vector,
    unit_distances,
    unit_vector,
)
from polyray.metrics.combinatorics import miss_probability
from polyray.types import WRONG_CLASS

Objective = Literal["pairwise", "product", "cluster"]

MAX_ENUMERATED_SUBSETS = 1_000_000


@dataclass(frozen=True, slots=True)
class PolychromicAdvantages:
    """Advantages of one group and the two parts they are the sum of.

    Example:
        PolychromicAdvantages(advantages_G=np.array([.9, -.9, 0.]), quality_part_G=np.array([1., -.5, -.5]),
                              diversity_part_G=np.array([-.1, -.4, .5]))
    """

    advantages_G: Floats
    """[G], N x credit of F."""
    quality_part_G: Floats
    """[G], from quality_weight x mean quality."""
    diversity_part_G: Floats
    """[G], from diversity_weight x D_obj."""


def mean_quality_credits(quality_G: npt.ArrayLike) -> Floats:
    """Credits of f = mean quality, for every k: (q_i - mean of the others) / N, which is RLOO / N.

    Args:
        quality_G: [N >= 2] in [0, 1].

    Returns:
        [N] float64, summing to 0.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=2)
    return leave_one_out_advantages(quality) / len(quality)


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
    _check_weight(diversity_weight, "diversity_weight")
    quality_credits = leave_one_out_advantages(quality) / len(quality)
    return quality_credits + diversity_weight * _mean_distance_credits(distance)


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
    _check_k(k, len(quality), at_least=2)
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
    _check_k(k, num_samples)
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


def enumerated_set_credits(
    set_function: Callable[[tuple[int, ...]], float], num_samples: int, k: int
) -> Floats:
    """Credits of any symmetric set function, by calling it on all C(N, k) subsets.

    Args:
        set_function: maps k ascending sample indices to the value of that set.
        num_samples: N >= k + 1.
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, more than a million subsets, or a value that is not finite.
    """
    _check_k(k, num_samples)
    num_subsets = comb(num_samples, k)
    if num_subsets > MAX_ENUMERATED_SUBSETS:
        raise ValueError(
            f"num_samples={num_samples}, k={k}: {num_subsets} subsets exceed {MAX_ENUMERATED_SUBSETS}; "
            "use a smaller k or an objective with a closed form"
        )
    total, including_G = 0.0, np.zeros(num_samples)
    for subset in combinations(range(num_samples), k):
        value = float(set_function(subset))
        if not isfinite(value):
            raise ValueError(f"set_function{subset} is {value}; every set needs a finite value")
        total += value
        including_G[list(subset)] += value
    num_including = comb(num_samples - 1, k - 1)
    mean_with_G = including_G / num_including
    mean_without_G = (total - including_G) / (num_subsets - num_including)
    return (k / num_samples) * (mean_with_G - mean_without_G)


def polychromic_advantages(
    quality_G: npt.ArrayLike,
    *,
    objective: Objective,
    quality_weight: float,
    diversity_weight: float,
    set_size: int,
    classes_G: npt.ArrayLike | None = None,
    distance_GG: npt.ArrayLike | None = None,
) -> PolychromicAdvantages:
    """N x credit of F = quality_weight x mean quality + diversity_weight x D_obj over sets of `set_size`.

    D_obj: pairwise = mean pairwise distance; product = mean quality x mean pairwise distance; cluster = mean
    quality x distinct classes / set_size. With diversity_weight 0 and quality_weight 1 it is
    `leave_one_out_advantages`.

    Args:
        quality_G: [N >= set_size + 1] in [0, 1].
        objective: which D_obj.
        quality_weight: of mean quality.
        diversity_weight: lambda of the named objective.
        set_size: k, at least 2.
        classes_G: [N], needed by cluster unless diversity_weight is 0.
        distance_GG: [N, N], needed by pairwise and product unless diversity_weight is 0.

    Raises:
        ValueError: what the credits refuse, an unknown objective, or missing classes or distances.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=2)
    _check_k(set_size, len(quality), at_least=2)
    _check_weight(quality_weight, "quality_weight")
    _check_weight(diversity_weight, "diversity_weight")
    if objective not in ("pairwise", "product", "cluster"):
        raise ValueError(f"objective={objective!r} must be 'pairwise', 'product' or 'cluster'")
    quality_part = quality_weight * leave_one_out_advantages(quality)
    diversity_part = np.zeros(len(quality))
    if diversity_weight != 0:
        credits_G = _diversity_credits(quality, objective, set_size, classes_G, distance_GG)
        diversity_part = (diversity_weight * len(quality)) * credits_G
    return PolychromicAdvantages(quality_part + diversity_part, quality_part, diversity_part)


def _diversity_credits(
    quality: Floats,
    objective: Objective,
    set_size: int,
    classes_G: npt.ArrayLike | None,
    distance_GG: npt.ArrayLike | None,
) -> Floats:
    if objective == "cluster":
        if classes_G is None:
            raise ValueError("objective='cluster' but classes_G is None; give one class per sample")
        return cluster_set_credits(quality, classes_G, set_size)
    if distance_GG is None:
        raise ValueError(f"objective={objective!r} but distance_GG is None; give the pairwise distances")
    if objective == "product":
        return product_set_credits(quality, distance_GG, set_size)
    return _mean_distance_credits(unit_distances(distance_GG, "distance_GG", len(quality)))


def _mean_distance_credits(distance_GG: Floats) -> Floats:
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

    A class larger than `num_others` leaves no outsider who could meet it: that value is multiplied by 0.
    """
    return 1.0 - miss_probability(num_others, k - 1)[np.minimum(sizes_C, num_others)]


def _check_k(k: int, num_samples: int, *, at_least: int = 1) -> None:
    check_set_size(
        k,
        num_samples - 1,
        f"N={num_samples} samples must be at least k + 1 for an unbiased credit; sample more or lower k",
        at_least=at_least,
    )


def _check_weight(weight: float, name: str) -> None:
    if not isfinite(weight):
        raise ValueError(f"{name}={weight} must be a finite number")
