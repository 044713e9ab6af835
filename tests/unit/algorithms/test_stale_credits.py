"""Set credits of stale groups: what is unbiased, what is not and by how much, by enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import enumerated_set_credits, stale_set_credits
from polyray.algorithms.set_values import one_by_one
from tests.unit.algorithms.enumeration import (
    CLASSES_V,
    PROBABILITIES_V,
    QUALITY_V,
    Outcomes,
    distinct_share,
    exact_gradient,
    expectation,
    scores,
)

N, K = 5, 3
SAMPLED_V = np.array([0.2, 0.3, 0.35, 0.15])
"""The policy that sampled; PROBABILITIES_V is the one that is trained."""
LOG_WEIGHTS_V = np.log(PROBABILITIES_V / SAMPLED_V)


def set_value(outcomes: Outcomes) -> float:
    return float(np.mean(QUALITY_V[list(outcomes)])) * distinct_share(CLASSES_V, outcomes)


def update(weights, cap=float("inf")) -> np.ndarray:
    """E over groups from the sampling policy of sum_i credit_i grad log pi(y_i)."""

    def weigh(group: Outcomes) -> np.ndarray:
        credits_G = stale_set_credits(
            one_by_one(lambda s: set_value(tuple(group[i] for i in s))),
            LOG_WEIGHTS_V[list(group)],
            K,
            weights,
            cap,
        )
        return credits_G @ scores(group)

    return expectation(weigh, N, SAMPLED_V)


@pytest.mark.parametrize(
    ("weights", "cap", "direction", "error"),
    [
        ("sample", float("inf"), 0.9425, 0.41),
        ("sample", 1.0, 0.9664, 0.26),
        ("set_product", 1.0, 0.9984, 0.21),
        ("set_product", 1.5, 0.9998, 0.07),
        ("set_product", 2.0, 0.9999, 0.02),
        ("set_product", 8.0, 1.0, 0.0),  # the largest product of three weights is 1.75 ** 3
    ],
)
def test_stale_credits_have_the_documented_bias(
    weights: str, cap: float, direction: float, error: float
) -> None:
    exact, biased = exact_gradient(set_value, K), update(weights, cap)
    cosine = biased @ exact / np.linalg.norm(biased) / np.linalg.norm(exact)
    assert cosine == pytest.approx(direction, abs=1e-4)
    assert np.linalg.norm(biased - exact) / np.linalg.norm(exact) == pytest.approx(error, abs=0.006)
    if error == 0.0:
        np.testing.assert_allclose(biased, exact, rtol=0, atol=1e-12)
        np.testing.assert_allclose(update(weights), exact, rtol=0, atol=1e-12)


def test_stale_credits_of_equal_policies_are_the_ordinary_ones() -> None:
    group = (0, 1, 2, 3, 1)
    value = lambda s: set_value(tuple(group[i] for i in s))  # noqa: E731
    ordinary = enumerated_set_credits(value, N, K)
    for weights in ("sample", "set_product"):
        stale = stale_set_credits(one_by_one(value), np.zeros(N), K, weights)
        np.testing.assert_allclose(stale, ordinary, rtol=0, atol=1e-15)
