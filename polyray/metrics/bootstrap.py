"""Intervals for means over prompts by the bootstrap: percentile and BCa, plain, paired, and over seeds as well.

The unit that is resampled is the prompt, or its cluster where prompts share something (`Prompt.cluster_id`);
never the sample. Deterministic: the generator is made from `seed`, and all columns of one call see the same
resamples. Called by evaluation with one value per prompt, and by comparison.py,
correlation.py and calibration.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, check_length, finite_vector, seed_matrix
from polyray.metrics.clusters import ClusterTotals, cluster_totals

IntervalMethod = Literal["percentile", "bca"]

_DRAWS_AT_ONCE = 1_000_000
"""Limit that bounds memory to tens of megabytes for any number of prompts."""
_ROUNDING = 1e-12
"""Relative: resampled means that differ by less are the same number, added up in another order."""


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
    method: IntervalMethod = "percentile",
) -> MeanInterval:
    """Mean of `values` over all prompts, with a bootstrap interval.

    Args:
        values: [P] one finite value per prompt.
        clusters: [P] labels (strings or numbers); whole clusters are resampled, and a resample's mean is the
            sum of its values over the number of its prompts, so larger clusters weigh more. None: each prompt
            by itself.
        resamples: bootstrap resamples.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the resampling; the same seed and clusters draw the same resamples for every metric.
        method: "percentile", or "bca" (Efron 1987): corrected for the bias of the median and for skewness,
            the latter by the jackknife over clusters.

    One cluster alone gives an interval without width: it says nothing about uncertainty.

    Raises:
        ValueError: NaN, different lengths, resamples < 1, confidence outside (0, 1), an unknown method.
    """
    vector = finite_vector(values, "values")
    return mean_intervals([vector], clusters, resamples, confidence, seed, method)[0]


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: IntervalMethod = "bca",
) -> DifferenceInterval:
    """mean(a) - mean(b) for two models on the same prompts: bootstrap of the per-prompt differences.

    Arguments as in `bootstrap_mean`; a[i] and b[i] belong to the same prompt.
    """
    first, second = finite_vector(a, "a"), finite_vector(b, "b")
    check_length(second, "b", len(first))
    result = bootstrap_mean(first - second, clusters, resamples, confidence, seed, method)
    return DifferenceInterval(result.value, result.low, result.high)


def mean_intervals(
    columns: Sequence[Floats],
    clusters: npt.ArrayLike | None,
    resamples: int,
    confidence: float,
    seed: int,
    method: IntervalMethod,
) -> list[MeanInterval]:
    """`bootstrap_mean` of many [P] columns over the same prompts, with one drawing for all of them."""
    _check_settings(resamples, confidence)
    if method not in get_args(IntervalMethod):
        raise ValueError(f"method={method!r} is none of {', '.join(get_args(IntervalMethod))}")
    totals = [cluster_totals(column, clusters) for column in columns]
    parts: list[list[Floats]] = [[] for _ in totals]
    for counts_BC in resample_counts(len(totals[0]), resamples, seed):
        num_prompts_B = _weighted(counts_BC, totals[0].sizes_C)
        for part, column in zip(parts, totals, strict=True):
            part.append(_weighted(counts_BC, column.sums_C) / num_prompts_B)
    return [
        _interval(column, np.concatenate(part), confidence, method)
        for column, part in zip(totals, parts, strict=True)
    ]


def hierarchical_intervals(
    matrices: Sequence[npt.ArrayLike],
    clusters: npt.ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[MeanInterval]:
    """Mean over seeds and prompts of each matrix; each resample draws seeds, then clusters of prompts.

    All seeds were asked the same prompts, so one drawing of clusters serves all drawn seeds of a resample
    (Owen 2007). Drawing prompts anew for every seed would treat S answers to one prompt as S prompts. Few
    seeds are resampled poorly: the part of the variance that is due to seeds comes out (S - 1) / S of what it
    is, so three seeds give an interval that is rather too narrow. The intervals are percentile intervals.

    Args:
        matrices: [S, P] each, a row per seed; [P] is one seed. They have the same prompts and may differ in S;
            matrices with as many seeds see the same drawing of seeds.
        clusters: [P].
        resamples, confidence, seed: as in `bootstrap_mean`.
    """
    _check_settings(resamples, confidence)
    checked = [seed_matrix(matrix, "values_SP") for matrix in matrices]
    for matrix in checked:
        check_length(matrix[0], "values_SP", checked[0].shape[1])
    means_MB = _resampled_seed_means(checked, clusters, resamples, seed, streams=[1] * len(checked))
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    return [
        MeanInterval(float(matrix.mean()), *_quantiles(means_B, *tails))
        for matrix, means_B in zip(checked, means_MB, strict=True)
    ]


def paired_hierarchical_bootstrap(
    a_SP: npt.ArrayLike,
    b_SP: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> DifferenceInterval:
    """mean(a) - mean(b) of two models with several seeds each, which may differ in number.

    Prompts are paired, seeds are not (seed 1 of one training has nothing in common with seed 1 of another):
    each resample draws the seeds of a and of b by themselves, and the same clusters for both.
    """
    _check_settings(resamples, confidence)
    first, second = seed_matrix(a_SP, "a_SP"), seed_matrix(b_SP, "b_SP")
    check_length(second[0], "b_SP", first.shape[1])
    means_a, means_b = _resampled_seed_means([first, second], clusters, resamples, seed, streams=[1, 2])
    low, high = _quantiles(means_a - means_b, (1 - confidence) / 2, (1 + confidence) / 2)
    return DifferenceInterval(float(first.mean() - second.mean()), low, high)


def _resampled_seed_means(
    matrices: Sequence[Floats],
    clusters: npt.ArrayLike | None,
    resamples: int,
    seed: int,
    streams: Sequence[int],
) -> list[Floats]:
    """[resamples] each: clusters drawn in common, seeds in common where matrices share a stream."""
    totals_MS = [[cluster_totals(row, clusters) for row in matrix] for matrix in matrices]
    sizes_C = totals_MS[0][0].sizes_C
    weights_MBS = []
    for stream, matrix in zip(streams, matrices, strict=True):
        generator = np.random.default_rng([seed, stream])
        drawn_BS = generator.integers(len(matrix), size=(resamples, len(matrix)))
        weights_MBS.append((drawn_BS[:, :, None] == np.arange(len(matrix))).mean(axis=1))
    means_MB = np.zeros((len(matrices), resamples))
    start = 0
    for counts_BC in resample_counts(len(sizes_C), resamples, seed):
        chosen = slice(start, start + len(counts_BC))
        num_prompts_B = _weighted(counts_BC, sizes_C)
        for mean_B, totals_S, weights_BS in zip(means_MB[:, chosen], totals_MS, weights_MBS, strict=True):
            for totals, weight_B in zip(totals_S, weights_BS[chosen].T, strict=True):
                mean_B += weight_B * _weighted(counts_BC, totals.sums_C) / num_prompts_B
        start = chosen.stop
    return list(means_MB)


def _check_settings(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1; 2000 is usual")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, e.g. 0.95")


def resample_counts(num_clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Slices [B, C] of how often each of C clusters was drawn, `resamples` rows in all.

    For statistics that are no mean over prompts (correlation.py, calibration.py); the same seed and number of
    clusters give the same rows everywhere.
    """
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // num_clusters)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn_BC = generator.integers(num_clusters, size=(rows, num_clusters), dtype=np.int32)
        numbered = drawn_BC + num_clusters * np.arange(rows, dtype=np.int64)[:, None]
        counts = np.bincount(numbered.ravel(), minlength=rows * num_clusters)
        yield counts.reshape(rows, num_clusters).astype(np.float64)


