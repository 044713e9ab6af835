"""The set objective of a run: F = quality_weight x mean quality + diversity_weight x D over sets of k.

Composes the credits of set_credits.py and its neighbours into advantages, with the share each part has. Here is
the one list of what D can be; polyray.config.algorithm offers the same names. Called by the learner, once per
group. Suffix _G = samples of one prompt, _GG = pairs of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.advantages import leave_one_out_advantages
from polyray.algorithms.checks import check_group_size, check_weight
from polyray.algorithms.class_credits import (
    coverage_set_credits,
    distinct_correct_set_credits,
    entropy_set_credits,
    simpson_set_credits,
)
from polyray.algorithms.kernel_credits import (
    determinant_set_credits,
    gated_distances,
    is_semidefinite,
    member_facility_set_credits,
)
from polyray.algorithms.order_credits import max_set_credits
from polyray.algorithms.set_credits import (
    cluster_set_credits,
    mean_distance_credits,
    product_set_credits,
)
from polyray.algorithms.set_values import (
    SetValues,
    class_values,
    determinant_values,
    distance_values,
    max_values,
    one_by_one,
)
from polyray.algorithms.shaping import (
    floored_classes,
    floored_distances,
    floored_kernel,
    present_samples,
)
from polyray.algorithms.subset_credits import (
    SetFunction,
    balanced_set_credits,
    determinant_value,
    distinct_n_value,
    logdet_value,
    self_bleu_value,
    vendi_value,
)
from polyray.metrics.arrays import Floats, unit_distances, unit_vector

Objective = Literal[
    "pairwise", "product", "gated", "cluster", "distinct_correct", "coverage", "max", "entropy", "simpson",
    "facility", "determinant", "logdet", "vendi", "distinct_n", "self_bleu",
]  # fmt: skip
OF_CLASSES = ("cluster", "distinct_correct", "coverage", "entropy", "simpson")
OF_DISTANCES = ("pairwise", "product", "gated", "facility", "determinant", "logdet", "vendi")
OF_KERNEL = ("facility", "determinant", "logdet", "vendi")
OF_TOKENS = ("distinct_n", "self_bleu")
OF_EVALUATION = ("logdet", "vendi", *OF_TOKENS)
"""Objectives without a closed form."""
OBJECTIVES = (*OF_CLASSES, *OF_DISTANCES, "max", *OF_TOKENS)
NUM_SUBSETS = 70
"""Subsets of an objective without a closed form: all subsets of 4 of 8, a balanced sample of larger groups."""


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
    """[G], from diversity_weight x D."""


@dataclass(frozen=True, slots=True)
class GroupView:
    """Inputs of set objectives; each objective needs some of them; see `group_view`.

    Example:
        GroupView(classes_G=np.array([3, 3, -1]), distance_GG=None, tokens_G=())
    """

    classes_G: npt.ArrayLike | None = None
    """[N] whole numbers, -1 for samples that never count."""
    distance_GG: npt.ArrayLike | None = None
    """[N, N] in [0, 1], symmetric, zero diagonal; similarities are 1 - distance."""
    tokens_G: Sequence[Sequence[int] | None] = ()
    """[N] token sequences; None for absent samples."""


def polychromic_advantages(
    quality_G: npt.ArrayLike,
    *,
    objective: Objective,
    quality_weight: float,
    diversity_weight: float,
    set_size: int,
    classes_G: npt.ArrayLike | None = None,
    distance_GG: npt.ArrayLike | None = None,
    tokens_G: Sequence[Sequence[int] | None] = (),
    quality_floor: float = 0.0,
    num_subsets: int = NUM_SUBSETS,
    rng: np.random.Generator | None = None,
) -> PolychromicAdvantages:
    """N x credit of F = quality_weight x mean quality + diversity_weight x D over sets of `set_size`.

    D, all in [0, 1] but logdet: pairwise = mean pairwise distance; product = mean quality x that; gated = mean of
    d_ij q_i q_j; cluster = mean quality x distinct classes / k (Poly-EPO); distinct_correct = distinct classes / k;
    coverage = sum over classes of the best quality / k; max = best quality; entropy and simpson of the classes;
    facility = best similarity of one more sample to the set; determinant, logdet and vendi of the similarities;
    distinct_n = share of different bigrams; self_bleu = 1 - mean BLEU against the others. With diversity_weight 0
    and quality_weight 1 it is `leave_one_out_advantages`.

    For objectives of kernels and of tokens a sample of class -1 is absent, and so is one below the floor: it takes a
    place in a set and adds nothing (`floored_kernel`, `distinct_n_value`, `self_bleu_value`).

    Args:
        quality_G: [N >= set_size + 1] in [0, 1].
        objective: which D.
        quality_weight: of mean quality, not negative.
        diversity_weight: lambda of the named objective, not negative.
        set_size: k, at least 2.
        classes_G: [N], needed by cluster, distinct_correct, coverage, entropy, simpson; objectives of kernels and of
            tokens only look which are -1, and without it all samples are right.
        distance_GG: [N, N], needed by pairwise, product, gated, facility, determinant, logdet, vendi.
        tokens_G: [N], needed by distinct_n and self_bleu.
        quality_floor: below it a sample has no class and no distance: its diversity pays nothing. Not for max, which
            has no diversity.
        num_subsets: how many sets logdet, vendi, distinct_n and self_bleu are evaluated on, at least; and determinant
            where the kernel is not positive semi-definite.
        rng: chooses them; needed where there are more subsets than that.

    Raises:
        ValueError: what the credits refuse, an unknown objective, or something missing that it needs.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=2)
    check_group_size(set_size, len(quality), at_least=2)
    check_weight(quality_weight, "quality_weight")
    check_weight(diversity_weight, "diversity_weight")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r} must be one of {', '.join(map(repr, OBJECTIVES))}")
    quality_part = quality_weight * leave_one_out_advantages(quality)
    diversity_part = np.zeros(len(quality))
    if diversity_weight != 0:
        view = group_view(quality, objective, GroupView(classes_G, distance_GG, tokens_G), quality_floor)
        credits_G = _diversity_credits(quality, objective, set_size, view, num_subsets, rng)
        diversity_part = (diversity_weight * len(quality)) * credits_G
    return PolychromicAdvantages(quality_part + diversity_part, quality_part, diversity_part)


