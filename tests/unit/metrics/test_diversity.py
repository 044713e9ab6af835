"""Cosine distance, Vendi score and entropy: by hand, against pair loops, against scipy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cosine

from polyray.metrics import mean_pairwise_cosine_distance, output_entropy, vendi_score


def test_cosine_distance_equals_the_mean_over_pairs() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5)) * np.arange(1, 8)[:, None]
    expected = np.mean([cosine(a, b) for a, b in combinations(rows, 2)])
    assert mean_pairwise_cosine_distance(rows) == pytest.approx(expected, abs=1e-14)
    assert mean_pairwise_cosine_distance(rows.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


def test_vendi_of_two_samples_in_closed_form() -> None:
    # Eigenvalues of [[1, c], [c, 1]] / 2 are (1 + c) / 2 and (1 - c) / 2.
    shares = np.array([0.8, 0.2])
    kernel = [[1, 0.6], [0.6, 1]]
    assert vendi_score(kernel) == pytest.approx(np.exp(stats.entropy(shares)))
    assert vendi_score(kernel, q=2) == pytest.approx(1 / (shares**2).sum())
    assert vendi_score(kernel, q=0.5) == pytest.approx(np.sqrt(shares).sum() ** 2)
    assert vendi_score(kernel, q=np.inf) == pytest.approx(1 / 0.8)
    assert vendi_score(kernel, q=0) == pytest.approx(2)
    assert vendi_score(kernel, q=1.0001) == pytest.approx(vendi_score(kernel), abs=1e-4)


def test_entropy_equals_scipys_of_class_shares() -> None:
    classes = [3, 3, -1, 9, 9, 9, -1, 3]
    assert output_entropy(classes) == pytest.approx(stats.entropy([3, 2, 3]), abs=1e-15)
    assert output_entropy([5, 5, 5]) == 0.0 and not np.signbit(output_entropy([5, 5]))
    assert output_entropy(range(8)) == pytest.approx(np.log(8))


def test_entropy_bias_matches_the_docstring() -> None:
    rng = np.random.default_rng(3)
    estimates = [output_entropy(rng.integers(0, 4, 60)) for _ in range(4000)]
    assert np.mean(estimates) - np.log(4) == pytest.approx(-3 / 120, abs=0.002)
