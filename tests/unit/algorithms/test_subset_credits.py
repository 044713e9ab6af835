"""Balanced designs, shared advantages and the set functions: structure and values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import (
    balanced_set_credits,
    balanced_subsets,
    distinct_n_value,
    enumerated_set_credits,
    logdet_value,
    shared_set_advantages,
    vendi_value,
)


@pytest.mark.parametrize(
    ("num_samples", "k", "asked", "given"), [(8, 4, 5, 6), (7, 3, 1, 7), (6, 4, 4, 6), (9, 3, 3, 3)]
)
def test_every_sample_is_in_equally_many_subsets(num_samples, k, asked, given) -> None:
    subsets = balanced_subsets(num_samples, k, asked, np.random.default_rng(0))
    assert subsets.shape == (given, k)
    assert (np.diff(subsets, axis=1) > 0).all()
    assert np.bincount(subsets.ravel()).tolist() == [given * k // num_samples] * num_samples


def test_a_budget_for_all_subsets_is_enumeration() -> None:
    values = np.random.default_rng(1).random(8)
    value = lambda s: float(np.prod(values[list(s)]))  # noqa: E731
    everything = balanced_set_credits(value, 8, 4, 70, np.random.default_rng(0))
    np.testing.assert_array_equal(everything, enumerated_set_credits(value, 8, 4))
    few = balanced_set_credits(value, 8, 4, 10, np.random.default_rng(0))
    assert abs(few.sum()) < 1e-15
    assert np.abs(few - everything).max() > 1e-3


def test_shared_advantages_as_published() -> None:
    class Fixed:
        """An rng that deals sets {0,1} and {1,2} of three samples."""

        def __init__(self) -> None:
            self.deals = iter([np.array([1, 0, 2]), np.array([2, 1, 0])])

        def permutation(self, _: int) -> np.ndarray:
            return next(self.deals)

    value = lambda s: {(0, 1): 1.0, (1, 2): 0.0}[s]  # noqa: E731
    published = shared_set_advantages(value, 3, 2, 2, Fixed(), unbiased_scale=False)  # pyright: ignore
    assert published.tolist() == [0.5, 0.0, -0.5]
    # Overlaps 2, 1, 1, 2: constant 2 (1 - 1.5 / 2) = 1/2, so N / constant = 6.
    assert shared_set_advantages(value, 3, 2, 2, Fixed()).tolist() == [3.0, 0.0, -3.0]  # pyright: ignore


def test_values_of_sets() -> None:
    kernel = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1.0]])
    assert vendi_value(kernel)((0, 1)) == pytest.approx(1.0)
    assert vendi_value(kernel)((0, 2)) == pytest.approx(0.5)
    assert logdet_value(kernel, ridge=0.5)((0, 1)) == pytest.approx(np.log(1.5))
    assert logdet_value(kernel, ridge=0.5)((0, 2)) == pytest.approx(np.log(2.5 * 0.5) / 2)
    distinct = distinct_n_value([[1, 2, 3], [1, 2], [7]], n=2)
    assert distinct((0, 1)) == pytest.approx(2 / 3)
    assert distinct((2,)) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balanced_subsets(6, 3, 0, np.random.default_rng(0)), r"num_subsets=0.*\b1\b"),
        (
            lambda: shared_set_advantages(len, 6, 3, 1, np.random.default_rng(0)),
            r"num_sets=1.*\b2\b",
        ),
        (lambda: balanced_set_credits(len, 3, 3, 1, np.random.default_rng(0)), r"k=3.*\b2\b"),
        (lambda: distinct_n_value([[1]], n=0), r"n=0.*\b1\b"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
