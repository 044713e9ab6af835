"""Effect sizes by hand, against pair loops and scipy, and their invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import cliffs_delta, cohens_d, cohens_d_z, hedges_g

stats: Any = scipy.stats  # its results are typed as bunches of anything
SAMPLES = st.lists(st.integers(-4, 4), min_size=2, max_size=12)


def test_by_hand() -> None:
    # Means 4 and 2, sample variances 4 and 1 with 3 values each: pooled 2.5.
    a, b = [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]
    assert cohens_d(a, b) == pytest.approx(2 / np.sqrt(2.5))
    assert hedges_g(a, b) == pytest.approx(2 / np.sqrt(2.5) * (1 - 3 / 15))
    assert cohens_d_z(np.subtract(a, b)) == pytest.approx(2.0)  # differences 1, 2, 3
    assert cliffs_delta(a, b) == pytest.approx((0 + 3 + 3) / 9)  # 2 is above 1 and below 3


def test_unequal_sizes_are_pooled_by_their_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 7), rng.normal(0, 1, 31)
    # t of two samples is d / sqrt(1/n + 1/m), t of pairs is d_z sqrt(n).
    t = stats.ttest_ind(a, b).statistic
    assert cohens_d(a, b) == pytest.approx(t * np.sqrt(1 / 7 + 1 / 31))
    assert cohens_d_z(a - b[:7]) == pytest.approx(stats.ttest_rel(a, b[:7]).statistic / np.sqrt(7))


def test_hedges_g_removes_the_bias_of_d() -> None:
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(1, 1, 4), rng.normal(0, 1, 4)) for _ in range(2500)]
    d, g = (np.mean([f(a, b) for a, b in pairs]) for f in (cohens_d, hedges_g))
    assert d > 1.1
    assert g == pytest.approx(1.0, abs=0.05)


@settings(max_examples=50, deadline=None)
@given(SAMPLES, SAMPLES)
def test_cliffs_delta_is_the_mean_sign_of_all_pairs(a, b) -> None:
    expected = np.sign(np.subtract.outer(a, b)).mean()
    assert cliffs_delta(a, b) == pytest.approx(expected, abs=1e-15)
    assert cliffs_delta(b, a) == -cliffs_delta(a, b)
    assert cliffs_delta(np.exp(a), np.exp(b)) == cliffs_delta(a, b)
    u = stats.mannwhitneyu(a, b).statistic
    assert cliffs_delta(a, b) == pytest.approx(2 * u / (len(a) * len(b)) - 1, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, SAMPLES)
def test_d_does_not_depend_on_unit_and_origin(a, b) -> None:
    d = cohens_d(a, b)
    assert cohens_d(b, a) == -d
    if np.isfinite(d):
        moved = cohens_d(3 * np.array(a) + 7, 3 * np.array(b) + 7)
        assert moved == pytest.approx(d, abs=1e-9)


def test_cliffs_delta_of_many_values_needs_no_pairs() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=200_000), rng.normal(1, 1, 200_000)
    assert cliffs_delta(a, b) == pytest.approx(2 * stats.norm.cdf(-1 / np.sqrt(2)) - 1, abs=0.01)
    assert cliffs_delta([np.float64(1)], [0.0]) == 1.0


def test_no_spread() -> None:
    assert cohens_d([0.1, 0.1, 0.1], [0.1, 0.1]) == 0.0
    assert cohens_d([1, 1], [0, 0]) == np.inf
    assert hedges_g([0, 0], [1, 1]) == -np.inf
    assert cohens_d_z([0.7, 0.7, 0.7]) == cohens_d_z([0.1 + 0.2, 0.3]) == np.inf
    assert cohens_d_z([0.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cohens_d([1], [1, 2]), r"\ba .*\b1\b.*\b2\b"),
        (lambda: hedges_g([1, 2], []), r"\bb .*\b0\b.*\b2\b"),
        (lambda: cohens_d_z([1]), r"differences.*\b1\b"),
        (lambda: cliffs_delta([1, float("nan")], [1]), r"a\[1\]=nan"),
        (lambda: cliffs_delta([], [1]), r"\ba .*\b0\b"),
        (lambda: cohens_d([[1, 2]], [1, 2]), r"\ba .*\(1, 2\)"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
