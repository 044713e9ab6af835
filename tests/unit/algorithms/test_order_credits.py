"""Objectives of the best sample: published numbers, edge cases, thousands of samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from polyray.algorithms import (
    best_minus_second_advantages,
    max_set_credits,
    pass_at_k_training_advantages,
    pkpo_advantages,
)


def test_pass_at_k_training_reproduces_the_published_example() -> None:
    # N = 8 with 2 correct, k = 4: R = 1 - C(6,4)/C(8,4) = 55/70.
    advantages = pass_at_k_training_advantages([1, 1, 0, 0, 0, 0, 0, 0], 4)
    np.testing.assert_allclose(advantages, [0.5222329678670935] * 2 + [-0.17407765595569782] * 6, atol=1e-15)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_correct", [0, 1, 3, 5, 8])
def test_pass_at_k_training_equals_the_mean_over_all_groups(num_correct, k) -> None:
    correct = np.array([1.0] * num_correct + [0.0] * (8 - num_correct))
    groups = list(combinations(range(8), k))
    values = np.array([max(correct[list(group)]) for group in groups])
    normalised = (values - values.mean()) / (values.std() or 1.0)
    expected = [np.mean([v for v, g in zip(normalised, groups, strict=True) if i in g]) for i in range(8)]
    np.testing.assert_allclose(pass_at_k_training_advantages(correct, k), expected, rtol=0, atol=1e-12)


def best(values, subset) -> float:
    return float(max(values[list(subset)])) if len(subset) else 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_pkpo_equals_its_definitions(k) -> None:
    g = np.array([0.3, -1.0, 2.0, 0.3, 0.7, 0.0])
    subsets = list(combinations(range(6), k))
    s = [sum(best(g, S) for S in subsets if i in S) / len(subsets) for i in range(6)]
    np.testing.assert_allclose(pkpo_advantages(g, k, "s"), s, rtol=0, atol=1e-14)
    marginal = [
        sum(best(g, S) - best(g, [j for j in S if j != i]) for S in subsets if i in S) / len(subsets)
        for i in range(6)
    ]
    np.testing.assert_allclose(pkpo_advantages(g, k), marginal, rtol=0, atol=1e-14)
    if k <= 5:
        without = [pkpo_advantages(np.delete(g, i), k, "s").mean() for i in range(6)]
        np.testing.assert_allclose(pkpo_advantages(g, k, "sloo"), np.array(s) - without, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 4, 2000, 4095])
def test_order_credits_of_thousands_of_samples_are_finite(k) -> None:
    values = np.random.default_rng(0).random(4096)
    credits_G = max_set_credits(values, k)
    assert np.isfinite(credits_G).all()
    assert abs(credits_G.sum()) < 1e-12
    assert credits_G[np.argmax(values)] > 0
    for variant in ("s", "sloo", "sloo_minus_one"):
        assert np.isfinite(pkpo_advantages(values, k, variant)).all()
    if k == 1:
        np.testing.assert_allclose(4095 * credits_G, values - values.mean(), rtol=1e-9, atol=1e-11)


def test_best_minus_second_equals_pkpo_of_the_whole_group() -> None:
    for values in ([0.2, 0.9, 0.5], [1, 1, 0]):
        found = best_minus_second_advantages(values)
        np.testing.assert_allclose(found, pkpo_advantages(values, 3), atol=1e-16)
    scaled = best_minus_second_advantages([0.0, 1.0], scale="std")
    assert scaled[1] == pytest.approx(1 / (np.sqrt(0.5) + 1e-6))
