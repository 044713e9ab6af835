"""Credits of any symmetric set function, by evaluating it: on all k-subsets, on a balanced sample of them, or on
a few random sets that share one advantage each.

For objectives without a closed form (log-determinant, Vendi score, distinct-n, self-BLEU, a judge of sets).
`enumerated` and `balanced` are exact gradients; `shared` is the estimator of polychromic PPO (arXiv 2509.25424),
unbiased up to a known constant. Balanced: every sample is in equally many subsets, so each mean over subsets
with or without a sample is unbiased and no sample counts twice. Suffix _G = samples, _M = subsets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations
from math import comb, exp, gcd, isfinite, log

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_group_size
from polyray.metrics.arrays import Floats, Integers

SetFunction = Callable[[tuple[int, ...]], float]
"""Ascending sample indices -> the value of that set."""

MAX_ENUMERATED_SUBSETS = 1_000_000
UNMATCHED = 0.1
"""Matches that an order of n-grams without any counts in self-BLEU."""


def enumerated_set_credits(set_function: SetFunction, num_samples: int, k: int) -> Floats:
    """Credits of any symmetric set function, by calling it on all C(N, k) subsets.

    Args:
        set_function: maps k ascending sample indices to the value of that set.
        num_samples: N >= k + 1.
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, more than a million subsets, or a value that is not finite.
    """
    check_group_size(k, num_samples)
    subsets = all_subsets(num_samples, k)
    return _credits(subsets, _values(set_function, subsets), num_samples)


def all_subsets(num_samples: int, k: int) -> Integers:
    """[C(N, k), k] every set of k samples, members ascending; ValueError above a million."""
    num_subsets = comb(num_samples, k)
    if num_subsets > MAX_ENUMERATED_SUBSETS:
        raise ValueError(
            f"num_samples={num_samples}, k={k}: {num_subsets} subsets exceed {MAX_ENUMERATED_SUBSETS}; "
            "use a smaller k, balanced_set_credits, or an objective with a closed form"
        )
    return np.fromiter(
        (index for subset in combinations(range(num_samples), k) for index in subset),
        np.int64,
        num_subsets * k,
    ).reshape(num_subsets, k)


def balanced_set_credits(
    set_function: SetFunction, num_samples: int, k: int, num_subsets: int, rng: np.random.Generator
) -> Floats:
    """Unbiased credits from a balanced random sample of subsets; all of them where they are no more.

    Args:
        set_function: maps k ascending sample indices to the value of that set.
        num_samples: N >= k + 1.
        k: set size.
        num_subsets: how many to evaluate at least; rounded up to a balanced design.
        rng: chooses the subsets, independently of their values.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, num_subsets < 1, or a value that is not finite.
    """
    check_group_size(k, num_samples)
    if num_subsets >= comb(num_samples, k):
        return enumerated_set_credits(set_function, num_samples, k)
    subsets = balanced_subsets(num_samples, k, num_subsets, rng)
    return _credits(subsets, _values(set_function, subsets), num_samples)


def balanced_subsets(num_samples: int, k: int, num_subsets: int, rng: np.random.Generator) -> Integers:
    """[M, k] subsets in which every sample occurs equally often; M is num_subsets rounded up.

    Windows of k around a circle of the shuffled samples, each starting where the last ended: N / gcd(N, k) of
    them cover everyone alike. A subset may occur twice. Rows ascend.
    """
    if num_subsets < 1:
        raise ValueError(f"num_subsets={num_subsets} must be at least 1")
    per_circle = num_samples // gcd(num_samples, k)
    windows = (np.arange(per_circle)[:, None] * k + np.arange(k)) % num_samples
    circles = [rng.permutation(num_samples)[windows] for _ in range(-(-num_subsets // per_circle))]
    return np.sort(np.concatenate(circles), axis=1)


def shared_set_advantages(
    set_function: SetFunction,
    num_samples: int,
    k: int,
    num_sets: int,
    rng: np.random.Generator,
    *,
    unbiased_scale: bool = True,
) -> Floats:
    """The estimator of polychromic PPO: M random sets, each member gets its set's value minus the mean of all M.

    A sample in several sets gets the sum. Its expected gradient is M - K of the objective's, K = sum of all
    overlaps |S & S'| / (M k): all members share one signal, so its variance is far above the credits'.

    Args:
        set_function: maps k ascending sample indices to the value of that set.
        num_samples: N >= k + 1.
        k: set size (n in the paper, 4 of 8).
        num_sets: M >= 2.
        rng: draws the sets, without replacement within a set.
        unbiased_scale: divide by that constant and multiply by N: comparable with N x credit. Off: as published.

    Returns:
        [N] float64; 0 for samples in no set, and all 0 where all sets are the same.

    Raises:
        ValueError: k > N - 1, num_sets < 2, or a value that is not finite.
    """
    check_group_size(k, num_samples)
    if num_sets < 2:
        raise ValueError(f"num_sets={num_sets} must be at least 2: the baseline is the mean of all sets")
    subsets = np.sort(np.stack([rng.permutation(num_samples)[:k] for _ in range(num_sets)]), axis=1)
    values_M = _values(set_function, subsets)
    member_MG = np.zeros((num_sets, num_samples))
    np.put_along_axis(member_MG, subsets, 1.0, axis=1)
    advantages = (values_M - values_M.mean()) @ member_MG
    if not unbiased_scale:
        return advantages
    mean_overlap = (member_MG @ member_MG.T).mean()
    constant = num_sets * (1 - mean_overlap / k)
    return advantages * (num_samples / constant) if constant > 0 else advantages


def determinant_value(kernel_GG: npt.ArrayLike) -> SetFunction:
    """det K_S, as a set function; 0 where the minor is not positive semi-definite or a sample is absent."""
    kernel = np.asarray(kernel_GG, dtype=np.float64)

    def value(subset: tuple[int, ...]) -> float:
        return float(np.maximum(np.linalg.eigvalsh(kernel[np.ix_(subset, subset)]), 0.0).prod())

    return value


def logdet_value(kernel_GG: npt.ArrayLike, ridge: float = 1e-3) -> SetFunction:
    """log det(K_S + ridge I) / k, as a set function; negative eigenvalues of K_S count as 0.

    An absent sample (zero row and column) adds log(ridge) / k, the least that any sample can.
    """
    kernel = np.asarray(kernel_GG, dtype=np.float64)

    def value(subset: tuple[int, ...]) -> float:
        eigenvalues = np.maximum(np.linalg.eigvalsh(kernel[np.ix_(subset, subset)]), 0.0)
        return float(np.log(eigenvalues + ridge).sum()) / len(subset)

    return value


def vendi_value(kernel_GG: npt.ArrayLike) -> SetFunction:
    """Vendi score of the samples that are present, over k (arXiv 2210.02410): effective number of different ones.

    exp of the entropy of the eigenvalues of K_S over their sum, negative ones left out: in [1/k, 1] for a kernel with
    unit diagonal. Absent samples (zero rows and columns) have no share of the sum; a set of them alone is worth 0.
    """
    kernel = np.asarray(kernel_GG, dtype=np.float64)

    def value(subset: tuple[int, ...]) -> float:
        eigenvalues = np.linalg.eigvalsh(kernel[np.ix_(subset, subset)])
        positive = eigenvalues[eigenvalues > 1e-12 * len(subset)]
        shares = positive / positive.sum()
        return float(np.exp(-(shares * np.log(shares)).sum())) / len(subset) if len(shares) else 0.0

    return value


def distinct_n_value(tokens_G: Iterable[Iterable[int] | None], n: int = 2) -> SetFunction:
    """Different n-grams over all n-grams of the set's token sequences, in [0, 1]; 0 where all are too short.

    None is an absent sample: it has no n-grams and takes a place, so the share is multiplied by present / k. An
    absent sample and a repetition of one of equally long texts are worth the same.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    present_G = [None if tokens is None else list(tokens) for tokens in tokens_G]
    grams_G = [
        [] if row is None else list(zip(*(row[start:] for start in range(n)), strict=False))
        for row in present_G
    ]

    def value(subset: tuple[int, ...]) -> float:
        grams = [gram for index in subset for gram in grams_G[index]]
        num_present = sum(present_G[index] is not None for index in subset)
        return len(set(grams)) / len(grams) * (num_present / len(subset)) if grams else 0.0

    return value


