"""Shaping of rewards and groups before an objective: length, quality floor, filters, schedules.

Not here: advantages. Called by the learner and by the filter of groups without training signal.
Suffix _G = completions of one prompt.
"""

from __future__ import annotations

from math import cos, isfinite, pi
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_weight
from polyray.metrics.arrays import Floats, check_length, finite_vector, integer_vector, unit_vector
from polyray.types import WRONG_CLASS


def overlong_penalty(lengths_G: npt.ArrayLike, max_length: int, buffer: int) -> Floats:
    """DAPO's soft punishment (arXiv 2503.14476): 0 up to max_length - buffer, then down linearly to -1.

    Args:
        lengths_G: [G] tokens.
        max_length: from here on -1.
        buffer: width of the slope, 1..max_length.

    Returns:
        [G] float64 in [-1, 0], to be added to the reward.

    Raises:
        ValueError: negative lengths, buffer out of range.
    """
    lengths = integer_vector(lengths_G, "lengths_G")
    if not 1 <= buffer <= max_length:
        raise ValueError(f"buffer={buffer} must lie in 1..max_length={max_length}")
    if len(lengths) and lengths.min() < 0:
        raise ValueError(f"lengths_G has the value {lengths.min()}; lengths are at least 0")
    return np.clip((max_length - buffer - lengths) / buffer, -1.0, 0.0)


def mode_anchored_rewards(
    rewards_G: npt.ArrayLike, reference_logprobs_G: npt.ArrayLike, kl_coefficient: float, threshold: float
) -> Floats:
    """MARA's rewards: all good samples are worth the same under KL to the reference (arXiv 2510.20817, a reading).

    Of the samples with a reward of `threshold` or more the likeliest under the reference is the anchor z, and each
    gets r_z + kl_coefficient (log pi_ref(z) - log pi_ref(y)). The policy that is best under E r - kl_coefficient
    KL(pi || pi_ref) then gives every one of them the probability that z has; without it they keep the proportions of
    the reference. Other rewards stay. Of equally likely anchors the first counts.

    Args:
        rewards_G: [G] finite.
        reference_logprobs_G: [G] finite, of whole completions.
        kl_coefficient: weight of the KL in the objective, not negative.
        threshold: reward of a good sample.

    Returns:
        [G] float64.

    Raises:
        ValueError: lengths that differ, NaN, a negative weight.
    """
    rewards = finite_vector(rewards_G, "rewards_G")
    logprobs = finite_vector(reference_logprobs_G, "reference_logprobs_G")
    check_length(logprobs, "reference_logprobs_G", len(rewards))
    check_weight(kl_coefficient, "kl_coefficient")
    good = rewards >= threshold
    if not good.any():
        return rewards
    anchor = np.argmax(np.where(good, logprobs, -np.inf))
    return np.where(good, rewards[anchor] + kl_coefficient * (logprobs[anchor] - logprobs), rewards)


def floored_distances(quality_G: npt.ArrayLike, distance_GG: npt.ArrayLike, floor: float) -> Floats:
    """Distances that pay nothing where one of the two has a quality below `floor`: [N, N]."""
    above = (unit_vector(quality_G, "quality_G") >= _checked_floor(floor)).astype(np.float64)
    distance = np.asarray(distance_GG, dtype=np.float64)
    if distance.shape != (len(above), len(above)):
        raise ValueError(f"distance_GG has shape {distance.shape} but there are {len(above)} samples")
    return distance * np.outer(above, above)


def present_samples(
    quality_G: npt.ArrayLike, classes_G: npt.ArrayLike | None, floor: float
) -> npt.NDArray[np.bool_]:
    """Mask [N] of the samples that count for diversity: a class other than -1, and a quality of `floor` or more.

    Without classes the quality alone decides. The others are absent: they take a place in a set and add nothing.
    """
    quality = unit_vector(quality_G, "quality_G")
    present = quality >= _checked_floor(floor)
    if classes_G is None:
        return present
    return present & (integer_vector(classes_G, "classes_G", len(quality)) != WRONG_CLASS)


def floored_kernel(
    quality_G: npt.ArrayLike, distance_GG: npt.ArrayLike, floor: float, classes_G: npt.ArrayLike | None = None
) -> Floats:
    """Similarities 1 - distance with a zero row and column for absent samples (`present_samples`): [N, N].

    A sample at distance 0 from all others would be as similar as possible to all of them. An absent one is similar
    to nothing and spans nothing: it adds no volume and no diversity, and a positive semi-definite kernel stays so.
    """
    present = present_samples(quality_G, classes_G, floor)
    similarity = 1.0 - np.asarray(distance_GG, dtype=np.float64)
    if similarity.shape != (len(present), len(present)):
        raise ValueError(f"distance_GG has shape {similarity.shape} but there are {len(present)} samples")
    return similarity * np.outer(present, present)


def floored_classes(
    quality_G: npt.ArrayLike, classes_G: npt.ArrayLike, floor: float
) -> npt.NDArray[np.int64]:
    """Classes with -1, which never counts, where the quality is below `floor`: [N]."""
    quality = unit_vector(quality_G, "quality_G")
    classes = integer_vector(classes_G, "classes_G", len(quality))
    return np.where(quality >= _checked_floor(floor), classes, WRONG_CLASS)


NO_CREDIT = 1e-9
"""Advantages, and differences between them, up to here are rounding."""


def has_signal(advantages_G: npt.ArrayLike) -> bool:
    """Whether the credits of a group differ: DAPO's dynamic sampling keeps only such groups.

    It is the credit that is looked at, not the reward: under a set objective a group of correct answers still
    has_signal as long as their diversity differs.
    """
    advantages = finite_vector(advantages_G, "advantages_G")
    return bool(advantages.std() > NO_CREDIT)


def scheduled(
    start: float,
    end: float,
    step: int,
    num_steps: int,
    shape: Literal["constant", "linear", "cosine"] = "linear",
) -> float:
    """The value at `step` of a schedule from `start` (step 0) to `end` (step num_steps and later).

    Anneals lambda, or k (round it): PKPO and Pass@k Training anneal k from high to 1.

    Raises:
        ValueError: step < 0, num_steps < 1, values that are not finite, unknown shape.
    """
    if step < 0 or num_steps < 1:
        raise ValueError(f"step={step} must be at least 0 and num_steps={num_steps} at least 1")
    if not (isfinite(start) and isfinite(end)):
        raise ValueError(f"start={start} and end={end} must be finite")
    share = min(step / num_steps, 1.0)
    if shape == "constant":
        return start
    if shape == "linear":
        return start + (end - start) * share
    if shape == "cosine":
        return end + (start - end) * 0.5 * (1 + cos(pi * share))
    raise ValueError(f"shape={shape!r} must be 'constant', 'linear' or 'cosine'")


def _checked_floor(floor: float) -> float:
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must lie in [0, 1], like the qualities")
    return floor
