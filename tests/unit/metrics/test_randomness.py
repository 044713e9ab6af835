"""Resampling depends on the seed alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.metrics.bootstrap import MeanInterval, bootstrap_mean, hierarchical_intervals
from polyray.metrics.significance import sign_flip_permutation_test


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """60 clusters of 3 prompts with an effect of the cluster; the mean is 0."""
    clusters = np.repeat(np.arange(60), 3)
    return rng.normal(size=60)[clusters] + rng.normal(size=180), clusters


def evaluation_interval(values: np.ndarray, clusters: np.ndarray, seed: int) -> MeanInterval:
    bootstrap = ClusterBootstrap.draw([str(name) for name in clusters], 400, 0.95, seed)
    [mean], [low], [high] = bootstrap.intervals(values[:, None])
    return MeanInterval(mean, low, high)


def test_resampling_depends_on_the_seed_alone() -> None:
    values, clusters = clustered(np.random.default_rng(3))
    values = values + 0.1
    draws: dict[str, Callable[[int], object]] = {
        "mean": lambda seed: bootstrap_mean(values, clusters, 400, seed=seed),
        "seeds": lambda seed: hierarchical_intervals([values.reshape(3, 60)], resamples=400, seed=seed),
        "evaluation": lambda seed: evaluation_interval(values, clusters, seed),
        "signs": lambda seed: sign_flip_permutation_test(values, clusters, permutations=400, seed=seed),
    }
    for name, draw in draws.items():
        found = [draw(seed) for seed in range(8)]
        np.random.seed(0)
        assert found == [draw(seed) for seed in range(8)], name
        assert len(set(map(str, found))) > 4, name
