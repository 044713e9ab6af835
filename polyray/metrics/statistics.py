"""Intervals for means over prompts: percentile bootstrap, plain and paired, over prompts or their clusters.

The unit that is resampled is the prompt, or its cluster where prompts share something (`Prompt.cluster_id`);
never the sample. Deterministic: the generator is made from `seed`. Called by evaluation with one value per
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, check_length, finite_vector

_DRAWS_AT_ONCE = 4_000_000
"""Bounds memory to tens of megabytes, whatever the number of prompts."""


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean over prompts with its confidence interval, e.g. MeanInterval(value=.42, low=.40, high=.44)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DifferenceInterval:
    """mean(a) - mean(b) with its interval, e.g. DifferenceInterval(difference=.03, low=.01, high=.05)."""

    difference: float
    low: float
    high: float


def bootstrap_mean(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> MeanInterval:
    """Mean of `values` over all prompts, with a percentile bootstrap interval.

    Args:
        values: [P] one finite value per prompt.
        clusters: [P] labels (strings or numbers); whole clusters are resampled, and a resample's mean is the
            sum of its values over the number of its prompts, so larger clusters weigh more. None: each prompt
            by itself.
        resamples: bootstrap resamples.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the resampling; the same seed and clusters draw the same resamples for every metric.

    One cluster alone gives an interval without width: it says nothing about uncertainty.

    Raises:
        ValueError: NaN, different lengths, resamples < 1, confidence outside (0, 1).
    """
    vector = finite_vector(values, "values")
    means = _resampled_means(vector, clusters, resamples, confidence, seed)
    low, high = _interval(means, confidence)
    return MeanInterval(float(vector.mean()), low, high)


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> DifferenceInterval:
    """mean(a) - mean(b) for two models on the same prompts: bootstrap of the per-prompt differences.

    Arguments as in `bootstrap_mean`; a[i] and b[i] belong to the same prompt.
    """
    first, second = finite_vector(a, "a"), finite_vector(b, "b")
    check_length(second, "b", len(first))
    result = bootstrap_mean(first - second, clusters, resamples, confidence, seed)
    return DifferenceInterval(result.value, result.low, result.high)


def _resampled_means(
    values: Floats, clusters: npt.ArrayLike | None, resamples: int, confidence: float, seed: int
) -> Floats:
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1; 2000 is usual")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, e.g. 0.95")
    sums, sizes = _cluster_sums(values, clusters)
    equal_sizes = bool((sizes == sizes[0]).all())  # then every resample has as many prompts as the data
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    parts = []
    for start in range(0, resamples, at_once):
        drawn = generator.integers(
            len(sums), size=(min(at_once, resamples - start), len(sums)), dtype=np.int32
        )
        num_prompts = len(values) if equal_sizes else sizes[drawn].sum(axis=1)
        parts.append(sums[drawn].sum(axis=1) / num_prompts)
    return np.concatenate(parts)


def _cluster_sums(values: Floats, clusters: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    if clusters is None:
        return values, np.ones(len(values))
    labels = np.asarray(clusters)
    if labels.ndim != 1:
        raise ValueError(f"clusters has shape {labels.shape}; give one label per prompt")
    check_length(labels, "clusters", len(values))
    _, cluster_of = np.unique(labels, return_inverse=True)
    sums = np.bincount(cluster_of, weights=values).astype(np.float64, copy=False)
    return sums, np.bincount(cluster_of).astype(np.float64)


def _interval(means: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
