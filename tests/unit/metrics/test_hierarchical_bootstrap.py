"""Intervals over seeds and prompts: against all resamples of a tiny case, and how often they cover the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from polyray.metrics import (
    bootstrap_mean,
    hierarchical_intervals,
    paired_hierarchical_bootstrap,
)

CLUSTERS = ("a", "b", "b")
A = ((0, 1, 2), (4, 9, 7))
B = ((3, 3, 1), (0, 2, 5))
Distribution = Mapping[Fraction, Fraction]


def resampled_mean(rows, seeds, clusters) -> Fraction:
    """The mean over drawn seeds, with their repeats, of the mean over the prompts of drawn clusters."""
    prompts = [prompt for cluster in clusters for prompt, name in enumerate(CLUSTERS) if name == cluster]
    total = sum((Fraction(rows[seed][prompt]) for seed in seeds for prompt in prompts), Fraction(0))
    return total / (len(seeds) * len(prompts))


def all_means() -> Distribution:
    means = Counter(
        resampled_mean(A, seeds, clusters)
        for seeds in product(range(2), repeat=2)
        for clusters in product("ab", repeat=2)
    )
    return {mean: Fraction(count, 16) for mean, count in means.items()}


def all_differences() -> Distribution:
    """Seeds of a and b by themselves, the same clusters for both."""
    means = Counter(
        resampled_mean(A, seeds_a, clusters) - resampled_mean(B, seeds_b, clusters)
        for seeds_a in product(range(2), repeat=2)
        for seeds_b in product(range(2), repeat=2)
        for clusters in product("ab", repeat=2)
    )
    return {mean: Fraction(count, 64) for mean, count in means.items()}


def exact_quantile(distribution: Distribution, share: float) -> float | None:
    """None where the share is too near to a step for 20,000 resamples to decide."""
    reached = Fraction(0)
    for mean in sorted(distribution):
        reached += distribution[mean]
        if abs(float(reached) - share) < 0.012:
            return None
        if reached > share:
            return float(mean)
    raise AssertionError("shares add up to 1")


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_are_the_quantiles_of_all_resamples(paired) -> None:
    distribution = all_differences() if paired else all_means()
    checked = 0
    for confidence in np.arange(0.04, 0.99, 0.06).tolist():
        if paired:
            found = paired_hierarchical_bootstrap(A, B, CLUSTERS, 20_000, confidence)
        else:
            (found,) = hierarchical_intervals([A], CLUSTERS, 20_000, confidence)
        for share, bound in (((1 - confidence) / 2, found.low), ((1 + confidence) / 2, found.high)):
            expected = exact_quantile(distribution, share)
            if expected is not None:
                assert bound == pytest.approx(expected, abs=1e-12)
                checked += 1
    assert checked >= 12


def test_many_matrices_share_their_resamples() -> None:
    rng = np.random.default_rng(3)
    matrices = [rng.random((seeds, 30)) for seeds in (3, 1, 2, 3)]
    clusters = np.arange(30) // 3
    found = hierarchical_intervals(matrices, clusters, 300, 0.9, seed=5)
    assert found == [hierarchical_intervals([matrix], clusters, 300, 0.9, seed=5)[0] for matrix in matrices]
    with pytest.raises(ValueError, match="values_SP has 2 entries but there are 30"):
        hierarchical_intervals([matrices[0], [[0.1, 0.2]]])


def test_coverage_of_the_truth_over_seeds_and_prompts() -> None:
    # value = 0.5 + seed + prompt + noise; 8 seeds and 40 prompts of endless ones. Nominal: 90 %.
    rng = np.random.default_rng(0)
    covered = {"seeds and prompts": 0, "prompts alone": 0}
    repeats = 250
    for _ in range(repeats):
        values = 0.5 + 0.1 * rng.normal(size=(8, 1)) + 0.2 * rng.normal(size=40)
        values += 0.2 * rng.normal(size=(8, 40))
        (both,) = hierarchical_intervals([values], resamples=300, confidence=0.9)
        alone = bootstrap_mean(values.mean(axis=0), resamples=300, confidence=0.9)
        covered["seeds and prompts"] += both.low <= 0.5 <= both.high
        covered["prompts alone"] += alone.low <= 0.5 <= alone.high
    assert 0.83 * repeats <= covered["seeds and prompts"] <= 0.96 * repeats
    assert covered["prompts alone"] <= 0.8 * repeats
