"""Agreement coefficients on worked examples of the literature, and against pair loops and scikit-learn."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from polyray.metrics import cohens_kappa, krippendorff_alpha

NONE = float("nan")
# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section E: four observers, twelve units.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


# Section A of the same paper: two observers, binary data, ten units.
TWO_OBSERVERS = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("ratings", "level", "published"),
    [
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (FOUR_OBSERVERS, "interval", 0.849),
        (TWO_OBSERVERS, "nominal", 0.095),
    ],
)
def test_alpha_of_a_published_example_is_the_published_value(ratings, level, published) -> None:
    assert krippendorff_alpha(ratings, level) == pytest.approx(published, abs=5e-4)
    with_none: list[list[float | None]] = [[None if v != v else v for v in row] for row in ratings]
    assert krippendorff_alpha(with_none, level) == krippendorff_alpha(ratings, level)


def alpha_by_pairs(matrix: np.ndarray, distance) -> float:
    units = [column[~np.isnan(column)] for column in matrix.T]
    units = [unit for unit in units if len(unit) > 1]
    everything = np.concatenate(units)
    count = len(everything)
    observed = (
        sum(sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / count
    )
    expected = sum(distance(a, b) for a, b in permutations(everything, 2)) / (count * (count - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("seed", range(4))
def test_alpha_equals_the_loop_over_pairs(seed) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 4, (3, 9)).astype(float)
    matrix[rng.random((3, 9)) < 0.25] = np.nan
    assert krippendorff_alpha(matrix) == pytest.approx(alpha_by_pairs(matrix, lambda a, b: float(a != b)))
    squares = alpha_by_pairs(matrix, lambda a, b: (a - b) ** 2)
    assert krippendorff_alpha(matrix, "interval") == pytest.approx(squares)
    # Ranks know no distances: any increasing scale is the same.
    assert krippendorff_alpha(matrix**3, "ordinal") == pytest.approx(krippendorff_alpha(matrix, "ordinal"))


def test_alpha_of_full_agreement_is_one_and_of_one_value_is_nan() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]], "ordinal") == 1.0
    assert krippendorff_alpha([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    assert np.isnan(krippendorff_alpha([[2, 2], [2, 2]]))


@pytest.mark.parametrize("seed", range(3))
def test_kappa_equals_scikit_learn(seed) -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, 60)
    b = np.where(rng.random(60) < 0.5, a, rng.integers(1, 6, 60))
    assert cohens_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert cohens_kappa(a, a) == 1.0
    assert np.isnan(cohens_kappa(["x", "x"], ["x", "x"]))
