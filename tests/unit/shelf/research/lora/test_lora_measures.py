"""Spectra, overlaps, drift and the null of seeds, against the full matrices and brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg

from polyray.shelf.research.lora import null
from polyray.shelf.research.lora.drift import drift
from polyray.shelf.research.lora.null import arm_difference, distances
from polyray.shelf.research.lora.overlaps import Overlap, overlap, subspace_overlap
from polyray.shelf.research.lora.spectra import Spectrum, decompose, spectrum
from polyray.shelf.research.lora.updates import Update

OUT, IN = 9, 13


def update(seed: int, rank: int = 3, scale: float = 1.0) -> Update:
    draw = np.random.default_rng(seed)
    return Update(scale * draw.normal(size=(OUT, rank)), draw.normal(size=(rank, IN)))


def dense(given: Update) -> np.ndarray:
    return given.left @ given.right


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def spectrum_of(given: Update) -> Spectrum:
    return spectrum(decompose(given).singular_values)


def overlap_of(first: Update, second: Update) -> Overlap:
    return overlap(decompose(first), decompose(second))


ZERO = Update(np.zeros((OUT, 3)), np.ones((3, IN)))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_spectrum_matches_the_full_matrix(rank: int) -> None:
    given = update(rank, rank)
    values = np.linalg.svd(dense(given), compute_uv=False)[:rank]
    found = spectrum_of(given)
    assert found.rank == rank
    assert found.singular_values == pytest.approx(values, rel=1e-10)
    assert found.norm == pytest.approx(np.linalg.norm(dense(given)), rel=1e-12)
    assert found.spectral_norm == pytest.approx(np.linalg.norm(dense(given), 2), rel=1e-12)
    assert found.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-10)
    shares = values / values.sum()
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-10)


def test_spectrum_of_known_updates_has_their_ranks() -> None:
    even = Update(np.eye(OUT)[:, :4] * 2.5, np.eye(IN)[:4])
    found = spectrum_of(even)
    assert (found.rank, found.spectral_norm) == (4, 2.5)
    assert (found.effective_rank, found.stable_rank) == pytest.approx((4.0, 4.0), abs=1e-12)
    assert spectrum_of(ZERO) == spectrum_of(Update(np.zeros((OUT, 2)), np.zeros((2, IN))))
    assert (spectrum_of(ZERO).rank, spectrum_of(ZERO).norm, spectrum_of(ZERO).effective_rank) == (0, 0.0, 0.0)


def test_decomposition_does_not_depend_on_the_factorisation() -> None:
    given, mixing = update(0), np.random.default_rng(1).normal(size=(3, 3))
    found = decompose(given)
    rebuilt = found.output_basis @ np.diag(found.singular_values) @ found.input_basis.T
    assert np.abs(rebuilt - dense(given)).max() < 1e-12
    for basis in (found.output_basis, found.input_basis):
        assert np.abs(basis.T @ basis - np.eye(3)).max() < 1e-12
    same = Update(given.left @ mixing, np.linalg.inv(mixing) @ given.right)
    assert spectrum_of(same).singular_values == pytest.approx(spectrum_of(given).singular_values, rel=1e-9)
    both = overlap_of(given, same)
    assert (both.cosine, both.written.overlap) == pytest.approx((1.0, 1.0), abs=1e-12)


def test_overlap_matches_the_full_matrices() -> None:
    first, second = update(1, 2), update(2, 4)
    found = overlap_of(first, second)
    one, two = dense(first), dense(second)
    assert found.cosine == pytest.approx(cosine(one, two), rel=1e-10)
    for side, matrices in ((found.written, (one, two)), (found.read, (one.T, two.T))):
        angles = sorted(scipy.linalg.subspace_angles(*(scipy.linalg.orth(matrix) for matrix in matrices)))
        assert side.angles == pytest.approx(angles, abs=1e-10)
        assert side.overlap == pytest.approx(float(np.mean(np.cos(angles) ** 2)), rel=1e-10)
    assert (found.written.by_chance, found.read.by_chance) == (4 / OUT, 4 / IN)


def test_overlap_by_chance_matches_random_subspaces() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        first, second = (np.linalg.qr(draw.normal(size=(20, size)))[0] for size in (2, 5))
        found.append(subspace_overlap(first.T @ second, 20))
    assert found[0].by_chance == 0.25
    # The standard error of this mean is .0022.
    assert float(np.mean([each.overlap for each in found])) == pytest.approx(0.25, abs=0.009)


def test_overlap_with_a_zero_update_is_undefined() -> None:
    found = overlap_of(update(1), ZERO)
    assert math.isnan(found.cosine) and math.isnan(found.written.overlap) and found.read.angles == ()


def test_drift_matches_the_full_matrices() -> None:
    path = [update(seed, rank) for seed, rank in ((1, 2), (2, 3), (3, 1), (4, 2))]
    full = [dense(each) for each in path]
    found = drift(path)
    steps = [after - before for before, after in itertools.pairwise(full)]
    assert found.norm == pytest.approx([np.linalg.norm(each) for each in full])
    assert found.from_first == pytest.approx([np.linalg.norm(each - full[0]) for each in full], abs=1e-6)
    assert found.moved == pytest.approx([np.linalg.norm(step) for step in steps])
    assert found.turned == pytest.approx([cosine(a, b) for a, b in itertools.pairwise(steps)])
    standing = drift([path[0], path[0], path[0]])
    assert standing.moved == pytest.approx((0.0, 0.0), abs=1e-6)
    assert drift(path[:1]).moved == () and drift(path[:2]).turned == ()


def brute_force_p(updates: list[Update], size: int) -> float:
    """Over all permutations of the labels, distances from the full matrices."""
    full = [dense(each) for each in updates]
    pairs = list(itertools.combinations(range(len(full)), 2))
    apart = {(i, j): float(np.linalg.norm(full[i] - full[j])) for i, j in pairs}

    def statistic(order: Sequence[int]) -> float:
        first = set(order[:size])
        is_within = {pair: (pair[0] in first) == (pair[1] in first) for pair in pairs}
        between, within = (
            [apart[pair] for pair in pairs if is_within[pair] == side] for side in (False, True)
        )
        return float(np.mean(between)) - float(np.mean(within))

    found = statistic(range(len(full)))
    return float(
        np.mean([statistic(order) >= found - 1e-9 for order in itertools.permutations(range(len(full)))])
    )


@pytest.mark.parametrize(
    ("one", "two", "shift"), [(3, 3, 0.0), (3, 3, 2.0), (2, 4, 0.4), (1, 5, 0.7), (2, 2, 0.1)]
)
def test_arm_difference_tests_every_division_of_the_seeds(one: int, two: int, shift: float) -> None:
    constant = update(99, 1, shift)
    first = [update(seed) for seed in range(one)]
    second = [
        Update(np.hstack([u.left, constant.left]), np.vstack([u.right, constant.right]))
        for u in (update(seed + 10) for seed in range(two))
    ]
    found = arm_difference(first, second)
    assert found.p == pytest.approx(brute_force_p(first + second, one), abs=1e-12)
    assert found.smallest_p == pytest.approx((2 if one == two else 1) / math.comb(one + two, one))


def test_arm_difference_that_cannot_be_tested_has_no_p_value() -> None:
    alone = arm_difference([update(1)], [update(2)])
    assert math.isnan(alone.p) and math.isnan(alone.within) and alone.between > 0
    assert math.isnan(arm_difference([ZERO, ZERO], [ZERO, ZERO]).p)


def test_arm_difference_refuses_too_many_divisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(null, "MAX_DIVISIONS", 9)
    with pytest.raises(ValueError, match=r"6 adapters .*10 divisions.* 9\b"):
        arm_difference([update(seed) for seed in range(3)], [update(seed) for seed in range(3, 6)])


def test_distances_match_the_full_matrices() -> None:
    updates = [update(seed) for seed in range(4)]
    expected = [[np.linalg.norm(dense(a) - dense(b)) for b in updates] for a in updates]
    assert distances(updates) == pytest.approx(np.array(expected), abs=1e-6)
