"""Advantages of single completions: GRPO, Dr.GRPO, leave-one-out (RLOO), MaxRL, and scales over a batch.

Not here: objectives of sets of completions (set_credits.py and its neighbours), what happens to rewards before
(shaping.py) and the loss (losses.py). Called by the learner, once per group. Suffix _G = completions of one
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, finite_vector

STD_EPSILON = 1e-6
"""Added to the standard deviation, so that a group of equal rewards has advantage 0."""


def group_advantages(
    rewards_G: npt.ArrayLike,
    scale: Literal["none", "std"] = "none",
    *,
    std: Literal["sample", "population"] = "sample",
) -> Floats:
    """Rewards minus their mean, optionally over their standard deviation.

    none: r - mean, Dr.GRPO (arXiv 2503.20783), unbiased up to (G-1)/G. std: (r - mean) / (std + 1e-6), GRPO
    (arXiv 2402.03300); it re-weights prompts. [1, 0, 0, 0] gives [.75, -.25, -.25, -.25] and, with the sample
    standard deviation, [1.5, -.5, -.5, -.5]; with the population's [1.732, -.577, -.577, -.577].

    Args:
        rewards_G: [G >= 2] finite rewards.
        scale: as above.
        std: ddof 1 (sample) or 0 (population).

    Returns:
        [G] float64.

    Raises:
        ValueError: fewer than 2 rewards, NaN, unknown scale or std.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    centred = rewards - rewards.mean()
    if scale == "none":
        return centred
    if scale == "std":
        return centred / (rewards.std(ddof=_ddof(std)) + STD_EPSILON)
    raise ValueError(f"scale={scale!r} must be 'none' or 'std'")


def leave_one_out_advantages(rewards_G: npt.ArrayLike) -> Floats:
    """Each reward minus the mean of the others (RLOO, arXiv 2402.14740): unbiased, G/(G-1) times r - mean.

    Args:
        rewards_G: [G >= 2] finite rewards.

    Returns:
        [G] float64.

    Raises:
        ValueError: fewer than 2 rewards, NaN.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    num_samples = len(rewards)
    return (rewards - rewards.mean()) * (num_samples / (num_samples - 1))


def maximum_likelihood_advantages(rewards_G: npt.ArrayLike) -> Floats:
    """(r - mean) / mean, 0 where no reward is positive: MaxRL (arXiv 2602.02710).

    For rewards in {0, 1} the mean over samples of A_i grad log pi(y_i) has the expectation
    sum_{j=0}^{G-2} (1 - p)^j grad p, the gradient of log p with its series cut after G - 1 terms: prompts that are
    rarely solved weigh more, and with many samples it is maximum likelihood.

    Args:
        rewards_G: [G >= 2] finite, not negative.

    Returns:
        [G] float64.

    Raises:
        ValueError: fewer than 2 rewards, NaN, negative rewards.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    if rewards.min() < 0:
        raise ValueError(
            f"rewards_G has the value {rewards.min()}; this objective needs rewards of at least 0"
        )
    mean = rewards.mean()
    return (rewards - mean) / mean if mean > 0 else np.zeros(len(rewards))


def batch_scaled(
    advantages: Sequence[npt.ArrayLike], *, std: Literal["sample", "population"] = "sample"
) -> list[Floats]:
    """Every group's advantages over one standard deviation, that of all advantages of the batch, + 1e-6.

    Unlike the scale of a group it leaves the prompts their relative weight: the direction of the gradient stays.

    Args:
        advantages: groups of any sizes, finite, two values or more in all.
        std: ddof 1 (sample) or 0 (population).

    Raises:
        ValueError: NaN, fewer than 2 values, unknown std.
    """
    groups = [finite_vector(group, "advantages") for group in advantages]
    every = finite_vector(np.concatenate([*groups, np.empty(0)]), "advantages", at_least=2)
    deviation = every.std(ddof=_ddof(std)) + STD_EPSILON
    return [group / deviation for group in groups]


def _ddof(std: str) -> int:
    if std not in ("sample", "population"):
        raise ValueError(f"std={std!r} must be 'sample' or 'population'")
    return 1 if std == "sample" else 0
