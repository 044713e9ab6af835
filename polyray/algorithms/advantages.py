"""Advantages of single completions within a group: GRPO, Dr.GRPO, leave-one-out (RLOO).

Not here: objectives of sets of completions (set_credits.py) and the loss (losses.py). Called by the learner,
once per group. Suffix _G = completions of one prompt.
"""

from __future__ import annotations

from typing import Literal

import numpy.typing as npt

from polyray.metrics.arrays import Floats, finite_vector

STD_EPSILON = 1e-6
"""Added to the standard deviation, so that a group of equal rewards has advantage 0."""


def group_advantages(rewards_G: npt.ArrayLike, scale: Literal["none", "std"] = "none") -> Floats:
    """Rewards minus their mean, optionally over their sample standard deviation.

    none: r - mean, Dr.GRPO (arXiv 2503.20783), unbiased up to (G-1)/G. std: (r - mean) / (std + 1e-6) with
    ddof = 1, GRPO (arXiv 2402.03300); it re-weights prompts. [1, 0, 0, 0] gives [.75, -.25, -.25, -.25] and
    [1.5, -.5, -.5, -.5].

    Args:
        rewards_G: [G >= 2] finite rewards.

    Returns:
        [G] float64.

    Raises:
        ValueError: fewer than 2 rewards, NaN, unknown scale.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    centred = rewards - rewards.mean()
    if scale == "none":
        return centred
    if scale == "std":
        return centred / (rewards.std(ddof=1) + STD_EPSILON)
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
