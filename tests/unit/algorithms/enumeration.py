"""Exact gradients and expectations on a policy with a few outcomes, by writing out every possible group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from math import log

import numpy as np

Outcomes = tuple[int, ...]

QUALITY_V = np.array([0.9, 0.4, 0.0, 0.7])
"""What each of four outcomes is worth; outcome 2 is wrong and has no class, 0 and 3 are of one class."""
CLASSES_V = np.array([5, 8, -1, 5])
_FEATURES_VF = np.array([[1.0, 0.1, 0.0], [0.2, 1.0, 0.3], [0.0, 0.5, 1.0], [0.8, 0.0, 0.6]])
_FEATURES_VF /= np.linalg.norm(_FEATURES_VF, axis=1, keepdims=True)
KERNEL_VV = _FEATURES_VF @ _FEATURES_VF.T
"""Cosine similarities: positive semi-definite, unit diagonal."""
DISTANCE_VV = 1 - KERNEL_VV
np.fill_diagonal(DISTANCE_VV, 0.0)
TOKENS_V = ([1, 2, 3], [1, 2, 4, 5], [3, 3, 3], [2, 3, 1])
PROBABILITIES_V = np.array([0.35, 0.15, 0.3, 0.2])
ANCHOR_SIMILARITY_AV = np.array([[0.9, 0.2, 0.4, 0.7], [0.1, 0.8, 0.3, 0.3], [0.5, 0.5, 0.0, 0.6]])


def expectation(
    weigh: Callable[[Outcomes], np.ndarray], num_samples: int, probabilities=PROBABILITIES_V
) -> np.ndarray:
    """The mean of `weigh` over all groups of i.i.d. outcomes."""
    total = 0.0
    for group in product(range(len(probabilities)), repeat=num_samples):
        total = total + np.prod(probabilities[list(group)]) * weigh(group)
    return np.asarray(total)


def scores(group: Outcomes, probabilities=PROBABILITIES_V) -> np.ndarray:
    """[N, V]: grad of log pi(y_i) with respect to the logits, for a softmax policy."""
    return np.eye(len(probabilities))[list(group)] - probabilities


def exact_gradient(value: Callable[[Outcomes], float], k: int, probabilities=PROBABILITIES_V) -> np.ndarray:
    """[V]: gradient of E[value(y_1..y_k)] with respect to the logits."""
    return expectation(
        lambda group: value(group) * scores(group, probabilities).sum(axis=0), k, probabilities
    )


def expected_update(
    weights: Callable[[Outcomes], np.ndarray], num_samples: int, probabilities=PROBABILITIES_V
) -> np.ndarray:
    """[V]: E[sum_i weight_i grad log pi(y_i)] over groups of `num_samples`."""
    return expectation(
        lambda group: weights(group) @ scores(group, probabilities), num_samples, probabilities
    )


def mean_over_pairs(values_VV: np.ndarray, members: Sequence[int]) -> float:
    """Mean of values_VV over the pairs of a set."""
    return float(np.mean([values_VV[a, b] for a, b in combinations(members, 2)]))


def counted(classes: np.ndarray, members: Sequence[int]) -> list[int]:
    """Classes of the members that have one."""
    return [int(classes[i]) for i in members if classes[i] != -1]


def distinct_share(classes: np.ndarray, members: Sequence[int]) -> float:
    """Number of different classes over the size of the set."""
    return len(set(counted(classes, members))) / len(members)


def entropy(classes: np.ndarray, members: Sequence[int]) -> float:
    """Entropy of the classes over its maximum, times the share of members with a class."""
    present = counted(classes, members)
    shares = [present.count(c) / len(present) for c in set(present)]
    return len(present) / len(members) * -sum(p * log(p) for p in shares) / log(len(members))


def simpson(classes: np.ndarray, members: Sequence[int]) -> float:
    """Chance that two draws from the set have different classes."""
    present = counted(classes, members)
    return sum(a != b for a in present for b in present) / len(members) ** 2


def coverage(quality: np.ndarray, classes: np.ndarray, members: Sequence[int]) -> float:
    """Sum over classes of the best quality, over the size of the set."""
    present = set(counted(classes, members))
    return sum(max(quality[i] for i in members if classes[i] == c) for c in present) / len(members)
