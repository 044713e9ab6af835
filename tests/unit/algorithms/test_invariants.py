"""Invariants of every set credit on random groups with ties: sum, order, duplicates, enumeration, errors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.algorithms import (
    cluster_set_credits,
    coverage_set_credits,
    determinant_set_credits,
    distinct_correct_set_credits,
    entropy_set_credits,
    enumerated_set_credits,
    facility_location_set_credits,
    leave_one_out_advantages,
    max_set_credits,
    mean_distance_credits,
    pairwise_set_credits,
    product_set_credits,
    simpson_set_credits,
)
from tests.unit.algorithms.enumeration import coverage, distinct_share, entropy, mean_over_pairs, simpson


class Group:
    """A random group with many ties."""

    def __init__(self, seed: int, num_samples: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        self.k = k
        self.quality = rng.integers(0, 4, num_samples) / 3
        self.classes = rng.integers(-1, 3, num_samples)
        features = rng.integers(0, 2, (num_samples, 10)) + 0.01 * rng.random((num_samples, 10))
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
        self.kernel = features @ features.T
        self.distance = np.clip(1 - self.kernel, 0, 1)
        np.fill_diagonal(self.distance, 0)
        self.anchors = rng.integers(0, 4, (5, num_samples)) / 3

    def reordered(self, order: np.ndarray) -> Group:
        other = object.__new__(Group)
        other.k, other.quality, other.classes = self.k, self.quality[order], self.classes[order]
        other.kernel, other.distance = self.kernel[np.ix_(order, order)], self.distance[np.ix_(order, order)]
        other.anchors = self.anchors[:, order]
        return other

    def mean_quality(self, s: list[int]) -> float:
        return float(self.quality[s].mean())


CASES: dict[str, tuple[Callable[[Group], np.ndarray], Callable[[Group, list[int]], float]]] = {
    "mean_quality": (
        lambda g: leave_one_out_advantages(g.quality) / len(g.quality),
        Group.mean_quality,
    ),
    "mean_distance": (
        lambda g: mean_distance_credits(g.distance),
        lambda g, s: mean_over_pairs(g.distance, s),
    ),
    "pairwise": (
        lambda g: pairwise_set_credits(g.quality, g.distance, 0.7),
        lambda g, s: g.mean_quality(s) + 0.7 * mean_over_pairs(g.distance, s),
    ),
    "product": (
        lambda g: product_set_credits(g.quality, g.distance, g.k),
        lambda g, s: g.mean_quality(s) * mean_over_pairs(g.distance, s),
    ),
    "cluster": (
        lambda g: cluster_set_credits(g.quality, g.classes, g.k),
        lambda g, s: g.mean_quality(s) * distinct_share(g.classes, s),
    ),
    "distinct_correct": (
        lambda g: distinct_correct_set_credits(g.classes, g.k),
        lambda g, s: distinct_share(g.classes, s),
    ),
    "coverage": (
        lambda g: coverage_set_credits(g.quality, g.classes, g.k),
        lambda g, s: coverage(g.quality, g.classes, s),
    ),
    "entropy": (lambda g: entropy_set_credits(g.classes, g.k), lambda g, s: entropy(g.classes, s)),
    "simpson": (lambda g: simpson_set_credits(g.classes, g.k), lambda g, s: simpson(g.classes, s)),
    "max": (lambda g: max_set_credits(g.quality, g.k), lambda g, s: float(g.quality[s].max())),
    "facility": (
        lambda g: facility_location_set_credits(g.anchors, g.k),
        lambda g, s: float(g.anchors[:, s].max(axis=1).mean()),
    ),
    "determinant": (
        lambda g: determinant_set_credits(g.kernel, g.k),
        lambda g, s: float(np.linalg.det(g.kernel[np.ix_(s, s)])),
    ),
}


sizes = st.tuples(st.integers(0, 2**32 - 1), st.integers(3, 9), st.integers(2, 8)).filter(
    lambda case: case[2] < case[1]
)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=sizes)
def test_closed_form_equals_enumeration_and_keeps_its_invariants(name, case) -> None:
    group = Group(*case)
    credits_of, value = CASES[name]
    credits_G = credits_of(group)
    enumerated = enumerated_set_credits(lambda s: value(group, list(s)) + 5.0, len(group.quality), group.k)
    np.testing.assert_allclose(credits_G, enumerated, rtol=0, atol=1e-12)  # a constant changes nothing
    assert abs(credits_G.sum()) < 1e-12
    order = np.random.default_rng(case[0]).permutation(len(credits_G))
    np.testing.assert_allclose(credits_of(group.reordered(order)), credits_G[order], rtol=0, atol=1e-12)
    twins = group.reordered(np.append(np.arange(len(credits_G)), 0))
    twin_credits = credits_of(twins)
    assert twin_credits[0] == pytest.approx(twin_credits[-1], abs=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_credits_of_large_groups_are_finite_and_differ(name) -> None:
    group = Group(1, 400, 8)
    credits_G = CASES[name][0](group)
    assert np.isfinite(credits_G).all()
    assert abs(credits_G.sum()) < 1e-11
    assert np.ptp(credits_G) > 1e-8


@pytest.mark.parametrize(("num_samples", "k"), [(3, 2), (5, 2), (6, 4), (7, 3)])
def test_enumerated_credits_equal_their_definition(num_samples: int, k: int) -> None:
    """U_k(Y) - U_k(Y without i), each U_k a plain mean over the sets of k."""
    group = Group(2, num_samples, k)

    def value(s: tuple[int, ...]) -> float:
        return min(group.distance[pair] for pair in combinations(s, 2)) ** 2

    def mean_over_sets(indices: list[int]) -> float:
        return float(np.mean([value(s) for s in combinations(indices, k)]))

    everyone = list(range(num_samples))
    expected = [mean_over_sets(everyone) - mean_over_sets([j for j in everyone if j != i]) for i in everyone]
    np.testing.assert_allclose(enumerated_set_credits(value, num_samples, k), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "classes",
    [[4] * 5, [-1] * 5, [0, 1, 2, 3, 4], [-1, 7, 7, 7, 7], [2**62 + 1, -(2**62), -(2**62), -1, 2**62]],
)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_cluster_credits_of_extreme_classes_equal_enumeration(classes: list[int], k: int) -> None:
    group = Group(3, 5, k)
    group.classes = np.array(classes)
    expected = enumerated_set_credits(lambda s: CASES["cluster"][1](group, list(s)), 5, k)
    np.testing.assert_allclose(cluster_set_credits(group.quality, classes, k), expected, rtol=0, atol=1e-12)


def test_cluster_credits_of_thousands_of_samples_stay_exact() -> None:
    # Every sample its own class: the number of classes is k, so the objective is mean quality.
    quality = np.random.default_rng(9).random(4096)
    for k in (4, 2000):
        credits_G = cluster_set_credits(quality, np.arange(4096), k)
        np.testing.assert_allclose(4096 * credits_G, leave_one_out_advantages(quality), rtol=0, atol=1e-8)


def test_pairwise_credits_tolerate_rounding_of_float32_distances() -> None:
    expected = leave_one_out_advantages([1, 0.5, 0]) / 3
    found = pairwise_set_credits([1, 0.5, 0], 1 - np.eye(3) - 1e-7, 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
