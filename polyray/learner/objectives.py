"""Advantage function of polyray.algorithms for each `algorithm.type`.

Not here: which completions take part, length and KL rewards, scale (advantages.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from polyray.algorithms import (
    GroupView,
    PolychromicAdvantages,
    best_minus_second_advantages,
    crowding_marginals,
    darling_advantages,
    deviation,
    gapo_advantages,
    group_advantages,
    leave_one_out_advantages,
    maximum_likelihood_advantages,
    pass_at_k_training_advantages,
    pkpo_advantages,
    poly_epo_advantages,
    polychromic_advantages,
    rare_advantages,
    reinforce_advantages,
    shaped_advantages,
    shared_set_advantages,
    stale_polychromic_advantages,
    ucpo_advantages,
    unlikeliness_advantages,
)
from polyray.config.algorithm import PolychromicSpec
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.types import WRONG_CLASS


@dataclass(frozen=True, slots=True)
class Samples:
    """The completions of a group that take part, as arrays.

    Example:
        Samples(group_id=4, rewards_G=np.array([1., 0.]), classes_G=np.array([3, -1]), distances_GG=None,
                tokens_G=([5, 2], [7, 2]), mean_logprobs_G=np.array([-.5, -1.]), log_weights_G=np.zeros(2))
    """

    group_id: int
    rewards_G: np.ndarray
    classes_G: np.ndarray
    distances_GG: np.ndarray | None
    tokens_G: tuple[list[int], ...]
    mean_logprobs_G: np.ndarray
    log_weights_G: np.ndarray
    """log pi_learner(y) - log pi_rollout(y), whole completions; 0 where it was not measured."""


def polychromic(samples: Samples, spec: PolychromicSpec) -> PolychromicAdvantages:
    """Advantages with their two parts, so that their shares can be logged."""
    if spec.stale_weights != "token":
        return stale_polychromic_advantages(
            samples.rewards_G,
            samples.log_weights_G,
            objective=spec.objective,
            quality_weight=spec.quality_weight,
            diversity_weight=spec.diversity_weight,
            set_size=spec.set_size,
            view=GroupView(samples.classes_G, samples.distances_GG, samples.tokens_G),
            quality_floor=spec.quality_floor,
            weights=spec.stale_weights,
            cap=spec.stale_weight_cap,
        )
    return polychromic_advantages(
        samples.rewards_G,
        objective=spec.objective,
        quality_weight=spec.quality_weight,
        diversity_weight=spec.diversity_weight,
        set_size=spec.set_size,
        classes_G=samples.classes_G,
        distance_GG=samples.distances_GG,
        tokens_G=samples.tokens_G,
        quality_floor=spec.quality_floor,
        num_subsets=spec.num_subsets,
        rng=_rng(samples),
    )


def _polychromic_ppo(samples: Samples, spec: Any) -> np.ndarray:
    def value(members: tuple[int, ...]) -> float:
        index = list(members)
        classes = set(samples.classes_G[index].tolist()) - {WRONG_CLASS}
        return float(samples.rewards_G[index].mean()) * len(classes) / len(index)

    return shared_set_advantages(
        value,
        len(samples.rewards_G),
        spec.set_size,
        spec.num_sets,
        _rng(samples),
        unbiased_scale=spec.unbiased_scale,
    )


def _pass_at_k(samples: Samples, spec: Any) -> np.ndarray:
    correct_G = samples.rewards_G >= PASS_THRESHOLD
    return pass_at_k_training_advantages(correct_G, spec.set_size, scale=_own_scale(spec))


def _own_scale(spec: Any) -> Literal["std", "none"]:
    return "std" if spec.scale == "group" else "none"


def _rare(samples: Samples, spec: Any) -> np.ndarray:
    advantages = rare_advantages(samples.rewards_G, samples.classes_G, spec.alpha)
    return advantages / _deviation_before(samples.rewards_G, spec)


def _ucpo(samples: Samples, spec: Any) -> np.ndarray:
    correct_G = (samples.rewards_G >= PASS_THRESHOLD).astype(np.float64)
    return ucpo_advantages(correct_G, samples.mean_logprobs_G, spec.tau) / _deviation_before(correct_G, spec)


def _setpo(samples: Samples, spec: Any) -> np.ndarray:
    quality_G = group_advantages(samples.rewards_G) / _deviation_before(samples.rewards_G, spec)
    return quality_G + spec.diversity_weight * crowding_marginals(_distances(samples))


def _deviation_before(rewards_G: np.ndarray, spec: Any) -> float:
    """Divisor of objectives that change or add to normalised advantages."""
    return deviation(rewards_G, spec.std) if spec.scale == "group" else 1.0


def _distances(samples: Samples) -> np.ndarray:
    if samples.distances_GG is None:
        raise ValueError(
            f"group {samples.group_id} came without distances, which the objective needs; set diversity.source to "
            "task_distance, or use a reward service that returns them"
        )
    return samples.distances_GG


def _rng(samples: Samples) -> np.random.Generator:
    """Random generator of the group, so that a resumed run draws the same sets."""
    return np.random.default_rng(samples.group_id)


OF_TYPE: dict[str, Callable[[Samples, Any], np.ndarray]] = {
    "grpo": lambda s, spec: group_advantages(s.rewards_G),
    "rloo": lambda s, spec: leave_one_out_advantages(s.rewards_G),
    "maxrl": lambda s, spec: maximum_likelihood_advantages(s.rewards_G),
    "reinforce": lambda s, spec: reinforce_advantages(s.rewards_G, spec.positive_weight),
    "best_minus_second": lambda s, spec: best_minus_second_advantages(s.rewards_G, _own_scale(spec)),
    "pass_at_k": _pass_at_k,
    # PKPO's weights sum over samples, the loss averages over them.
    "pkpo": lambda s, spec: len(s.rewards_G) * pkpo_advantages(s.rewards_G, spec.set_size, spec.variant),
    "poly_epo": lambda s, spec: poly_epo_advantages(
        s.rewards_G, s.classes_G, spec.set_size, spec.credit_scale
    ),
    "polychromic_ppo": _polychromic_ppo,
    "setpo": _setpo,
    "shaped": lambda s, spec: shaped_advantages(s.rewards_G, _distances(s), spec.diversity_weight),
    "darling": lambda s, spec: darling_advantages(s.rewards_G, _distances(s), spec.combine),
    "unlikeliness": lambda s, spec: unlikeliness_advantages(s.rewards_G, s.mean_logprobs_G, spec.penalty),
    "rare": _rare,
    "ucpo": _ucpo,
    "gapo": lambda s, spec: gapo_advantages(s.rewards_G, s.classes_G, spec.num_answers),
}
"""Advantage function of each `algorithm.type`; `polychromic` is separate, because it has two parts."""

SCALED_BY_OWN_STD = ("pass_at_k", "best_minus_second", "rare", "ucpo", "setpo")
"""Objectives for which `scale: group` is part of the formula."""
