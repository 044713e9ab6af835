"""Closed-form set credits against their definition, written out over all subsets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from polyray.algorithms import (
    cluster_set_credits,
    enumerated_set_credits,
    leave_one_out_advantages,
    pairwise_set_credits,
    product_set_credits,
)

Subset = tuple[int, ...]
SIZES = [(n, k) for n in (5, 6, 7, 8) for k in (2, 3, 4)]


class Samples:
    """Random qualities, classes and distances of N samples, and the set functions on them."""

    def __init__(self, num_samples: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.quality = rng.random(num_samples)
        self.classes = rng.integers(-1, 3, num_samples)
        upper = np.triu(rng.random((num_samples, num_samples)), 1)
        self.distance = upper + upper.T

    def mean_distance(self, subset: Subset) -> float:
        return float(np.mean([self.distance[b, c] for b, c in combinations(subset, 2)]))

    def mean_quality(self, subset: Subset) -> float:
        return float(np.mean([self.quality[i] for i in subset]))

    def product(self, subset: Subset) -> float:
        return self.mean_quality(subset) * self.mean_distance(subset)

    def cluster(self, subset: Subset) -> float:
        return self.mean_quality(subset) * len({self.classes[i] for i in subset} - {-1}) / len(subset)

    def additive(self, subset: Subset) -> float:
        return self.mean_quality(subset) + 0.7 * self.mean_distance(subset)


def credits_by_definition(set_function: Callable[[Subset], float], num_samples: int, k: int) -> np.ndarray:
    """U_k(Y) - U_k(Y without i), each U_k a plain mean over subsets."""

    def mean_over_subsets(indices: list[int]) -> float:
        return float(np.mean([set_function(subset) for subset in combinations(indices, k)]))

    everyone = list(range(num_samples))
    whole = mean_over_subsets(everyone)
    return np.array([whole - mean_over_subsets([j for j in everyone if j != i]) for i in everyone])


@pytest.mark.parametrize(("num_samples", "k"), SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_forms_equal_their_definition(num_samples, k, seed) -> None:
    s = Samples(num_samples, seed)
    cases = [
        (s.mean_quality, leave_one_out_advantages(s.quality) / len(s.quality)),
        (s.additive, pairwise_set_credits(s.quality, s.distance, 0.7)),
        (s.product, product_set_credits(s.quality, s.distance, k)),
        (s.cluster, cluster_set_credits(s.quality, s.classes, k)),
    ]
    for set_function, credits_G in cases:
        np.testing.assert_allclose(
            credits_G, credits_by_definition(set_function, num_samples, k), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(("num_samples", "k"), [(3, 2), (5, 2), (6, 4), (7, 3)])
def test_enumeration_equals_the_definition_for_any_set_function(num_samples, k) -> None:
    s = Samples(num_samples, 2)

    def smallest_distance(subset: Subset) -> float:
        return min(s.distance[b, c] for b, c in combinations(subset, 2)) ** 2

    np.testing.assert_allclose(
        enumerated_set_credits(smallest_distance, num_samples, k),
        credits_by_definition(smallest_distance, num_samples, k),
        rtol=0,
        atol=1e-12,
    )


def test_a_small_case_by_hand() -> None:
    # Three samples, k = 2, qualities 1, 1, 0, classes 0, 1, -1. Pairs: {0,1} = 1 * 2/2, {0,2} = 1/2 * 1/2 and
    # {1,2} the same; U = (1 + 1/4 + 1/4) / 3 = 1/2. Without sample 0 or 1: 1/4; without sample 2: 1.
    np.testing.assert_allclose(cluster_set_credits([1, 1, 0], [0, 1, -1], 2), [0.25, 0.25, -0.5], atol=1e-15)
    # All distances 1: the product is the mean quality. {0,1} = 1, {0,2} = {1,2} = 1/2; U = 2/3.
    apart = 1 - np.eye(3)
    np.testing.assert_allclose(product_set_credits([1, 1, 0], apart, 2), [1 / 6, 1 / 6, -1 / 3], atol=1e-15)
    # Only d01 = 1: D = 1/3, without 0 or 1 it is 0, without 2 it is 1; quality credits 1/6, 1/6, -1/3.
    near = [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    expected = [1 / 6 + 2 / 3, 1 / 6 + 2 / 3, -1 / 3 - 4 / 3]
    np.testing.assert_allclose(pairwise_set_credits([1, 1, 0], near, 2.0), expected, atol=1e-15)


@pytest.mark.parametrize(
    "classes", [[4, 4, 4, 4, 4], [-1, -1, -1, -1, -1], [0, 1, 2, 3, 4], [-1, 7, 7, 7, 7]]
)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_extreme_class_patterns(classes, k) -> None:
    s = Samples(5, 3)
    s.classes = np.array(classes)
    np.testing.assert_allclose(
        cluster_set_credits(s.quality, classes, k), credits_by_definition(s.cluster, 5, k), rtol=0, atol=1e-12
    )


def test_class_labels_are_only_names() -> None:
    quality = [0.2, 0.9, 0.4, 0.7, 0.1]
    plain = cluster_set_credits(quality, [0, 1, 1, -1, 2], 3)
    huge = cluster_set_credits(quality, [2**62 + 1, -(2**62), -(2**62), -1, 2**62], 3)
    np.testing.assert_allclose(plain, huge, rtol=0, atol=1e-15)


def all_credits(s: Samples, k: int) -> list[np.ndarray]:
    return [
        leave_one_out_advantages(s.quality) / len(s.quality),
        pairwise_set_credits(s.quality, s.distance, 0.7),
        product_set_credits(s.quality, s.distance, k),
        cluster_set_credits(s.quality, s.classes, k),
    ]


def test_credits_sum_to_zero_and_do_not_vanish() -> None:
    for credits_G in [*all_credits(Samples(16, 4), 4), *all_credits(Samples(300, 4), 33)]:
        assert abs(credits_G.sum()) < 1e-12
        assert np.abs(credits_G).max() > 1e-5


def test_credits_follow_a_permutation_of_the_samples() -> None:
    s, permuted = Samples(9, 5), Samples(9, 5)
    order = np.random.default_rng(6).permutation(9)
    permuted.quality, permuted.classes = s.quality[order], s.classes[order]
    permuted.distance = s.distance[np.ix_(order, order)]
    for credits_G, permuted_G in zip(all_credits(s, 4), all_credits(permuted, 4), strict=True):
        np.testing.assert_allclose(permuted_G, credits_G[order], rtol=0, atol=1e-14)


def test_duplicates_get_equal_credit() -> None:
    s = Samples(7, 7)
    s.quality[6], s.classes[6] = s.quality[0], s.classes[0]
    s.distance[6], s.distance[:, 6] = s.distance[0], s.distance[:, 0]
    s.distance[6, 6] = s.distance[0, 6] = s.distance[6, 0] = 0
    for credits_G in all_credits(s, 3):
        assert credits_G[0] == pytest.approx(credits_G[6], abs=1e-15)
        assert np.ptp(credits_G) > 1e-3


def test_a_constant_added_to_the_set_function_changes_nothing() -> None:
    s = Samples(7, 8)
    shifted = enumerated_set_credits(lambda subset: s.product(subset) + 5.0, 7, 3)
    np.testing.assert_allclose(shifted, product_set_credits(s.quality, s.distance, 3), rtol=0, atol=1e-14)


def test_quality_of_classless_samples_still_counts() -> None:
    # Sample 3 has no class; a set with it is worth more when its quality is higher.
    low = cluster_set_credits([1, 1, 1, 0.0], [0, 1, 2, -1], 2)
    high = cluster_set_credits([1, 1, 1, 0.8], [0, 1, 2, -1], 2)
    assert high[3] > low[3]


def test_thousands_of_samples_stay_exact() -> None:
    # Every sample its own class: the number of classes is k, so the objective is mean quality.
    quality = np.random.default_rng(9).random(4096)
    for k in (4, 2000):
        credits_G = cluster_set_credits(quality, np.arange(4096), k)
        np.testing.assert_allclose(4096 * credits_G, leave_one_out_advantages(quality), rtol=0, atol=1e-8)


HALVES = [0.5, 0.5, 0.5]
APART = (1 - np.eye(3)).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cluster_set_credits(HALVES, [0, 1, 2], 3),
            r"k=3.*\b2\b.*N=3",
        ),
        (lambda: product_set_credits(HALVES, APART, 3), r"k=3.*\b2\b"),
        (lambda: product_set_credits(HALVES, APART, 1), r"k=1.*\b2\b"),
        (lambda: enumerated_set_credits(len, 3, 3), r"k=3.*\b2\b"),
        (lambda: cluster_set_credits(HALVES, [0, 1, 2], 0), r"k=0.*\b1\b"),
        (lambda: cluster_set_credits(HALVES, [0, 1, 2], 1.5), "k=1.5"),  # pyright: ignore
        (lambda: pairwise_set_credits([0.5, 0.5], [[0, 1], [1, 0]], 1.0), r"\b2\b.*\b3\b"),
        (lambda: cluster_set_credits([0.5, 1.5, 0], [0, 1, 2], 2), "quality_G.*0.0.*1.5"),
        (lambda: cluster_set_credits([0.5, -0.1, 0], [0, 1, 2], 2), r"quality_G.*-0\.1"),
        (
            lambda: product_set_credits(HALVES, [[0, 2, 1], [2, 0, 1], [1, 1, 0]], 2),
            r"distance_GG.*\b2\b",
        ),
        (lambda: product_set_credits(HALVES, [[0, 1], [1, 0]], 2), r"distance_GG.*\(2, 2\)"),
        (
            lambda: product_set_credits(HALVES, [[0, 1, 1], [0, 0, 1], [1, 1, 0]], 2),
            "distance_GG.*transpose.*1",
        ),
        (lambda: pairwise_set_credits(HALVES, np.ones((3, 3)), 1.0), r"1\.0.*diagonal"),
        (lambda: pairwise_set_credits(HALVES, APART, float("nan")), "diversity_weight=nan"),
        (
            lambda: pairwise_set_credits(HALVES, np.full((3, 3), np.nan), 1.0),
            "distance_GG.*nan",
        ),
        (lambda: cluster_set_credits(HALVES, [0, 1], 2), r"classes_G.*\b2\b.*\b3\b"),
        (lambda: cluster_set_credits(HALVES, [0, 1, 0.5], 2), "classes_G="),
        (lambda: cluster_set_credits(HALVES, [0, 1, float("nan")], 2), "classes_G="),
        (lambda: cluster_set_credits(HALVES, [2**63, 1, -1], 2), "classes_G="),
        (lambda: enumerated_set_credits(lambda _: float("nan"), 3, 2), r"set_function\(0, 1\).*nan"),
        (lambda: enumerated_set_credits(len, 40, 20), r"\b137846528820\b.*\b1000000\b"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_rounding_of_float32_distances_is_tolerated() -> None:
    distance = np.array(APART) - 1e-7
    np.testing.assert_allclose(
        pairwise_set_credits([1, 0.5, 0], distance, 1.0), leave_one_out_advantages([1, 0.5, 0]) / 3, atol=1e-6
    )
