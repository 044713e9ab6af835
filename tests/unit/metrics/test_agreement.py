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


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(level, published) -> None:
    assert krippendorff_alpha(FOUR_OBSERVERS, level) == pytest.approx(published, abs=5e-4)
    with_gaps: list[list[float | None]] = [[None if v != v else v for v in row] for row in FOUR_OBSERVERS]
    assert krippendorff_alpha(with_gaps, level) == krippendorff_alpha(FOUR_OBSERVERS, level)


def test_alpha_of_the_published_two_observers() -> None:
    # Section A of the same paper: binary data, ten units, alpha 0.095.
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha([first, second]) == pytest.approx(0.095, abs=5e-4)


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
def test_alpha_is_the_loop_over_pairs(seed) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 4, (3, 9)).astype(float)
    matrix[rng.random((3, 9)) < 0.25] = np.nan
    assert krippendorff_alpha(matrix) == pytest.approx(alpha_by_pairs(matrix, lambda a, b: float(a != b)))
    assert krippendorff_alpha(matrix, "interval") == pytest.approx(
        alpha_by_pairs(matrix, lambda a, b: (a - b) ** 2)
    )
    # Ranks know no distances: any increasing scale is the same.
    assert krippendorff_alpha(matrix**3, "ordinal") == pytest.approx(krippendorff_alpha(matrix, "ordinal"))


def test_alpha_of_full_and_of_no_agreement() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]], "ordinal") == 1.0
    assert krippendorff_alpha([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    assert np.isnan(krippendorff_alpha([[2, 2], [2, 2]]))


def test_kappa_by_hand() -> None:
    # 20 both yes, 15 both no, 5 and 10 mixed: observed 0.7, expected 0.5.
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(a, b) == pytest.approx(0.4)
    assert cohens_kappa(a, a) == 1.0
    assert np.isnan(cohens_kappa(["x", "x"], ["x", "x"]))


@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_scikit_learns(seed) -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, 60)
    b = np.where(rng.random(60) < 0.5, a, rng.integers(1, 6, 60))
    assert cohens_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert cohens_kappa(b, a) == pytest.approx(cohens_kappa(a, b))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: krippendorff_alpha([1, 2]), r"ratings.*\(2,\)"),
        (lambda: krippendorff_alpha([[1, NONE], [NONE, 2]]), "two ratings"),
        (lambda: krippendorff_alpha([[1, float("inf")], [1, 2]]), "ratings.*inf"),
        (lambda: krippendorff_alpha([[1], [1]], "ratio"), "level='ratio'"),  # pyright: ignore
        (lambda: cohens_kappa([1, 2], [1]), r"\bb .*\b1\b.*\b2\b"),
        (lambda: cohens_kappa([], []), r"a .*\(0,\)"),
        (lambda: cohens_kappa(["a", None], ["a", "b"]), "a holds None"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
