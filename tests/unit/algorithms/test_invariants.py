"""Invariants of every set credit on random groups with ties: sum, order, duplicates, enumeration, errors."""

from __future__ import annotations

from collections.abc import Callable
from math import log

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
    max_set_credits,
    mean_distance_credits,
    polychromic_advantages,
    product_set_credits,
    simpson_set_credits,
)


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


def distinct(classes: np.ndarray) -> set[int]:
    return {int(c) for c in classes if c != -1}


def entropy_of(classes: np.ndarray) -> float:
    present = classes[classes != -1]
    shares = [float((present == c).mean()) for c in distinct(classes)]
    return len(present) / len(classes) * -sum(p * log(p) for p in shares) / log(len(classes))


def mean_pair(matrix: np.ndarray) -> float:
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


Credits = Callable[[Group], np.ndarray]
Value = Callable[[Group, list[int]], float]
CASES: dict[str, tuple[Credits, Value]] = {
    "mean_distance": (
        lambda g: mean_distance_credits(g.distance),
        lambda g, s: mean_pair(g.distance[np.ix_(s, s)]),
    ),
    "product": (
        lambda g: product_set_credits(g.quality, g.distance, g.k),
        lambda g, s: float(g.quality[s].mean()) * mean_pair(g.distance[np.ix_(s, s)]),
    ),
    "cluster": (
        lambda g: cluster_set_credits(g.quality, g.classes, g.k),
        lambda g, s: float(g.quality[s].mean()) * len(distinct(g.classes[s])) / len(s),
    ),
    "distinct_correct": (
        lambda g: distinct_correct_set_credits(g.classes, g.k),
        lambda g, s: len(distinct(g.classes[s])) / len(s),
    ),
    "coverage": (
        lambda g: coverage_set_credits(g.quality, g.classes, g.k),
        lambda g, s: sum(
            max(g.quality[i] for i in s if g.classes[i] == c) for c in distinct(g.classes[s])
        ) / len(s),
    ),
    "entropy": (lambda g: entropy_set_credits(g.classes, g.k), lambda g, s: entropy_of(g.classes[s])),
    "simpson": (
        lambda g: simpson_set_credits(g.classes, g.k),
        lambda g, s: float(
            np.mean([g.classes[i] != g.classes[j] and -1 not in (g.classes[i], g.classes[j]) for i in s for j in s])
        ),
    ),
    "max": (lambda g: max_set_credits(g.quality, g.k), lambda g, s: float(g.quality[s].max())),
    "facility": (
        lambda g: facility_location_set_credits(g.anchors, g.k),
        lambda g, s: float(g.anchors[:, s].max(axis=1).mean()),
    ),
    "determinant": (
        lambda g: determinant_set_credits(g.kernel, g.k),
        lambda g, s: float(np.linalg.det(g.kernel[np.ix_(s, s)])),
    ),
}  # fmt: skip
sizes = st.tuples(st.integers(0, 2**32 - 1), st.integers(3, 9), st.integers(2, 8)).filter(
    lambda case: case[2] < case[1]
)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=sizes)
def test_closed_form_equals_enumeration_and_its_invariants(name, case) -> None:
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


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=sizes, objective=st.sampled_from(["pairwise", "cluster", "determinant", "max"]))
def test_lambda_zero_is_leave_one_out(case, objective) -> None:
    group = Group(*case)
    result = polychromic_advantages(
        group.quality, objective=objective, quality_weight=1.0, diversity_weight=0.0, set_size=group.k
    )
    n = len(group.quality)
    expected = [q - (group.quality.sum() - q) / (n - 1) for q in group.quality]
    np.testing.assert_allclose(result.advantages_G, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_large_groups_are_finite_and_not_all_alike(name) -> None:
    group = Group(1, 400, 8)
    credits_G = CASES[name][0](group)
    assert np.isfinite(credits_G).all()
    assert abs(credits_G.sum()) < 1e-11
    assert np.ptp(credits_G) > 1e-8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_correct_set_credits([0, 1], 2), r"k=2.*\b1\b"),
        (lambda: entropy_set_credits([0, 1, 2], 1), r"k=1.*\b2\b"),
        (lambda: simpson_set_credits([0.5, 1, 2], 2), "classes_G="),
        (lambda: coverage_set_credits([0.5, 1.5, 0], [0, 1, 2], 2), "quality_G.*0.0.*1.5"),
        (lambda: determinant_set_credits(np.ones((3, 2)), 2), r"kernel_GG.*\(3, 2\)"),
        (lambda: determinant_set_credits(np.full((3, 3), np.nan), 2), "finite"),
        (lambda: determinant_set_credits([[1, 2, 0], [2, 1, 0], [0, 0, 1]], 2), "eigenvalue -1"),
        (
            lambda: determinant_set_credits([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], 2),
            "kernel_GG.*transpose",
        ),
        (lambda: facility_location_set_credits([0.5, 0.5, 0.1], 2), r"similarity_VG.*\(3,\)"),
        (lambda: facility_location_set_credits([[0.5, 2.0, 0.1]], 2), "similarity_VG"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
