"""Effect sizes by hand, against pair loops and scipy, and their invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import cliffs_delta, cohens_d, cohens_d_z

stats: Any = scipy.stats  # its results are typed as bunches of anything
SAMPLES = st.lists(st.integers(-4, 4), min_size=2, max_size=12)


def test_effect_sizes_follow_from_scipys_t() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 7), rng.normal(0, 1, 31)
    # t of two samples is d / sqrt(1/n + 1/m), t of pairs is d_z sqrt(n).
    t = stats.ttest_ind(a, b).statistic
    assert cohens_d(a, b) == pytest.approx(t * np.sqrt(1 / 7 + 1 / 31))
    assert cohens_d_z(a - b[:7]) == pytest.approx(stats.ttest_rel(a, b[:7]).statistic / np.sqrt(7))


@settings(max_examples=50, deadline=None)
@given(SAMPLES, SAMPLES)
def test_cliffs_delta_equals_the_mean_sign_of_all_pairs(a, b) -> None:
    expected = np.sign(np.subtract.outer(a, b)).mean()
    assert cliffs_delta(a, b) == pytest.approx(expected, abs=1e-15)
    assert cliffs_delta(b, a) == -cliffs_delta(a, b)
    assert cliffs_delta(np.exp(a), np.exp(b)) == cliffs_delta(a, b)
    u = stats.mannwhitneyu(a, b).statistic
    assert cliffs_delta(a, b) == pytest.approx(2 * u / (len(a) * len(b)) - 1, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, SAMPLES)
def test_cohens_d_is_antisymmetric_and_free_of_unit_and_origin(a, b) -> None:
    d = cohens_d(a, b)
    assert cohens_d(b, a) == -d
    if np.isfinite(d):
        assert cohens_d(3 * np.array(a) + 7, 3 * np.array(b) + 7) == pytest.approx(d, abs=1e-9)


def test_effect_sizes_without_spread_are_zero_or_infinite() -> None:
    assert cohens_d([0.1, 0.1, 0.1], [0.1, 0.1]) == 0.0
    assert cohens_d([1, 1], [0, 0]) == np.inf
    assert cohens_d([0, 0], [1, 1]) == -np.inf
    assert cohens_d_z([0.7, 0.7, 0.7]) == cohens_d_z([0.1 + 0.2, 0.3]) == np.inf
    assert cohens_d_z([0.0, 0.0]) == 0.0