def poly_epo_advantages(
    quality_G: npt.ArrayLike,
    classes_G: npt.ArrayLike,
    k: int,
    scale: Literal["unbiased", "mean", "sum"] = "unbiased",
) -> Floats:
    """Poly-EPO (arXiv 2604.17654): mean quality x distinct classes / k, at the scale of one's choice.

    unbiased: N x credit. mean: the paper's Eq. 8, the mean of f(G) - f_hat over the sets with i, which is
    (N - k) / k credits. sum: their sum, C(N-1, k) credits (Prop. 3.1). The direction is the same.

    Args:
        quality_G: [N >= k + 1] in [0, 1].
        classes_G: [N] whole numbers; -1 (gibberish, wrong) never counts.
        k: set size.
        scale: as above.
    """
    credits_G = cluster_set_credits(quality_G, classes_G, k)
    num_samples = len(credits_G)
    factors = {"unbiased": num_samples, "mean": (num_samples - k) / k, "sum": comb(num_samples - 1, k)}
    if scale not in factors:
        raise ValueError(f"scale={scale!r} must be 'unbiased', 'mean' or 'sum'")
    return factors[scale] * credits_G


def set_values_of(objective: Objective, quality: Floats, view: GroupView) -> SetValues:
    """The values of D on given sets, from what `group_view` returned."""
    if objective == "facility":
        raise ValueError("objective='facility': a set has no value of its own, only for an anchor outside it")
    distance = np.asarray(view.distance_GG, dtype=np.float64)
    if objective == "max":
        return max_values(quality)
    if objective in OF_CLASSES:
        return class_values(objective, quality, np.asarray(view.classes_G))
    if objective == "determinant":
        return determinant_values(distance)
    if objective in OF_EVALUATION:
        return one_by_one(_set_function(objective, view))
    return distance_values(objective, quality, distance)


