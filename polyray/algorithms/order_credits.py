"""Credits of objectives of the best: the largest value in a set of k, pass@k training, PKPO, best-minus-second.

For values g sorted upwards the best of a random k-subset has rank r with probability C(r-1, k-1) / C(N, k), so
every estimator here is a weighted sum over ranks: O(N log N), exact for any N, because the probabilities are
ratios of whole numbers. Sources: arXiv 2505.15201 (PKPO), 2508.10751 (Pass@k Training), 2503.19595 (best minus
second). Not here: pass@k as a metric (polyray.metrics.pass_at_k). Suffix _G = samples of one prompt, _V = rows
of values that are ranked separately.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_group_size
from polyray.metrics.arrays import Floats, binary_vector, check_set_size, finite_vector
from polyray.metrics.combinatorics import miss_probability

PkpoVariant = Literal["sloo_minus_one", "sloo", "s"]


def max_set_credits(quality_G: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = the largest quality in a set of k (max@k; for qualities in {0, 1} pass@k).

    Args:
        quality_G: [N >= k + 1] finite.
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, NaN.
    """
    quality = finite_vector(quality_G, "quality_G")
    check_group_size(k, len(quality))
    return best_credits(quality[None, :], k)[0]


def best_credits(values_VG: Floats, k: int) -> Floats:
    """`max_set_credits` of every row of [V, N]; the other objectives of this package are sums of such rows."""
    order_VG = np.argsort(values_VG, axis=1, kind="stable")
    without_VG = _best_without_each(np.take_along_axis(values_VG, order_VG, axis=1), k)
    credits_VG = np.empty_like(values_VG)
    # U_k(Y) is the mean over i of U_k(Y without i), so the credits sum to 0 despite rounding.
    np.put_along_axis(credits_VG, order_VG, without_VG.mean(axis=1, keepdims=True) - without_VG, axis=1)
    return credits_VG


def pass_at_k_training_advantages(
    correct_G: npt.ArrayLike, k: int, *, scale: Literal["std", "none"] = "std"
) -> Floats:
    """Pass@k Training, analytic form (arXiv 2508.10751, Eqs. 7-15): one value for correct, one for wrong samples.

    With R = 1 - C(N_wrong, k) / C(N, k): correct (1 - R) / sigma, wrong (1 - R - C(N_wrong - 1, k-1) /
    C(N-1, k-1)) / sigma, sigma = sqrt(R (1 - R)). Without sigma it is (N - k) / k times the unbiased credit of
    pass@k; sigma re-weights prompts. [1, 1, 0, 0, 0, 0, 0, 0] with k = 4 gives .5222 and -.1741.

    Args:
        correct_G: [N] of 0 / 1.
        k: set size, 1 <= k <= N.
        scale: none leaves sigma out.

    Returns:
        [N] float64 summing to 0; all 0 where fewer than k are wrong or none is correct.

    Raises:
        ValueError: k > N, values other than 0 and 1.
    """
    correct = binary_vector(correct_G, "correct_G", len(np.asarray(correct_G)))
    num_samples, num_wrong = len(correct), int((~correct).sum())
    check_set_size(k, num_samples, f"correct_G has {num_samples} samples; sample more or lower k")
    if scale not in ("std", "none"):
        raise ValueError(f"scale={scale!r} must be 'std' or 'none'")
    if num_wrong < k or num_wrong == num_samples:
        return np.zeros(num_samples)
    failure = miss_probability(num_samples, k)[num_samples - num_wrong]
    failure_with_wrong = miss_probability(num_samples - 1, k - 1)[num_samples - num_wrong]
    advantages = np.where(correct, failure, failure - failure_with_wrong)
    return advantages / np.sqrt(failure * (1 - failure)) if scale == "std" else advantages