def self_bleu_value(tokens_G: Iterable[Iterable[int] | None], max_n: int = 4) -> SetFunction:
    """1 - self-BLEU of the set (arXiv 1802.01886), in [0, 1]: 0 where all are equal, 1 where no token is shared.

    None is an absent sample: it is neither judged nor a reference, and pairs with it count as equal, so the value of
    the present ones is multiplied by their share of the pairs of the set.

    Self-BLEU is the mean of BLEU(a member; references = the other members): sentence BLEU, geometric mean over
    1..max_n, brevity penalty by the closest length (the shorter one of two). Smoothing: an order without a match
    counts 0.1 matches, orders longer than the member are left out, and without a common token BLEU is 0 (sacrebleu:
    floor 0.1, effective_order; NLTK: method1, auto_reweigh). Two empty sequences are equal; a set of one is worth 1.
    """
    if max_n < 1:
        raise ValueError(f"max_n={max_n} must be at least 1; 4 is usual")
    present_G = [None if tokens is None else list(tokens) for tokens in tokens_G]
    rows_G = [row or [] for row in present_G]
    counts_GF, order_FN = _shared_grams(rows_G, max_n)
    lengths_G = [len(row) for row in rows_G]
    distance_GG = [[(abs(length - other), other) for other in lengths_G] for length in lengths_G]
    penalty_GG = [[min(0.0, 1 - other / max(length, 1)) for other in lengths_G] for length in lengths_G]
    # log of the number of n-grams for each n: what an order contributes to log precision where all match.
    possible_G = [[log(length - n) for n in range(min(max_n, length))] for length in lengths_G]

    def bleu(member: int, matches: list[float], others: Iterable[int]) -> float:
        closest = min(others, key=distance_GG[member].__getitem__)
        possible = possible_G[member]
        if not possible or not matches[0]:
            return float(lengths_G[member] == lengths_G[closest] == 0)
        total = sum([log(matches[n] or UNMATCHED) - all_match for n, all_match in enumerate(possible)])
        return exp(total / len(possible) + penalty_GG[member][closest])

    def value(subset: tuple[int, ...]) -> float:
        present = tuple(index for index in subset if present_G[index] is not None)
        if len(present) < len(subset):
            pairs = len(present) * (len(present) - 1) / (len(subset) * (len(subset) - 1))
            return pairs * value(present) if pairs else 0.0
        if len(subset) < 2:
            return 1.0
        counts_KF = counts_GF.take(subset, axis=0)
        # A gram matches as often as it occurs in the member and in one other: at most the second largest count.
        matches_KN = (np.minimum(counts_KF, _second_largest(counts_KF)) @ order_FN).tolist()
        return 1.0 - sum(
            [
                bleu(member, matches, [other for other in subset if other != member])
                for member, matches in zip(subset, matches_KN, strict=True)
            ]
        ) / len(subset)

    return value


