"""Resampling is random across seeds, equal for one seed, and as often wrong as its level says."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.metrics.bootstrap import bootstrap_mean, hierarchical_intervals
from polyray.metrics.significance import sign_flip_permutation_test

DATA_SETS = 200
TOLERANCE = 0.05
"""Three standard errors of a share of .05 in 200 data sets."""


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """60 clusters of 3 prompts with an effect of the cluster; the mean is 0."""
    clusters = np.repeat(np.arange(60), 3)
    return rng.normal(size=60)[clusters] + rng.normal(size=180), clusters


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_of_clusters_covers_the_mean_at_its_confidence(method: str) -> None:
    rng = np.random.default_rng(0)
    covered, of_prompts = [], []
    for seed in range(DATA_SETS):
        values, clusters = clustered(rng)
        found = bootstrap_mean(values, clusters, resamples=300, seed=seed, method=method)  # type: ignore[arg-type]
        covered.append(found.low <= 0 <= found.high)
        naive = bootstrap_mean(values, resamples=100, seed=seed)
        of_prompts.append(naive.low <= 0 <= naive.high)
    assert abs(np.mean(covered) - 0.95) < TOLERANCE
    assert np.mean(of_prompts) < 0.9, "prompts of one cluster are not independent"


def test_cluster_bootstrap_of_an_evaluation_covers_the_mean_at_its_confidence() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(DATA_SETS):
        values, clusters = clustered(rng)
        bootstrap = ClusterBootstrap.draw([str(name) for name in clusters], 400, 0.95, seed)
        _, low, high = bootstrap.intervals(values[:, None])
        covered.append(low[0] <= 0 <= high[0])
    assert abs(np.mean(covered) - 0.95) < TOLERANCE


def test_sign_flips_reject_a_true_null_at_their_level() -> None:
    rng = np.random.default_rng(2)
    p_values = [
        sign_flip_permutation_test(*clustered(rng), permutations=400, seed=seed).p_value
        for seed in range(DATA_SETS)
    ]
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 3.5 * np.sqrt(0.25 / DATA_SETS)


def test_resampling_differs_by_seed_and_by_nothing_else() -> None:
    values, clusters = clustered(np.random.default_rng(3))
    values = values + 0.1
    draws = {
        "mean": lambda seed: bootstrap_mean(values, clusters, resamples=400, seed=seed),
        "hierarchical": lambda seed: hierarchical_intervals(
            [values.reshape(3, 60)], resamples=400, seed=seed
        ),
        "evaluation": lambda seed: ClusterBootstrap.draw(
            [str(name) for name in clusters], 400, 0.95, seed
        ).intervals(values[:, None])[1][0],
        "sign flips": lambda seed: (
            sign_flip_permutation_test(values, clusters, permutations=400, seed=seed).p_value
        ),
    }
    for name, draw in draws.items():
        found = [draw(seed) for seed in range(8)]
        np.random.seed(0)
        assert found == [draw(seed) for seed in range(8)], name
        assert len(set(map(str, found))) > 4, name