def _weighted(counts_BC: Floats, values_C: Floats) -> Floats:
    # Not BLAS: its order of summation, and with it the last bit, depends on the number of threads.
    return np.einsum("bc,c->b", counts_BC, values_C)


def _interval(
    totals: ClusterTotals, resampled: Floats, confidence: float, method: IntervalMethod
) -> MeanInterval:
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    if method == "bca":
        tails = _bca_tails(totals, resampled, *tails)
    return MeanInterval(totals.mean, *_quantiles(resampled, *tails))


def _bca_tails(totals: ClusterTotals, resampled: Floats, low: float, high: float) -> tuple[float, float]:
    """The quantiles to take instead of `low` and `high` (Efron and Tibshirani 1993, equation 14.10).

    Equal values everywhere, or a single cluster, have no acceleration; the tails do not matter then.
    """
    from scipy.special import ndtr, ndtri

    tolerance = _ROUNDING * max(np.abs(resampled).max(), abs(totals.mean))
    below = np.count_nonzero(resampled < totals.mean - tolerance)
    equal = np.count_nonzero(np.abs(resampled - totals.mean) <= tolerance)
    # Half a resample keeps the bias finite where all resamples lie on one side.
    share = np.clip((below + equal / 2) / len(resampled), 0.5 / len(resampled), 1 - 0.5 / len(resampled))
    bias, acceleration = ndtri(share), _acceleration(totals)
    adjusted = []
    for tail in (low, high):
        shifted = bias + ndtri(tail)
        stretch = 1 - acceleration * shifted
        # The formula's pole: beyond it the quantile is the outermost one.
        adjusted.append(float(ndtr(bias + shifted / stretch)) if stretch > 0 else float(shifted > 0))
    return adjusted[0], adjusted[1]


def _acceleration(totals: ClusterTotals) -> float:
    """Skewness of the jackknife over clusters / 6 (Efron and Tibshirani 1993, equation 14.15)."""
    if len(totals) < 2:
        return 0.0
    without_C = (totals.sums_C.sum() - totals.sums_C) / (totals.sizes_C.sum() - totals.sizes_C)
    deviations_C = without_C.mean() - without_C
    largest = np.abs(deviations_C).max()
    if largest <= _ROUNDING * np.abs(without_C).max():
        return 0.0
    scaled = deviations_C / largest  # cubes of tiny numbers underflow
    return float((scaled**3).sum() / (6 * (scaled**2).sum() ** 1.5))


def _quantiles(values: Floats, low: float, high: float) -> tuple[float, float]:
    found = np.quantile(values, [low, high])
    return float(found[0]), float(found[1])
