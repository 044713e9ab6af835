"""Cosine distance, Vendi score and entropy: by hand, against pair loops, against scipy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cosine

from polyray.metrics import mean_pairwise_cosine_distance, output_entropy, vendi_score


def test_cosine_distance_is_the_mean_over_pairs() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5)) * np.arange(1, 8)[:, None]
    expected = np.mean([cosine(a, b) for a, b in combinations(rows, 2)])
    assert mean_pairwise_cosine_distance(rows) == pytest.approx(expected, abs=1e-14)
    assert mean_pairwise_cosine_distance(rows.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


def test_cosine_distance_by_hand() -> None:
    assert mean_pairwise_cosine_distance([[1, 0], [0, 2], [-3, 0]]) == pytest.approx((1 + 1 + 2) / 3)
    assert mean_pairwise_cosine_distance([[1, 1], [2, 2]]) == pytest.approx(0.0, abs=1e-15)
    assert mean_pairwise_cosine_distance(np.eye(9)) == pytest.approx(1.0)


@pytest.mark.parametrize("q", [0, 0.5, 1, 2, np.inf])
def test_vendi_counts_different_items(q) -> None:
    assert vendi_score(np.eye(5), q) == pytest.approx(5)
    assert vendi_score(np.ones((4, 4)), q) == pytest.approx(1)
    three_of_each = np.kron(np.eye(2), np.ones((3, 3)))
    assert vendi_score(three_of_each, q) == pytest.approx(2)


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


def test_vendi_does_not_depend_on_the_order() -> None:
    rows = np.random.default_rng(1).normal(size=(6, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.random.default_rng(2).permutation(6)
    assert vendi_score(rows[order] @ rows[order].T) == pytest.approx(vendi_score(rows @ rows.T), abs=1e-10)
    assert vendi_score(rows @ rows.T) <= 3 + 1e-9  # three dimensions hold no more


def test_entropy_of_class_shares() -> None:
    classes = [3, 3, -1, 9, 9, 9, -1, 3]
    assert output_entropy(classes) == pytest.approx(stats.entropy([3, 2, 3]), abs=1e-15)
    assert output_entropy([5, 5, 5]) == 0.0 and not np.signbit(output_entropy([5, 5]))
    assert output_entropy(range(8)) == pytest.approx(np.log(8))


def test_entropy_bias_matches_the_docstring() -> None:
    rng = np.random.default_rng(3)
    estimates = [output_entropy(rng.integers(0, 4, 60)) for _ in range(4000)]
    assert np.mean(estimates) - np.log(4) == pytest.approx(-3 / 120, abs=0.002)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_pairwise_cosine_distance([[1.0, 2.0]]), r"shape \(1, 2\).*\b2\b"),
        (lambda: mean_pairwise_cosine_distance([1.0, 2.0]), r"shape \(2,\)"),
        (lambda: mean_pairwise_cosine_distance([[1.0], [0.0]]), r"embeddings\[1\].*\b0\b"),
        (lambda: mean_pairwise_cosine_distance([[1.0], [np.nan]]), "NaN"),
        (lambda: vendi_score([[1, 2]]), r"kernel.*\(1, 2\)"),
        (lambda: vendi_score(np.zeros((0, 0))), r"kernel.*\(0, 0\)"),
        (lambda: vendi_score([[1, 0.5], [0.4, 1]]), r"transpose.*\b0\.09"),
        (lambda: vendi_score(np.zeros((2, 2))), r"diagonal.*0\.0.*0\.0"),
        (lambda: vendi_score([[1, 2], [2, 1]]), "eigenvalue -1"),
        (lambda: vendi_score([[1, np.nan], [np.nan, 1]]), "NaN"),
        (lambda: vendi_score(np.eye(2), q=-1), r"q=-1.*\b0\b"),
        (lambda: output_entropy([]), "classes_G"),
        (lambda: output_entropy([0.5]), r"_G=\[0\.5\]"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
