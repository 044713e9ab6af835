"""Determinant credits where floating point is at its worst: collapsed, rank-deficient and very large groups."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest

from polyray.algorithms import determinant_set_credits


def exact_determinant(rows: list[list[Fraction]]) -> Fraction:
    """By cofactors: no division, no rounding."""
    if len(rows) == 1:
        return rows[0][0]
    minors = ([row[:j] + row[j + 1 :] for row in rows[1:]] for j in range(len(rows)))
    return sum(
        ((-1) ** j * rows[0][j] * exact_determinant(minor) for j, minor in enumerate(minors)), Fraction(0)
    )


def exact_credits(kernel_GG: np.ndarray, k: int) -> np.ndarray:
    """(k / N) (mean determinant of the minors with i - of those without), in fractions of the given floats."""
    n = len(kernel_GG)
    exact = [[Fraction(float(x)) for x in row] for row in kernel_GG]
    minors = {s: exact_determinant([[exact[i][j] for j in s] for i in s]) for s in combinations(range(n), k)}
    means = [
        (
            sum(value for s, value in minors.items() if i in s) / comb(n - 1, k - 1),
            sum(value for s, value in minors.items() if i not in s) / comb(n - 1, k),
        )
        for i in range(n)
    ]
    return np.array([float(Fraction(k, n) * (with_i - without_i)) for with_i, without_i in means])


def symmetric(kernel_GG: np.ndarray) -> np.ndarray:
    return (kernel_GG + kernel_GG.T) / 2


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_determinant_credits_of_nearly_equal_samples_keep_their_digits(k, spread) -> None:
    """A collapsed group: its minors are of the order spread^(2 (k - 1)), 1e-18 at the smallest."""
    rng = np.random.default_rng(k)
    features = np.ones((7, 5)) + spread * rng.normal(size=(7, 5))
    kernel = symmetric(features @ features.T) / 5
    expected = exact_credits(kernel, k)
    # Rounding the kernel itself moves a determinant by 1e-16 times the minors one size smaller.
    noise = 1e-14 * (1 + 1 / spread**2) * np.abs(expected).max()
    assert 0 < noise < 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(determinant_set_credits(kernel, k), expected, rtol=0, atol=noise)


def test_determinant_credits_beyond_the_rank_are_zero() -> None:
    features = np.random.default_rng(0).normal(size=(9, 2))
    kernel = symmetric(features @ features.T)
    assert np.abs(determinant_set_credits(kernel, 2)).max() > 0.1
    np.testing.assert_allclose(determinant_set_credits(kernel, 3), 0, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(determinant_set_credits(np.zeros((4, 4)), 2), np.zeros(4))


@pytest.mark.parametrize("size", [1e-60, 1.0, 1e60])
def test_determinant_credits_of_300_samples_in_sets_of_150_are_exact(size) -> None:
    n, k = 300, 150
    diagonal = [Fraction(1)] * 120 + [Fraction(3, 4)] * 180

    def products(ones: int, others: int, order: int) -> Fraction:
        """e_order of so many values 1 and 3/4."""
        return sum(
            (comb(ones, order - j) * comb(others, j) * Fraction(3, 4) ** j for j in range(order + 1)),
            Fraction(0),
        )

    mean = products(120, 180, k) / comb(n, k)
    with_one = products(119, 180, k - 1) / comb(n - 1, k - 1)
    with_other = Fraction(3, 4) * products(120, 179, k - 1) / comb(n - 1, k - 1)
    expected = np.repeat(
        [float(Fraction(k, n - k) * (with_i - mean)) for with_i in (with_one, with_other)], [120, 180]
    )
    kernel = np.diag([float(d) for d in diagonal])
    actual = determinant_set_credits(kernel * size ** (2 / k), k)
    np.testing.assert_allclose(actual, expected * size**2, rtol=1e-11)


@pytest.mark.parametrize("order", [range(6), (5, 3, 1, 0, 2, 4)])
def test_determinant_credits_of_any_order_of_eigenvalues_are_exact(order) -> None:
    kernel = np.diag(np.array([1e-8, 3.0, 1e3, 0.5, 2.0, 1e-3])[list(order)])
    np.testing.assert_allclose(determinant_set_credits(kernel, 3), exact_credits(kernel, 3), rtol=1e-12)
