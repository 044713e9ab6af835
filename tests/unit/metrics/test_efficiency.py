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


def test_ratio_by_hand() -> None:
    curve = [0.5, 0.75, 0.78, 0.8]
    assert diversity_efficiency_ratio(curve, [1, 2, 4]).tolist() == pytest.approx([1.0, 0.75, 0.4])
    perfect = [1.0] * 10  # looks collapsed, which is why the null stands beside it
    assert diversity_efficiency_ratio(perfect, [10]).tolist() == pytest.approx([0.1])
    assert diversity_efficiency_null(perfect, [10]).tolist() == pytest.approx([0.1])


def test_ratio_of_many_curves_is_that_of_each_and_nan_without_a_pass() -> None:
    curves = np.array([[[0.5, 0.75], [0.2, 0.3]], [[0.0, 0.2], [1.0, 1.0]]])
    found = diversity_efficiency_ratio(curves, [2])
    np.testing.assert_allclose(found[..., 0], [[0.75, 0.75], [np.nan, 0.5]])
    null = diversity_efficiency_null(curves, [2])
    np.testing.assert_allclose(null[..., 0], [[0.75, 0.36 / 0.4], [np.nan, 0.5]])


def test_null_is_the_ratio_of_independent_samples() -> None:
    rates, ks = np.array([0.1, 0.4, 0.9]), [1, 2, 8]
    curve = [float(np.mean(1 - (1 - rates) ** k)) for k in range(1, 9)]
    ratio, pooled = diversity_efficiency_ratio(curve, ks), diversity_efficiency_null(curve, ks)
    p = rates.mean()
    assert pooled.tolist() == pytest.approx([(1 - (1 - p) ** k) / (k * p) for k in ks], abs=1e-15)
    assert ratio[2] < pooled[2]  # prompts of unequal difficulty
    equal = [1 - 0.7**k for k in range(1, 9)]
    assert diversity_efficiency_ratio(equal, ks)[2] == pytest.approx(diversity_efficiency_null(equal, ks)[2])


def test_collapse_point_of_a_sequence_starts_at_k_1() -> None:
    assert collapse_point([0.2, 0.3, 0.35], 0.06) == collapse_point({3: 0.35, 1: 0.2, 2: 0.3}, 0.06) == 2


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
    assert collapse_point(curve, threshold) == first_quiet_k(ks, [curve[k] for k in ks], threshold)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ({1: 0.5, 2: 0.6, 3: 0.605, 4: 0.606}, 2),
        ({1: 0.5, 2: 0.5, 3: 0.7, 4: 0.7, 5: 0.7}, 3),  # a gain after the first pause
        ({1: 0.5, 2: 0.6, 3: 0.7}, None),  # the last k never counts
        ({1: 0.9}, None),
        ({1: 0.5, 10: 0.55, 20: 0.551}, 1),  # 0.05 in 9 samples is 0.0056 each
        ({1: 0.5, 2: 0.55, 12: 0.6, 22: 0.95}, None),  # 0.005, then 0.035 each
        ({1: 0.28, 2: 0.29, 3: 0.3, 4: 0.3}, 3),  # 0.29 - 0.28 is rounded below 0.01, but is not below it
        ({1: 0.7, 2: 0.6, 3: 0.5}, 1),
    ],
)
def test_collapse_point_by_hand(curve, expected) -> None:
    assert collapse_point(curve) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity_efficiency_ratio([0.5, 0.6], [3]), r"k=3.*\b2\b"),
        (lambda: collapse_point({0: 0.1, 1: 0.2}), r"k=0.*\b1\b"),
        (lambda: collapse_point({1: float("nan"), 2: 0.2}), r"curve\[0\]=nan"),
        (lambda: collapse_point([0.1, 0.2], float("nan")), "threshold=nan"),
        (lambda: diversity_efficiency_null([0.5, 0.6], [0]), r"k=0.*\b1\b"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
