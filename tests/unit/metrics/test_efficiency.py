"""DER, its null and the collapse point: by hand, in closed form, and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import (
    collapse_point,
    diversity_efficiency_null,
    diversity_efficiency_ratio,
)


def test_ratio_and_null_of_many_curves_are_nan_without_a_pass() -> None:
    curves = np.array([[[0.5, 0.75], [0.2, 0.3]], [[0.0, 0.2], [1.0, 1.0]]])
    found = diversity_efficiency_ratio(curves, [2])
    np.testing.assert_allclose(found[..., 0], [[0.75, 0.75], [np.nan, 0.5]])
    null = diversity_efficiency_null(curves, [2])
    np.testing.assert_allclose(null[..., 0], [[0.75, 0.36 / 0.4], [np.nan, 0.5]])


def test_null_equals_the_ratio_of_independent_samples() -> None:
    rates, ks = np.array([0.1, 0.4, 0.9]), [1, 2, 8]
    curve = [float(np.mean(1 - (1 - rates) ** k)) for k in range(1, 9)]
    ratio, pooled = diversity_efficiency_ratio(curve, ks), diversity_efficiency_null(curve, ks)
    p = rates.mean()
    assert pooled.tolist() == pytest.approx([(1 - (1 - p) ** k) / (k * p) for k in ks], abs=1e-15)
    assert ratio[2] < pooled[2]  # prompts of unequal difficulty
    equal = [1 - 0.7**k for k in range(1, 9)]
    assert diversity_efficiency_ratio(equal, ks)[2] == pytest.approx(diversity_efficiency_null(equal, ks)[2])


def first_quiet_k(ks: list[int], values: list[float], threshold: float) -> int | None:
    gains = [
        (later - value) / (next_k - k)
        for k, next_k, value, later in zip(ks[:-1], ks[1:], values[:-1], values[1:], strict=True)
    ]
    for position, k in enumerate(ks[:-1]):
        if all(gain < threshold for gain in gains[position:]):
            return k
    return None


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.integers(1, 30), st.integers(0, 40), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.0103, 0.021, 0.3]),
)
def test_collapse_point_is_the_first_k_without_a_later_gain(points, threshold) -> None:
    curve = {k: value / 40 for k, value in points.items()}
    ks = sorted(curve)
    expected = first_quiet_k(ks, [curve[k] for k in ks], threshold)
    assert collapse_point(curve, threshold) == expected
    if ks == list(range(1, len(ks) + 1)):
        assert collapse_point([curve[k] for k in ks], threshold) == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ({1: 0.5, 2: 0.6, 3: 0.7}, None),  # the last k never counts
        ({1: 0.5, 10: 0.55, 20: 0.551}, 1),  # 0.05 in 9 samples is 0.0056 each
        ({1: 0.28, 2: 0.29, 3: 0.3, 4: 0.3}, 3),  # 0.29 - 0.28 is rounded below 0.01, but is not below it
    ],
)
def test_collapse_point_with_the_default_threshold(curve, expected) -> None:
    assert collapse_point(curve) == expected
