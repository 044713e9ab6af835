"""Wrong samples and samples below the floor are absent from kernels and token statistics, by literal enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import exp, log

import numpy as np
import pytest

from polyray.algorithms import (
    PolychromicAdvantages,
    polychromic_advantages,
    self_bleu_value,
)
from polyray.algorithms.polychromic import Objective
from tests.unit.algorithms.enumeration import (
    CLASSES_V,
    DISTANCE_VV,
    KERNEL_VV,
    PROBABILITIES_V,
    QUALITY_V,
    TOKENS_V,
    Outcomes,
    exact_gradient,
    expectation,
    expected_update,
    scores,
)

RIDGE = 1e-3
KERNELS: list[Objective] = ["facility", "determinant", "logdet", "vendi"]
TOKENS: list[Objective] = ["distinct_n", "self_bleu"]
Value = Callable[[np.ndarray, Sequence[Sequence[int]], list[int], int], float]
"""(similarities, tokens, present members of a set, k) -> the set's value."""


def vendi(kernel: np.ndarray, _: object, present: list[int], k: int) -> float:
    if not present:
        return 0.0
    shares = np.linalg.eigvalsh(kernel[np.ix_(present, present)] / len(present))
    return exp(-sum(s * log(s) for s in shares if s > 1e-12)) / k


def logdet(kernel: np.ndarray, _: object, present: list[int], k: int) -> float:
    minor = kernel[np.ix_(present, present)] + RIDGE * np.eye(len(present))
    sign, value = np.linalg.slogdet(minor) if present else (1.0, 0.0)
    assert sign == 1
    return (float(value) + (k - len(present)) * log(RIDGE)) / k


def determinant(kernel: np.ndarray, _: object, present: list[int], k: int) -> float:
    return float(np.linalg.det(kernel[np.ix_(present, present)])) if len(present) == k else 0.0


def distinct(_: object, tokens: Sequence[Sequence[int]], present: list[int], k: int) -> float:
    grams = [(row[at], row[at + 1]) for row in (tokens[i] for i in present) for at in range(len(row) - 1)]
    return len(set(grams)) / len(grams) * len(present) / k if grams else 0.0


def self_bleu(_: object, tokens: Sequence[Sequence[int]], present: list[int], k: int) -> float:
    if len(present) < 2:
        return 0.0
    rows = [tokens[i] for i in present]
    alone = self_bleu_value(rows)(tuple(range(len(rows))))  # without absent ones: test_self_bleu.py
    return alone * len(present) * (len(present) - 1) / (k * (k - 1))


VALUES: dict[str, Value] = {
    "determinant": determinant,
    "logdet": logdet,
    "vendi": vendi,
    "distinct_n": distinct,
    "self_bleu": self_bleu,
}


def covered(kernel: np.ndarray, here: np.ndarray, anchor: int, members: Sequence[int]) -> float:
    """Facility: the best similarity of the anchor to a member, where both are present."""
    return max((kernel[anchor, i] for i in members if here[anchor] and here[i]), default=0.0)


def literal_credits(
    objective: str, kernel: np.ndarray, tokens: Sequence[Sequence[int]], here: np.ndarray, k: int
) -> np.ndarray:
    """(k / N)(mean over sets with i - mean over sets without i); of facility for every anchor, and their mean."""
    size = len(here)
    if objective != "facility":
        sets = list(combinations(range(size), k))
        values = [VALUES[objective](kernel, tokens, [i for i in s if here[i]], k) for s in sets]
        return differences(values, sets, range(size), k)
    credits_G = np.zeros(size)
    for anchor in range(size):
        others = [i for i in range(size) if i != anchor]
        sets = list(combinations(others, k))
        values = [covered(kernel, here, anchor, s) for s in sets]
        credits_G[others] += differences(values, sets, others, k) / size
    return credits_G


def differences(
    values: list[float], sets: list[tuple[int, ...]], samples: Sequence[int], k: int
) -> np.ndarray:
    def mean(inside: bool, i: int) -> float:
        return float(np.mean([value for value, s in zip(values, sets, strict=True) if (i in s) is inside]))

    return np.array([(mean(True, i) - mean(False, i)) * k / len(samples) for i in samples])


def advantages(
    objective: Objective,
    quality: np.ndarray,
    classes: np.ndarray | list[int] | None,
    distance: np.ndarray,
    tokens: Sequence[Sequence[int]],
    k: int,
    floor: float = 0.0,
) -> PolychromicAdvantages:
    return polychromic_advantages(
        quality,
        objective=objective,
        quality_weight=0.0,
        diversity_weight=1.0,
        set_size=k,
        classes_G=classes,
        distance_GG=distance,
        tokens_G=tokens,
        quality_floor=floor,
    )


