"""Exact ratios of binomial coefficients: what every estimator over k-subsets of n samples is built from.

Not an estimator itself. Called by pass_at_k, selection and algorithms.set_credits.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np

from polyray.metrics.arrays import Floats


@lru_cache(maxsize=1024)
def miss_probability(num_samples: int, k: int) -> Floats:
    """[num_samples + 1]: entry c is C(n-c, k) / C(n, k), the share of k-subsets that miss c given samples.

    Computed with whole numbers and divided once, so each entry is the nearest float64 for any n (binomials of
    n = 4096 overflow floats). Needs 0 <= k <= n. The array is shared and read-only.
    """
    total = comb(num_samples, k)
    table = np.zeros(num_samples + 1)
    ways = total
    for missed in range(num_samples - k + 1):
        table[missed] = ways / total
        remaining = num_samples - missed
        if remaining:
            ways = ways * (remaining - k) // remaining
    table.flags.writeable = False
    return table