def group_view(quality: Floats, objective: Objective, view: GroupView, floor: float) -> GroupView:
    """Checked inputs of `objective`, without diversity below the floor; similarities for kernel objectives."""
    classes_G, distance_GG, tokens_G = view.classes_G, view.distance_GG, view.tokens_G
    if objective == "max" and floor > 0:
        raise ValueError(
            f"quality_floor={floor} with objective='max': the best quality holds no diversity that a floor could "
            "take; set quality_floor=0"
        )
    if objective in OF_CLASSES:
        if classes_G is None:
            raise ValueError(f"objective={objective!r} but classes_G is None; give one class per sample")
        classes_G = floored_classes(quality, classes_G, floor)
    if objective in OF_DISTANCES:
        if distance_GG is None:
            raise ValueError(f"objective={objective!r} but distance_GG is None; give the pairwise distances")
        distance_GG = unit_distances(distance_GG, "distance_GG", len(quality))
        if objective in OF_KERNEL:
            distance_GG = floored_kernel(quality, distance_GG, floor, classes_G)
        else:
            distance_GG = floored_distances(quality, distance_GG, floor)
    if objective in OF_TOKENS:
        if len(tokens_G) != len(quality):
            raise ValueError(
                f"objective={objective!r} but tokens_G has {len(tokens_G)} sequences for {len(quality)} samples"
            )
        present_G = present_samples(quality, classes_G, floor)
        tokens_G = [row if here else None for row, here in zip(tokens_G, present_G, strict=True)]
    return GroupView(classes_G, distance_GG, tokens_G)


def _diversity_credits(
    quality: Floats,
    objective: Objective,
    k: int,
    view: GroupView,
    num_subsets: int,
    rng: np.random.Generator | None,
) -> Floats:
    if objective == "max":
        return max_set_credits(quality, k)
    if view.classes_G is not None and objective in OF_CLASSES:
        if objective == "cluster":
            return cluster_set_credits(quality, view.classes_G, k)
        if objective == "coverage":
            return coverage_set_credits(quality, view.classes_G, k)
        of_classes = {
            "distinct_correct": distinct_correct_set_credits,
            "entropy": entropy_set_credits,
            "simpson": simpson_set_credits,
        }
        return of_classes[objective](view.classes_G, k)
    distance = kernel = np.asarray(view.distance_GG, dtype=np.float64)
    if objective == "pairwise":
        return mean_distance_credits(distance)
    if objective == "product":
        return product_set_credits(quality, distance, k)
    if objective == "gated":
        return mean_distance_credits(gated_distances(quality, distance))
    if objective == "determinant" and is_semidefinite(kernel):
        return determinant_set_credits(kernel, k)
    if objective == "facility":
        return member_facility_set_credits(kernel, k)
    set_function = _set_function(objective, view)
    if rng is None and num_subsets < comb(len(quality), k):
        raise ValueError(
            f"objective={objective!r} has no closed form and {comb(len(quality), k)} subsets, more than "
            f"num_subsets={num_subsets}: give an rng to draw them with, or raise num_subsets"
        )
    return balanced_set_credits(set_function, len(quality), k, num_subsets, rng or np.random.default_rng(0))


def _set_function(objective: Objective, view: GroupView) -> SetFunction:
    """Set function of an objective without a closed form."""
    if objective in OF_TOKENS:
        return (distinct_n_value if objective == "distinct_n" else self_bleu_value)(view.tokens_G)
    of_kernel = {"determinant": determinant_value, "logdet": logdet_value, "vendi": vendi_value}
    return of_kernel[objective](np.asarray(view.distance_GG, np.float64))
