"""Advantages of single completions: GRPO, Dr.GRPO, RLOO, MaxRL, W-REINFORCE, and scales over a batch.

Not here: objectives of sets of completions (set_credits.py and its neighbours), what happens to rewards before
(shaping.py) and the loss (losses.py). Called by the learner, once per group. Suffix _G = completions of one
prompt.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_weight
from polyray.metrics.arrays import Floats, binary_vector, finite_vector, integer_vector, unit_vector

Std = Literal["sample", "population"]
STD_EPSILON = 1e-6
"""Added to the standard deviation, so that a group of equal rewards has advantage 0."""


def group_advantages(rewards_G: npt.ArrayLike) -> Floats:
    """Rewards minus their mean: Dr.GRPO (arXiv 2503.20783), unbiased up to (G-1)/G.

    [1, 0, 0, 0] gives [.75, -.25, -.25, -.25]. GRPO (arXiv 2402.03300) divides by `deviation`.

    Args:
        rewards_G: [G >= 2] finite rewards.

    Returns:
        [G] float64.

    Raises:
        ValueError: fewer than 2 rewards, NaN.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    return rewards - rewards.mean()


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


def reinforce_advantages(rewards_G: npt.ArrayLike, positive_weight: float = 1.0) -> Floats:
    """positive_weight x r - (1 - r): REINFORCE without a baseline from the group (arXiv 2506.01347).

    A right sample gets positive_weight and a wrong one -1; a graded reward is the share of a right sample. Weight 0
    is the paper's NSR, 0.1 its W-REINFORCE, 1 rewards of +1 and -1. All are (1 + positive_weight) (r - b) with the
    constant b = 1 / (1 + positive_weight), so their expected gradient is that of (1 + positive_weight) E r. The
    weight decides what a finite group teaches: NSR leaves right samples alone and pushes wrong ones down.

    Args:
        rewards_G: [G] in [0, 1].
        positive_weight: weight of right samples beside wrong ones, not negative.

    Returns:
        [G] float64. The sum is not 0.

    Raises:
        ValueError: rewards outside [0, 1], a negative weight.
    """
    rewards = unit_vector(rewards_G, "rewards_G")
    check_weight(positive_weight, "positive_weight")
    return positive_weight * rewards - (1 - rewards)


def focal_weight(correct_G: npt.ArrayLike, gamma: float) -> float:
    """(1 - share of right samples) ** gamma: F-GRPO's factor of a group's advantages (arXiv 2602.06717).

    Groups that are solved often weigh less; gamma 0 is a factor of 1. It re-weights prompts: with `group_advantages`
    and gamma 1 the expected gradient is that of E r times (N - 1) (N - 1 - (N - 2) p) / N^2, about 1 - p.

    Args:
        correct_G: [N] 0 or 1.
        gamma: not negative.

    Raises:
        ValueError: values other than 0 and 1, a negative gamma.
    """
    check_weight(gamma, "gamma")
    correct = integer_vector(correct_G, "correct_G")
    return float(1 - binary_vector(correct, "correct_G", len(correct)).mean()) ** gamma


def deviation(values: npt.ArrayLike, std: Std = "sample") -> float:
    """Standard deviation of a group's advantages + 1e-6: the divisor of GRPO (arXiv 2402.03300).

    It re-weights prompts. [.75, -.25, -.25, -.25] becomes [1.5, -.5, -.5, -.5] with the sample standard deviation and
    [1.732, -.577, -.577, -.577] with the population's.

    Args:
        values: finite, 2 or more.
        std: ddof 1 (sample) or 0 (population).

    Raises:
        ValueError: fewer than 2 values, NaN, unknown std.
    """
    found = finite_vector(values, "values", at_least=2)
    return float(found.std(ddof=_ddof(std))) + STD_EPSILON


def deviation_of_sums(count: float, total: float, total_of_squares: float, std: Std = "sample") -> float:
    """`deviation` of all advantages of a batch, from sums that add up over groups and ranks.

    One divisor for the batch leaves the prompts their relative weight: the direction of the gradient stays.

    Args:
        count: number of advantages in the batch.
        total: their sum.
        total_of_squares: the sum of their squares.
        std: ddof 1 (sample) or 0 (population).

    Raises:
        ValueError: unknown std.
    """
    mean = total / count if count else 0.0
    spread = total_of_squares - count * mean**2
    return float(np.sqrt(max(0.0, spread) / max(1.0, count - _ddof(std)))) + STD_EPSILON


def _ddof(std: str) -> int:
    if std not in get_args(Std):
        raise ValueError(f"std={std!r} must be 'sample' or 'population'")
    return 1 if std == "sample" else 0
