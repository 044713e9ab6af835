"""p-values of a family of tests, adjusted: compare the adjusted ones with the level of the whole family.

The family is everything that was tested with one question in mind; state it beside the numbers. Not here:
the tests (significance.py). Called by comparison.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, finite_vector


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjustment (1979), in the order given: controls the chance of any false discovery.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1. Valid under any
    dependence.
    """
    values = finite_vector(p_values, "p_values")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"p_values has values from {values.min()} to {values.max()}; all must lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    result = np.empty_like(values)
    result[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return result
