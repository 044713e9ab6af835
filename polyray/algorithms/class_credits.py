"""Credits of how the samples of a set spread over classes: distinct correct, coverage, entropy, Simpson.

A sample of class -1 (wrong, unparsable) never counts as a class but takes a place in the set. Each objective
lies in [0, 1]. All are sums over classes of the expectation of h(number of members in a random k-subset), which
is hypergeometric: with H(N, n) that expectation, U_k(Y) = sum_c H(N, n_c), and without a sample of class c one
term becomes H(N-1, n_c - 1), the others H(N-1, n_c'). Suffix _G = samples of one prompt, _C = classes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_group_size
from polyray.algorithms.order_credits import best_credits
from polyray.metrics.arrays import Floats, Integers, integer_vector, unit_vector
from polyray.metrics.combinatorics import miss_probability
from polyray.types import WRONG_CLASS


def distinct_correct_set_credits(classes_G: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = number of different classes in a set of k, over k (rarefaction, Hurlbert 1971).

    Args:
        classes_G: [N >= k + 1] whole numbers; -1 for what is not correct.
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, values that are no whole numbers.
    """

    def expectation(num_samples: int, sizes_C: Integers) -> Floats:
        return (1.0 - miss_probability(num_samples, k)[sizes_C]) / k

    return _class_credits(classes_G, k, expectation)


def entropy_set_credits(classes_G: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = (p / k) x entropy of the classes of the p samples that have one, over ln k; 1 is k classes.

    With p_c the share of class c among all k and P = p / k that is (P ln P - sum_c p_c ln p_c) / ln k. Without the
    term P ln P a sample of class -1 beside equal right ones would pass for evenness: -p ln p is 0 at 1, not at 3/4.

    Args:
        classes_G: [N >= k + 1] whole numbers; a -1 takes a place and adds nothing.
        k: set size, at least 2.

    Returns:
        [N] float64, summing to 0.
    """
    shares = np.arange(1, max(k, 2) + 1) / k
    values = np.append(0.0, -shares * np.log(shares) / np.log(max(k, 2)))

    def expectation(num_samples: int, sizes_C: Integers) -> Floats:
        return _expected(values, num_samples, sizes_C, k)

    credits_G = _class_credits(classes_G, k, expectation, at_least=2)
    wrong_G = np.asarray(classes_G) == WRONG_CLASS
    if not wrong_G.any():
        return credits_G
    return credits_G - _class_credits(np.where(wrong_G, WRONG_CLASS, 0), k, expectation, at_least=2)


def simpson_set_credits(classes_G: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = the chance that two draws with replacement from the set have different classes.

    That is 1 - sum_c p_c^2 where all samples have a class, at most 1 - 1/k; a draw of class -1 differs from
    nothing. It equals (k-1)/k times the mean pairwise distance 1[classes differ].

    Args:
        classes_G: [N >= k + 1] whole numbers.
        k: set size, at least 2.

    Returns:
        [N] float64, summing to 0.
    """
    classes = integer_vector(classes_G, "classes_G")
    num_samples = len(classes)
    check_group_size(k, num_samples, at_least=2)
    counts_G = classes != WRONG_CLASS
    _, class_of_G, sizes_C = np.unique(classes, return_inverse=True, return_counts=True)
    differing_G = np.where(counts_G, counts_G.sum() - sizes_C[class_of_G], 0).astype(np.float64)
    total = differing_G.sum()
    whole = total / (num_samples * (num_samples - 1))
    without_G = (total - 2 * differing_G) / ((num_samples - 1) * (num_samples - 2))
    return (k - 1) / k * (whole - without_G)


def coverage_set_credits(quality_G: npt.ArrayLike, classes_G: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = sum over classes of the best quality in it, over k: several good and different answers.

    With quality 1 for every sample that has a class it is `distinct_correct_set_credits`.

    Args:
        quality_G: [N >= k + 1] in [0, 1].
        classes_G: [N] whole numbers; -1 never counts.
        k: set size.

    Returns:
        [N] float64, summing to 0.
    """
    quality = unit_vector(quality_G, "quality_G")
    classes = integer_vector(classes_G, "classes_G", len(quality))
    check_group_size(k, len(quality))
    labels_C = np.unique(classes[classes != WRONG_CLASS])
    if len(labels_C) == 0:
        return np.zeros(len(quality))
    values_CG = np.where(classes == labels_C[:, None], quality, 0.0)
    return best_credits(values_CG, k).sum(axis=0) / k


def _class_credits(
    classes_G: npt.ArrayLike,
    k: int,
    expectation: Callable[[int, Integers], Floats],
    *,
    at_least: int = 1,
) -> Floats:
    """U_k(Y) - U_k(Y without i) for U_k = sum over classes of expectation(N, class size)."""
    classes = integer_vector(classes_G, "classes_G")
    num_samples = len(classes)
    check_group_size(k, num_samples, at_least=at_least)
    labels_C, class_of_G, sizes_C = np.unique(classes, return_inverse=True, return_counts=True)
    counts_C = labels_C != WRONG_CLASS
    whole = (expectation(num_samples, sizes_C) * counts_C).sum()
    # A class that holds all N samples has no value without one of them at full size: it is replaced below.
    kept_C = expectation(num_samples - 1, np.minimum(sizes_C, num_samples - 1)) * counts_C
    smaller_C = expectation(num_samples - 1, sizes_C - 1) * counts_C
    without_C = kept_C.sum() - kept_C + smaller_C
    return whole - without_C[class_of_G]


def _expected(values: Floats, num_samples: int, sizes_C: Integers, k: int) -> Floats:
    """[C]: the expectation of values[members of the class in a random k-subset] for each class size."""
    total = comb(num_samples, k)
    by_size = {
        size: sum(
            comb(size, j) * comb(num_samples - size, k - j) / total * values[j]
            for j in range(1, min(size, k) + 1)
        )
        for size in np.unique(sizes_C).tolist()
    }
    return np.array([by_size[size] for size in sizes_C.tolist()], dtype=np.float64)
