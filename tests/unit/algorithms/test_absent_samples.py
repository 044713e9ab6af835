"""Wrong samples and samples below the floor are absent from kernels and token statistics, by literal enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import exp, log

import numpy as np
import pytest

from polyray.algorithms import (
    GroupView,
    PolychromicAdvantages,
    polychromic_advantages,
    present_samples,
    self_bleu_value,
    stale_polychromic_advantages,
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
    "determinant": determinant, "logdet": logdet, "vendi": vendi, "distinct_n": distinct, "self_bleu": self_bleu,
}  # fmt: skip


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

    def __init__(self, seed: int, size: int = 7) -> None:
        rng = np.random.default_rng(seed)
        features = rng.integers(0, 2, (size, 6)) + 0.05 * rng.random((size, 6))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        self.classes = rng.integers(-1, 2, size)
        self.quality = np.where(self.classes < 0, 0.0, rng.integers(1, 4, size) / 3)
        # As rewards deliver it: wrong samples at distance 0 from all others.
        right = self.classes >= 0
        self.distance = np.clip(1 - features @ features.T, 0, 1) * np.outer(right, right)
        np.fill_diagonal(self.distance, 0.0)
        self.tokens = [rng.integers(0, 4, rng.integers(0, 6)).tolist() for _ in range(size)]

    def reordered(self, order: np.ndarray) -> Group:
        other = object.__new__(Group)
        other.classes, other.quality = self.classes[order], self.quality[order]
        other.distance = self.distance[np.ix_(order, order)]
        other.tokens = [self.tokens[i] for i in order]
        return other


@pytest.mark.parametrize("objective", [*KERNELS, *TOKENS])
@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_credits_equal_enumeration_with_absent_samples(objective: Objective, floor: float, seed: int) -> None:
    group, k = Group(seed), 3

    def credits_of(g: Group) -> np.ndarray:
        found = advantages(objective, g.quality, g.classes, g.distance, g.tokens, k, floor)
        return found.diversity_part_G / len(g.classes)

    here = (group.classes >= 0) & (group.quality >= floor)
    assert 2 <= here.sum() < 7
    credits_G = credits_of(group)
    expected = literal_credits(objective, 1 - group.distance, group.tokens, here, k)
    np.testing.assert_allclose(credits_G, expected, rtol=0, atol=1e-12)
    assert abs(credits_G.sum()) < 1e-12
    order = np.random.default_rng(seed).permutation(7)
    np.testing.assert_allclose(credits_of(group.reordered(order)), credits_G[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [*KERNELS, *TOKENS])
def test_expected_update_is_the_gradient_with_an_absent_outcome(objective: Objective) -> None:
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
def test_one_wrong_sample_never_earns_more_than_a_right_one(objective: Objective, right: list[int]) -> None:
    classes = np.array([*right, -1])
    differs = (classes[:, None] != classes) & (classes[:, None] >= 0) & (classes >= 0)
    tokens = [[10 * c + at for at in range(4)] for c in classes]
    found = advantages(
        objective, (classes >= 0).astype(float), classes, differs.astype(float), tokens, 4
    ).diversity_part_G
    assert found[-1] <= found[:-1].min() + 1e-12
    assert found[-1] <= 1e-12


def test_a_wrong_sample_beside_seven_different_right_ones_by_hand() -> None:
    classes = np.array([1, 2, 3, 4, 5, 6, 7, -1])
    differs = ((classes[:, None] != classes) & (classes[:, None] >= 0) & (classes >= 0)).astype(float)
    quality = (classes >= 0).astype(float)
    # Facility: nothing covers anything. Others: a set with the wrong sample has three different members of four.
    credits = {"facility": 0.0, "vendi": -1.0, "determinant": -4.0, "logdet": log(RIDGE / (1 + RIDGE))}
    for objective, wrong in credits.items():
        found = advantages(objective, quality, classes, differs, (), 4).diversity_part_G  # type: ignore[arg-type]
        np.testing.assert_allclose(found, [*[-wrong / 7] * 7, wrong], rtol=0, atol=1e-9)


@pytest.mark.parametrize("objective", [*KERNELS, *TOKENS])
def test_a_group_without_a_right_sample_has_no_diversity(objective: Objective) -> None:
    found = advantages(objective, np.zeros(6), np.full(6, -1), np.zeros((6, 6)), [[1, 2], [3]] * 3, 3)
    np.testing.assert_allclose(found.diversity_part_G, np.zeros(6), rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", ["determinant", "logdet", "vendi"])
def test_similarities_that_are_no_kernel_keep_an_exact_gradient(objective: Objective) -> None:
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


@pytest.mark.parametrize("objective", ["determinant", "logdet", "vendi", *TOKENS])
def test_stale_groups_treat_absent_samples_alike(objective: Objective) -> None:
    group = Group(1)
    fresh = advantages(objective, group.quality, group.classes, group.distance, group.tokens, 3, 0.5)
    stale = stale_polychromic_advantages(
        group.quality,
        np.zeros(7),
        objective=objective,
        quality_weight=0.0,
        diversity_weight=1.0,
        set_size=3,
        view=GroupView(group.classes, group.distance, group.tokens),
        quality_floor=0.5,
    )
    np.testing.assert_allclose(stale.advantages_G, fresh.advantages_G, rtol=0, atol=1e-12)


def test_present_samples_are_right_and_not_below_the_floor() -> None:
    assert present_samples([1.0, 0.2, 0.9, 0.0], [3, 4, -1, -1], 0.5).tolist() == [True, False, False, False]
    assert present_samples([1.0, 0.2, 0.9, 0.0], [3, 4, -1, 0], 0.0).tolist() == [True, True, False, True]
    assert present_samples([1.0, 0.2], None, 0.5).tolist() == [True, False]


def test_a_floor_for_max_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quality_floor=0.5.*objective='max'"):
        advantages("max", np.array([1.0, 0.5, 0.0]), None, np.zeros((3, 3)), (), 2, 0.5)
