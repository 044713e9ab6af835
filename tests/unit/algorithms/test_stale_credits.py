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
    exact_gradient,
    expectation,
    scores,
)

N, K = 5, 3
SAMPLED_V = np.array([0.2, 0.3, 0.35, 0.15])
"""The policy that sampled; PROBABILITIES_V is the one that is trained."""
LOG_WEIGHTS_V = np.log(PROBABILITIES_V / SAMPLED_V)


def set_value(outcomes: Outcomes) -> float:
    classes = {int(CLASSES_V[v]) for v in outcomes} - {-1}
    return float(np.mean([QUALITY_V[v] for v in outcomes])) * len(classes) / len(outcomes)


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


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_product_over_the_set_is_exact() -> None:
    np.testing.assert_allclose(update("set_product"), exact_gradient(set_value, K), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "cap", "direction", "error"),
    [
        ("sample", float("inf"), 0.9425, 0.41),
        ("sample", 1.0, 0.9664, 0.26),
        ("set_product", 1.0, 0.9984, 0.21),
        ("set_product", 1.5, 0.9998, 0.07),
        ("set_product", 2.0, 0.9999, 0.02),
    ],
)
def test_the_bias_that_the_readme_names(weights: str, cap: float, direction: float, error: float) -> None:
    exact, biased = exact_gradient(set_value, K), update(weights, cap)
    assert cosine(biased, exact) == pytest.approx(direction, abs=1e-4)
    assert np.linalg.norm(biased - exact) / np.linalg.norm(exact) == pytest.approx(error, abs=0.006)


def test_a_cap_trades_variance_for_bias() -> None:
    exact = exact_gradient(set_value, K)
    errors = [np.linalg.norm(update("set_product", cap) - exact) for cap in (1.0, 2.0, 4.0, 8.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01 and errors[-1] < 1e-12  # the largest product of three weights is 1.75 ** 3


def test_equal_policies_have_the_ordinary_credits() -> None:
    group = (0, 1, 2, 3, 1)
    value = lambda s: set_value(tuple(group[i] for i in s))  # noqa: E731
    ordinary = enumerated_set_credits(value, N, K)
    for weights in ("sample", "set_product"):
        stale = stale_set_credits(one_by_one(value), np.zeros(N), K, weights)
        np.testing.assert_allclose(stale, ordinary, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stale_set_credits(one_by_one(len), [0.0, 0.0], 2), r"k=2.*\b1\b"),
        (lambda: stale_set_credits(one_by_one(len), [0.0, float("inf"), 0.0], 2), r"log_weights_G\[1\]=inf"),
        (lambda: stale_set_credits(one_by_one(len), [0.0] * 3, 2, cap=0.0), r"cap=0.0.*\b0\b"),
        (lambda: stale_set_credits(one_by_one(len), [0.0] * 3, 2, "none"), "weights='none'"),  # pyright: ignore
        (lambda: stale_set_credits(one_by_one(len), [0.0] * 60, 20), "num_samples=.*k="),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
