"""Which advantages a group's completions get: from `algorithm` in the configuration to polyray.algorithms.

Unscored completions leave the group first, so an objective of sets sees N - 1 samples. Called once per group by the
learner step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.algorithms import (
    best_minus_second_advantages,
    darling_advantages,
    group_advantages,
    leave_one_out_advantages,
    maximum_likelihood_advantages,
    pass_at_k_training_advantages,
    pkpo_advantages,
    poly_epo_advantages,
    polychromic_advantages,
    shaped_advantages,
    shared_set_advantages,
    unlikeliness_advantages,
)
from polyray.config.algorithm import AlgorithmSpec, PolychromicSpec
from polyray.types import WRONG_CLASS, ScoredGroup

PASS_THRESHOLD = 1 - 1e-9
"""Rewards from here on are correct."""


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """What a group teaches. Unscored completions left the set: their entries are 0 and they train nothing.

    Example:
        GroupAdvantages(advantages_G=np.array([.5, -.5]), quality_part_G=np.array([.5, -.5]),
                        diversity_part_G=np.zeros(2))
    """

    advantages_G: np.ndarray
    quality_part_G: np.ndarray
    diversity_part_G: np.ndarray


@dataclass(frozen=True, slots=True)
class Samples:
    """The scored completions of a group, as arrays.

    Example:
        Samples(group_id=4, rewards_G=np.array([1., 0.]), classes_G=np.array([3, -1]), distances_GG=None,
                tokens_G=([5, 2], [7, 2]), mean_logprobs_G=np.array([-.5, -1.]))
    """

    group_id: int
    rewards_G: np.ndarray
    classes_G: np.ndarray
    distances_GG: np.ndarray | None
    tokens_G: tuple[list[int], ...]
    mean_logprobs_G: np.ndarray


def compute_advantages(group: ScoredGroup, algorithm: AlgorithmSpec) -> GroupAdvantages:
    """The advantages of one group, from its scored completions only."""
    scored_G = group.scored_mask_G
    samples = scored_samples(group)
    parts = np.zeros((3, len(scored_G)))
    if isinstance(algorithm, PolychromicSpec):
        result = _polychromic(samples, algorithm)
        parts[0, scored_G] = result.advantages_G
        parts[1, scored_G] = result.quality_part_G
        parts[2, scored_G] = result.diversity_part_G
    else:
        parts[0, scored_G] = parts[1, scored_G] = OF_TYPE[algorithm.type](samples, algorithm)
    return GroupAdvantages(parts[0], parts[1], parts[2])


def scored_samples(group: ScoredGroup) -> Samples:
    """What objectives may look at, without the unscored completions."""
    scored_G = group.scored_mask_G
    completions = [c for c, scored in zip(group.group.completions, scored_G, strict=True) if scored]
    return Samples(
        group.group.group_id,
        group.rewards_G[scored_G],
        group.classes_G[scored_G],
        None if group.distances_GG is None else group.distances_GG[np.ix_(scored_G, scored_G)],
        tuple(c.token_ids.tolist() for c in completions),
        np.array(
            [c.rollout_logprobs.mean(dtype=np.float64) if len(c.token_ids) else 0.0 for c in completions]
        ),
    )


def _polychromic(samples: Samples, spec: PolychromicSpec):  # type: ignore[no-untyped-def]
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
    return pass_at_k_training_advantages(correct_G, spec.set_size, scale=spec.scale)


def _distances(samples: Samples) -> np.ndarray:
    if samples.distances_GG is None:
        raise ValueError(
            f"group {samples.group_id} came without distances, which the objective needs; set diversity.source to "
            "task_distance, or use a reward service that returns them"
        )
    return samples.distances_GG


def _rng(samples: Samples) -> np.random.Generator:
    """Of the group, so that a resumed run draws the same sets."""
    return np.random.default_rng(samples.group_id)


OF_TYPE: dict[str, Callable[[Samples, Any], np.ndarray]] = {
    "grpo": lambda s, spec: group_advantages(s.rewards_G, scale=spec.scale, std=spec.std),
    "rloo": lambda s, spec: leave_one_out_advantages(s.rewards_G),
    "maxrl": lambda s, spec: maximum_likelihood_advantages(s.rewards_G),
    "best_minus_second": lambda s, spec: best_minus_second_advantages(s.rewards_G, spec.scale),
    "pass_at_k": _pass_at_k,
    # PKPO's weights sum over samples, the loss averages over them.
    "pkpo": lambda s, spec: len(s.rewards_G) * pkpo_advantages(s.rewards_G, spec.set_size, spec.variant),
    "poly_epo": lambda s, spec: poly_epo_advantages(s.rewards_G, s.classes_G, spec.set_size, spec.scale),
    "polychromic_ppo": _polychromic_ppo,
    "shaped": lambda s, spec: shaped_advantages(s.rewards_G, _distances(s), spec.diversity_weight),
    "darling": lambda s, spec: darling_advantages(s.rewards_G, _distances(s), spec.combine),
    "unlikeliness": lambda s, spec: unlikeliness_advantages(
        s.rewards_G, s.mean_logprobs_G, spec.penalty, spec.scale
    ),
}
"""By `algorithm.type`; `polychromic` apart, because it has two parts."""
