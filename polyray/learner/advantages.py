"""Advantages of a batch: completions that take part, added rewards, the objective (objectives.py), the scale.

    scored completions --truncated: drop--> set --objective--> + length and KL rewards --scale--> advantages

Called by the learner step, and by rollout workers that must know whether a group has_signal (dynamic sampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from polyray.algorithms import (
    deviation,
    deviation_of_sums,
    focal_weight,
    has_signal,
    leave_one_out_advantages,
    mode_anchored_rewards,
    overlong_penalty,
    scheduled,
)
from polyray.algorithms.shaping import NO_CREDIT
from polyray.config.algorithm import AlgorithmSpec, GrpoSpec, PolychromicSpec, ReinforceSpec
from polyray.learner.objectives import OF_TYPE, SCALED_BY_OWN_STD, Samples, polychromic
from polyray.learner.reduce import Sums
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.types import ScoredGroup

ROUNDING = 1e-12
"""Advantages below are what equal rewards leave when their mean is subtracted."""


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages of one group. Completions that left the set have 0 in all entries and train nothing.

    Example:
        GroupAdvantages(advantages_G=np.array([.5, -.5]), quality_part_G=np.array([.5, -.5]),
                        diversity_part_G=np.zeros(2))
    """

    advantages_G: np.ndarray
    quality_part_G: np.ndarray
    diversity_part_G: np.ndarray

    def divided(self, by: float) -> GroupAdvantages:
        """All three over `by`."""
        return GroupAdvantages(self.advantages_G / by, self.quality_part_G / by, self.diversity_part_G / by)

    def times(self, factor: float) -> GroupAdvantages:
        """All three times `factor`."""
        parts = (self.advantages_G, self.quality_part_G, self.diversity_part_G)
        return GroupAdvantages(*(part * factor for part in parts))


@dataclass(frozen=True, slots=True)
class Measured:
    """The learner's measurements of a group's completions, each [G]; 0 means not measured.

    Example:
        Measured(kl_G=np.array([.1, .3]), log_weights_G=np.zeros(2))
    """

    kl_G: np.ndarray
    """k1 of the whole completion: log pi_rollout - log pi_reference, in nats."""
    log_weights_G: np.ndarray
    """log pi_learner - log pi_rollout of the whole completion."""


def algorithm_at(algorithm: AlgorithmSpec, step: int) -> AlgorithmSpec:
    """The objective of step `step` where k or lambda are annealed; k is rounded."""
    anneal = algorithm.anneal
    if anneal is None:
        return algorithm
    values: dict[str, float | int] = {}
    for name in ("set_size", "diversity_weight"):
        end = getattr(anneal, name)
        if end is not None:
            value = scheduled(getattr(algorithm, name), end, step, anneal.over_steps, anneal.shape)
            values[name] = round(value) if name == "set_size" else value
    return algorithm.at(values)


def valid_mask(group: ScoredGroup, algorithm: AlgorithmSpec) -> np.ndarray:
    """[G] bool: scored and, with `truncated: drop`, ended by itself."""
    if algorithm.truncated != "drop":
        return group.scored_mask_G
    return group.scored_mask_G & ~truncated_mask(group)


def truncated_mask(group: ScoredGroup) -> np.ndarray:
    """[G] bool: cut at the longest completion that was allowed."""
    return np.array([completion.finish_reason == "length" for completion in group.group.completions], bool)


def compute_advantages(
    group: ScoredGroup,
    algorithm: AlgorithmSpec,
    *,
    max_tokens: int | None = None,
    measured: Measured | None = None,
) -> GroupAdvantages:
    """The advantages of one group, all but the scale of a batch.

    `max_tokens` is the longest completion that can be sampled (needed by the overlong punishment). Raises ValueError
    where the objective cannot be computed from what there is.
    """
    take_G = valid_mask(group, algorithm)
    samples = _samples(group, take_G, measured)
    added = _added_rewards(group, algorithm, max_tokens, measured)[take_G]
    if isinstance(algorithm, GrpoSpec):  # its standard deviation is that of the whole reward
        rewards_G = _anchored_rewards(group, take_G, algorithm, measured)
        samples, added = replace(samples, rewards_G=rewards_G + added), np.zeros(len(added))
    parts = np.zeros((2, len(take_G)))
    if isinstance(algorithm, PolychromicSpec):
        result = polychromic(samples, algorithm)
        parts[0, take_G], parts[1, take_G] = result.quality_part_G, result.diversity_part_G
    else:
        parts[0, take_G] = OF_TYPE[algorithm.type](samples, algorithm)
    if added.any():
        parts[0, take_G] += leave_one_out_advantages(added)
    parts[np.abs(parts) < ROUNDING] = 0.0
    advantages = GroupAdvantages(parts.sum(axis=0), parts[0], parts[1])
    if algorithm.scale == "group" and algorithm.type not in SCALED_BY_OWN_STD:
        advantages = advantages.divided(deviation(advantages.advantages_G[take_G], algorithm.std))
    if isinstance(algorithm, GrpoSpec):
        correct_G = group.rewards_G[take_G] >= PASS_THRESHOLD
        return advantages.times(focal_weight(correct_G, algorithm.focal_gamma))
    return advantages


