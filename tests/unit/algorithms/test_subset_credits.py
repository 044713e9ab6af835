"""Balanced designs, shared advantages and the set functions: structure and values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import (
    balanced_set_credits,
    balanced_subsets,
    enumerated_set_credits,
    shared_set_advantages,
)


@pytest.mark.parametrize(
    ("num_samples", "k", "asked", "given"), [(8, 4, 5, 6), (7, 3, 1, 7), (6, 4, 4, 6), (9, 3, 3, 3)]
)
def test_balanced_subsets_hold_each_sample_equally_often(num_samples, k, asked, given) -> None:
    subsets = balanced_subsets(num_samples, k, asked, np.random.default_rng(0))
    assert subsets.shape == (given, k)
    assert (np.diff(subsets, axis=1) > 0).all()
    assert np.bincount(subsets.ravel()).tolist() == [given * k // num_samples] * num_samples


def test_balanced_credits_with_a_budget_for_all_subsets_enumerate() -> None:
    values = np.random.default_rng(1).random(8)
    value = lambda s: float(np.prod(values[list(s)]))  # noqa: E731
    everything = balanced_set_credits(value, 8, 4, 70, np.random.default_rng(0))
    np.testing.assert_array_equal(everything, enumerated_set_credits(value, 8, 4))
    few = balanced_set_credits(value, 8, 4, 10, np.random.default_rng(0))
    assert abs(few.sum()) < 1e-15
    assert np.abs(few - everything).max() > 1e-3


def test_shared_set_advantages_equal_the_published_form() -> None:
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