class Group:
    """Seven random samples with ties; class -1 and low qualities at random."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        features = rng.integers(0, 2, (7, 6)) + 0.05 * rng.random((7, 6))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        self.classes = rng.integers(-1, 2, 7)
        self.quality = np.where(self.classes < 0, 0.0, rng.integers(1, 4, 7) / 3)
        # As rewards deliver it: wrong samples at distance 0 from all others.
        right = self.classes >= 0
        self.distance = np.clip(1 - features @ features.T, 0, 1) * np.outer(right, right)
        np.fill_diagonal(self.distance, 0.0)
        self.tokens = [rng.integers(0, 4, rng.integers(0, 6)).tolist() for _ in range(7)]


@pytest.mark.parametrize("objective", [*KERNELS, *TOKENS])
@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_credits_of_absent_samples_equal_enumeration(objective: Objective, floor: float, seed: int) -> None:
    group, k = Group(seed), 3

    def credits_of(order: np.ndarray) -> np.ndarray:
        distance, tokens = group.distance[np.ix_(order, order)], [group.tokens[i] for i in order]
        found = advantages(objective, group.quality[order], group.classes[order], distance, tokens, k, floor)
        return found.diversity_part_G / 7

    here = (group.classes >= 0) & (group.quality >= floor)
    assert 2 <= here.sum() < 7
    credits_G = credits_of(np.arange(7))
    expected = literal_credits(objective, 1 - group.distance, group.tokens, here, k)
    np.testing.assert_allclose(credits_G, expected, rtol=0, atol=1e-12)
    assert abs(credits_G.sum()) < 1e-12
    order = np.random.default_rng(seed).permutation(7)
    np.testing.assert_allclose(credits_of(order), credits_G[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [*KERNELS, *TOKENS])
def test_expected_update_with_an_absent_outcome_is_the_gradient(objective: Objective) -> None:
    size, k = 4, 2
    here_V = CLASSES_V >= 0

    def weights(group: Outcomes) -> np.ndarray:
        index = list(group)
        distance = DISTANCE_VV[np.ix_(index, index)].copy()
        np.fill_diagonal(distance, 0.0)
        tokens = [TOKENS_V[v] for v in index]
        found = advantages(objective, QUALITY_V[index], CLASSES_V[index], distance, tokens, k)
        return found.advantages_G / size

    def value(outcomes: Outcomes) -> float:
        index = list(outcomes)
        present = [i for i, v in enumerate(index) if here_V[v]]
        kernel = KERNEL_VV[np.ix_(index, index)]
        return VALUES[objective](kernel, [TOKENS_V[v] for v in index], present, k)

    if objective == "facility":  # the policy of the anchor is held fixed
        exact = expectation(
            lambda g: covered(KERNEL_VV, here_V, g[0], g[1:]) * scores(g)[1:].sum(axis=0), k + 1
        )
    else:
        exact = exact_gradient(value, k)
    assert np.abs(exact).max() > 1e-2 and len(PROBABILITIES_V) == 4
    np.testing.assert_allclose(expected_update(weights, size), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [*KERNELS, *TOKENS, "entropy", "simpson", "distinct_correct"])
@pytest.mark.parametrize("right", [[5] * 7, [5, 5, 5, 6, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7]])
def test_diversity_of_a_wrong_sample_is_the_least(objective: Objective, right: list[int]) -> None:
    classes = np.array([*right, -1])
    differs = (classes[:, None] != classes) & (classes[:, None] >= 0) & (classes >= 0)
    tokens = [[10 * c + at for at in range(4)] for c in classes]
    quality = (classes >= 0).astype(float)
    found = advantages(objective, quality, classes, differs.astype(float), tokens, 4).diversity_part_G
    assert found[-1] <= min(found[:-1].min(), 0) + 1e-12
    nothing = advantages(objective, np.zeros(8), np.full(8, -1), np.zeros((8, 8)), tokens, 4)
    np.testing.assert_allclose(nothing.diversity_part_G, np.zeros(8), rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", ["determinant", "logdet", "vendi"])
def test_indefinite_similarities_keep_an_exact_gradient(objective: Objective) -> None:
    # An edit distance can be like that: a and c are alike to b, and unlike each other.
    similarity_VV = np.array([[1, 0.9, 0, 0.5], [0.9, 1, 0.9, 0.2], [0, 0.9, 1, 0.1], [0.5, 0.2, 0.1, 1]])
    assert np.linalg.eigvalsh(similarity_VV)[0] < -0.2

    def value(outcomes: Outcomes) -> float:
        values = np.linalg.eigvalsh(similarity_VV[np.ix_(outcomes, outcomes)]).clip(min=0)
        if objective == "determinant":
            return float(values.prod())
        if objective == "logdet":
            return sum(log(v + RIDGE) for v in values) / len(outcomes)
        shares = values / values.sum()
        return exp(-sum(s * log(s) for s in shares if s > 1e-12)) / len(outcomes)

    def weights(group: Outcomes) -> np.ndarray:
        distance = 1 - similarity_VV[np.ix_(group, group)]
        return advantages(objective, np.ones(4), None, distance, (), 3).advantages_G / 4

    exact = exact_gradient(value, 3)
    assert np.abs(exact).max() > 1e-3
    np.testing.assert_allclose(expected_update(weights, 4), exact, rtol=0, atol=1e-12)