def scale_batch(
    groups: Sequence[ScoredGroup], advantages: Sequence[GroupAdvantages], algorithm: AlgorithmSpec
) -> list[GroupAdvantages]:
    """Divide every advantage by the standard deviation over all ranks, with `scale: batch`; otherwise return them
    as is.
    """
    if algorithm.scale != "batch":
        return list(advantages)
    sums = Sums(("advantage", "advantage_squared"))
    for group, of_group in zip(groups, advantages, strict=True):
        values = of_group.advantages_G[valid_mask(group, algorithm)]
        sums.add("advantage", float(values.sum()), len(values))
        sums.add("advantage_squared", float((values**2).sum()), len(values))
    sums.reduce()
    divisor = deviation_of_sums(
        sums.count("advantage"), sums.total("advantage"), sums.total("advantage_squared"), algorithm.std
    )
    return [of_group.divided(divisor) for of_group in advantages]


def group_has_signal(group: ScoredGroup, algorithm: AlgorithmSpec, max_tokens: int) -> bool:
    """Whether any completion trains by an advantage, or too few take part to say so (which is judged elsewhere).

    KL in the reward is known to the learner only. It differs between different completions, so it is a signal
    wherever there are two. Without a baseline equal advantages are one, too, unless they are 0.
    """
    take_G = valid_mask(group, algorithm)
    if take_G.sum() < algorithm.min_samples:
        return True
    if algorithm.truncated == "mask":
        take_G &= ~truncated_mask(group)
    if algorithm.kl_placement == "reward" and algorithm.kl_coefficient > 0:
        completions = zip(group.group.completions, take_G, strict=True)
        if len({completion.token_ids.tobytes() for completion, taken in completions if taken}) > 1:
            return True
    advantages_G = compute_advantages(group, algorithm, max_tokens=max_tokens).advantages_G
    if algorithm.truncated == "mask":
        return bool(np.any(np.abs(advantages_G[take_G]) > NO_CREDIT))
    return has_signal(advantages_G) or (isinstance(algorithm, ReinforceSpec) and bool(advantages_G.any()))


def _samples(group: ScoredGroup, take_G: np.ndarray, measured: Measured | None) -> Samples:
    completions = [c for c, taken in zip(group.group.completions, take_G, strict=True) if taken]
    logprobs = [c.rollout_logprobs.mean(dtype=np.float64) if len(c.token_ids) else 0.0 for c in completions]
    return Samples(
        group.group.group_id,
        group.rewards_G[take_G],
        group.classes_G[take_G],
        None if group.distances_GG is None else group.distances_GG[np.ix_(take_G, take_G)],
        tuple(c.token_ids.tolist() for c in completions),
        np.array(logprobs),
        measured.log_weights_G[take_G] if measured is not None else np.zeros(len(completions)),
    )


def _anchored_rewards(
    group: ScoredGroup, take_G: np.ndarray, algorithm: GrpoSpec, measured: Measured | None
) -> np.ndarray:
    """Rewards of the completions that take part, with `mode_threshold` those of MARA."""
    rewards_G = group.rewards_G[take_G]
    if algorithm.mode_threshold is None or measured is None:
        return rewards_G
    rollout_G = np.array([c.rollout_logprobs.sum(dtype=np.float64) for c in group.group.completions])
    reference_G = (rollout_G - measured.kl_G)[take_G]
    return mode_anchored_rewards(rewards_G, reference_G, algorithm.kl_coefficient, algorithm.mode_threshold)


def _added_rewards(
    group: ScoredGroup, algorithm: AlgorithmSpec, max_tokens: int | None, measured: Measured | None
) -> np.ndarray:
    """[G]: the punishment of long completions and the KL to the warm start, where they are part of the reward."""
    added = np.zeros(len(group.rewards_G))
    if algorithm.overlong_buffer and max_tokens is not None:
        lengths = [len(completion.token_ids) for completion in group.group.completions]
        added += algorithm.overlong_weight * overlong_penalty(lengths, max_tokens, algorithm.overlong_buffer)
    if algorithm.kl_placement == "reward" and measured is not None:
        added -= algorithm.kl_coefficient * measured.kl_G
    return added