def _second_largest(values_KF: Floats) -> Floats:
    """[F]: of each column of at least two rows; for a handful of long rows faster than sorting them."""
    largest, second = np.maximum(values_KF[0], values_KF[1]), np.minimum(values_KF[0], values_KF[1])
    for row in values_KF[2:]:
        second = np.maximum(second, np.minimum(largest, row))
        largest = np.maximum(largest, row)
    return second


def _shared_grams(rows_G: list[list[int]], max_n: int) -> tuple[Floats, Floats]:
    """(counts [N, F] of the n-grams that at least two samples have, [F, max_n] one-hot n-gram lengths).

    Other n-grams never match.
    """
    counters = [
        Counter(gram for n in range(1, max_n + 1) for gram in zip(*(row[i:] for i in range(n)), strict=False))
        for row in rows_G
    ]
    owners = Counter(gram for counter in counters for gram in counter)
    shared = [gram for gram, num_owners in owners.items() if num_owners > 1]
    counts_GF = np.array([[counter[gram] for gram in shared] for counter in counters], dtype=np.float64)
    order_FN = np.array([[len(gram) == n for n in range(1, max_n + 1)] for gram in shared], dtype=np.float64)
    return counts_GF.reshape(len(rows_G), len(shared)), order_FN.reshape(len(shared), max_n)


def _values(set_function: SetFunction, subsets: Integers) -> Floats:
    values = np.empty(len(subsets))
    for row, subset in enumerate(map(tuple, subsets.tolist())):
        values[row] = value = float(set_function(subset))
        if not isfinite(value):
            raise ValueError(f"set_function{subset} is {value}; every set needs a finite value")
    return values


def _credits(subsets: Integers, values_M: Floats, num_samples: int) -> Floats:
    """(k/N) (mean of the values of subsets with i - mean of those without), for a balanced list of subsets."""
    num_subsets, k = subsets.shape
    with_G = np.bincount(subsets.ravel(), np.repeat(values_M, k), minlength=num_samples)
    num_with = num_subsets * k // num_samples
    mean_without_G = (values_M.sum() - with_G) / (num_subsets - num_with)
    return (k / num_samples) * (with_G / num_with - mean_without_G)
