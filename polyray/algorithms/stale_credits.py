"""Set credits of groups that an older policy sampled, and what they cost in bias.

Let w_i = pi(y_i) / mu(y_i), whole sequences. The value of a set under pi is the mean over mu of w_S f(S) with
w_S the PRODUCT of the weights of all members: the partners of a sample are stale, too. So

    set_product   credit_i = sum over S with i of w_S (f(S) - b_i) / C(N, k), b_i = mean of f over sets without i

is unbiased, with a variance that grows like E[w^2]^k; a cap on w_S trades it for bias. Weighting only sample i's
own credit (`sample`) is biased however small the cap. How much, by enumeration: the README beside this file.
Suffix _G = samples of one prompt.
"""

from __future__ import annotations

from math import comb, inf
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_group_size
from polyray.algorithms.polychromic import (
    GroupView,
    Objective,
    PolychromicAdvantages,
    group_view,
    set_values_of,
)
from polyray.algorithms.set_values import SetValues, mean_values
from polyray.algorithms.subset_credits import all_subsets
from polyray.metrics.arrays import Floats, finite_vector, unit_vector


def stale_set_credits(
    set_values: SetValues,
    log_weights_G: npt.ArrayLike,
    k: int,
    weights: Literal["sample", "set_product"] = "set_product",
    cap: float = inf,
) -> Floats:
    """Credits for the gradient at pi of samples drawn from mu, by enumeration of all subsets.

    Args:
        set_values: maps [M, k] sample indices, ascending in a row, to the values of these sets.
        log_weights_G: [N >= k + 1] log pi(y_i) - log mu(y_i), summed over tokens.
        k: set size.
        weights: as above.
        cap: largest weight, of a sample or of a set; infinity leaves them as they are.

    Returns:
        [N] float64; at equal policies those of `enumerated_set_credits`.

    Raises:
        ValueError: k > N - 1, NaN, cap not above 0, too many subsets, unknown weights.
    """
    log_weights = finite_vector(log_weights_G, "log_weights_G")
    num_samples = len(log_weights)
    check_group_size(k, num_samples)
    if not cap > 0:
        raise ValueError(f"cap={cap} must be above 0; 2 to 5 is usual")
    if weights not in ("sample", "set_product"):
        raise ValueError(f"weights={weights!r} must be 'sample' or 'set_product'")
    subsets_MK = all_subsets(num_samples, k)
    values_M = finite_vector(set_values(subsets_MK), "set_function")
    with_MG = np.zeros((len(subsets_MK), num_samples), dtype=np.bool_)
    np.put_along_axis(with_MG, subsets_MK, True, axis=1)
    baselines_G = (values_M @ ~with_MG) / comb(num_samples - 1, k)
    if weights == "sample":
        credits_G = (values_M @ with_MG) / len(subsets_MK) - baselines_G * (k / num_samples)
        return np.minimum(np.exp(log_weights), cap) * credits_G
    weights_M = np.minimum(np.exp(log_weights[subsets_MK].sum(axis=1)), cap)
    weighted_G = (weights_M * values_M) @ with_MG - baselines_G * (weights_M @ with_MG)
    return weighted_G / len(subsets_MK)


def stale_polychromic_advantages(
    quality_G: npt.ArrayLike,
    log_weights_G: npt.ArrayLike,
    *,
    objective: Objective,
    quality_weight: float,
    diversity_weight: float,
    set_size: int,
    view: GroupView,
    quality_floor: float = 0.0,
    weights: Literal["sample", "set_product"] = "set_product",
    cap: float = inf,
) -> PolychromicAdvantages:
    """`polychromic_advantages` of a group that an older policy sampled, by enumeration of all sets.

    Args:
        quality_G: [N >= set_size + 1] in [0, 1].
        log_weights_G: [N] as in `stale_set_credits`, like weights and cap.
        objective: which D; the other arguments are those of `polychromic_advantages`.
    """
    quality = unit_vector(quality_G, "quality_G", at_least=2)
    floored = group_view(quality, objective, view, quality_floor)
    values = (mean_values(quality), set_values_of(objective, quality, floored))
    quality_part, diversity_part = (
        weight * len(quality) * stale_set_credits(value, log_weights_G, set_size, weights, cap)
        for weight, value in zip((quality_weight, diversity_weight), values, strict=True)
    )
    return PolychromicAdvantages(quality_part + diversity_part, quality_part, diversity_part)