def pkpo_advantages(rewards_G: npt.ArrayLike, k: int, variant: PkpoVariant = "sloo_minus_one") -> Floats:
    """PKPO (arXiv 2505.15201): unbiased weights of grad log pi(y_i) for the gradient of max@k.

    s (Eq. 19): the sum of max over the k-subsets with i, over C(N, k). sloo (Eq. 29): s minus the mean of the
    others' s among themselves. sloo_minus_one (Eq. 33): what i adds to the max of each subset, summed over
    C(N, k); for k = 1 the max of nothing is 0, so it is s. They sum over samples: multiply by N for a mean.

    Args:
        rewards_G: [N] finite; N >= k, for sloo N >= k + 1.
        k: set size.
        variant: as above.

    Returns:
        [N] float64.

    Raises:
        ValueError: k too large, NaN, unknown variant.
    """
    rewards = finite_vector(rewards_G, "rewards_G")
    num_samples = len(rewards)
    if variant not in ("sloo_minus_one", "sloo", "s"):
        raise ValueError(f"variant={variant!r} must be 'sloo_minus_one', 'sloo' or 's'")
    limit = num_samples - 1 if variant == "sloo" else num_samples
    check_set_size(k, limit, f"rewards_G has {num_samples} samples and variant={variant!r}; lower k")
    order = np.argsort(rewards, kind="stable")
    ranked = rewards[order]
    weights = _s_weights(ranked, k)
    if variant == "sloo":
        weights = weights - k / (num_samples - 1) * _best_without_each(ranked[None, :], k)[0]
    elif variant == "sloo_minus_one" and k > 1:
        weights = weights - k / num_samples * _best_without_each(ranked[None, :], k - 1)[0]
    result = np.empty(num_samples)
    result[order] = weights
    return result


def best_minus_second_advantages(rewards_G: npt.ArrayLike, scale: Literal["none", "std"] = "none") -> Floats:
    """The best sample gets its lead over the second, all others 0 (arXiv 2503.19595; `grpo_passk` of verl).

    At scale none it is PKPO's sloo_minus_one with k = N: unbiased for the best of all N, with a high variance. std
    divides by the sample standard deviation + 1e-6.

    Args:
        rewards_G: [N >= 2] finite. With a tie at the top all are 0.

    Returns:
        [N] float64.
    """
    rewards = finite_vector(rewards_G, "rewards_G", at_least=2)
    if scale not in ("none", "std"):
        raise ValueError(f"scale={scale!r} must be 'none' or 'std'")
    second, best = np.partition(rewards, -2)[-2:]
    advantages = np.zeros(len(rewards))
    advantages[np.argmax(rewards)] = best - second
    return advantages / (rewards.std(ddof=1) + 1e-6) if scale == "std" else advantages


def rank_probabilities(num_samples: int, k: int) -> Floats:
    """[N]: the chance C(r-1, k-1) / C(N, k) that the best of a random k-subset has rank r (ascending)."""
    return k / num_samples * miss_probability(num_samples - 1, k - 1)[::-1]


def _s_weights(ranked: Floats, k: int) -> Floats:
    """s of values in ascending order: i is itself the best, or it is in a set with a better one."""
    num_samples = len(ranked)
    own = rank_probabilities(num_samples, k) * ranked
    if k == 1:
        return own
    # C(j-2, k-2) / C(N, k): both i and the best, of rank j, are in the set.
    beaten = k / num_samples * rank_probabilities(num_samples - 1, k - 1) * ranked[1:]
    return own + np.append(np.cumsum(beaten[::-1])[::-1], 0.0)


def _best_without_each(sorted_VG: Floats, k: int) -> Floats:
    """[V, N]: the expected best of k of the other N - 1 samples, for each sample in ascending order.

    Samples below sample i keep their rank, samples above lose one.
    """
    probabilities = rank_probabilities(sorted_VG.shape[1] - 1, k)
    start_V1 = np.zeros((len(sorted_VG), 1))
    below_VG = np.concatenate([start_V1, np.cumsum(probabilities * sorted_VG[:, :-1], axis=1)], axis=1)
    above = (probabilities * sorted_VG[:, 1:])[:, ::-1]
    above_VG = np.concatenate([np.cumsum(above, axis=1)[:, ::-1], start_V1], axis=1)
    return below_VG + above_VG
