"""Calibration of P(a beats b): reliability bins, calibration error, Brier score, log loss, temperature.

One pair is one event. A score gap d = score(better) - score(worse) on the log-odds scale says
P(better wins) = sigmoid(d). Each pair counts once, seen from the side of the predicted winner: its
confidence sigmoid(|d|) lies in [0.5, 1], and it was right, wrong, or (d = 0) half right. Not here: which pairs
(pairwise.py). Called by the validation of reward models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, finite_vector
from polyray.metrics.bootstrap import MeanInterval, mean_intervals, resample_counts
from polyray.metrics.clusters import cluster_indices

MAX_SLOPE = 1e6
"""Scores that are right about every pair have no best temperature: the loss falls towards temperature 0."""
_BISECTIONS = 60
_GRID = np.concatenate(([-30.0], np.linspace(-3.0, 3.0, 61), [30.0]))
"""ln of the slopes at which resamples are looked at, beside that of the best one."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs of similar confidence.

    Example:
        ReliabilityBin(confidence=.71, accuracy=.66, low=.60, high=.72, num_pairs=240)
    """

    confidence: float
    """Mean stated probability that the predicted winner wins."""
    accuracy: float
    """Share of pairs in which the predicted winner won."""
    low: float
    high: float
    num_pairs: int

    def as_json(self) -> dict[str, Any]:
        """JSON entry."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Result of `pair_calibration`.

    Example:
        Calibration(bins=(ReliabilityBin(...), ...), expected_error=MeanInterval(.03, .02, .06),
                    error_by_chance=.018, brier=MeanInterval(...), log_loss=MeanInterval(...),
                    temperature=MeanInterval(1.2, 1.0, 1.5))
    """

    bins: tuple[ReliabilityBin, ...]
    expected_error: MeanInterval
    """Mean over pairs of |accuracy - confidence| of their bin. Chance alone lifts it, and resampling lifts it
    again: that second rise, known from the resamples, is taken off the interval, which begins at 0 or above."""
    error_by_chance: float
    """Expected error of a perfectly calibrated score with independent pairs, by chance alone."""
    brier: MeanInterval
    """Mean of (1 - P(better wins))^2; a coin has 0.25."""
    log_loss: MeanInterval
    """Mean of -ln P(better wins), nats; a coin has 0.693."""
    temperature: MeanInterval
    """The T that makes sigmoid(d / T) fit best: above 1 the score is too sure, below 1 not sure enough.
    1 / MAX_SLOPE where it is right about everything, MAX_SLOPE where gaps say nothing about the outcome."""

    def as_json(self) -> dict[str, Any]:
        """JSON entry: bins, and metric -> value, low, high."""
        names = ("expected_error", "brier", "log_loss", "temperature")
        intervals = {name: getattr(self, name) for name in names}
        return {
            "bins": [item.as_json() for item in self.bins],
            "error_by_chance": self.error_by_chance,
            **{
                name: {"value": found.value, "low": found.low, "high": found.high}
                for name, found in intervals.items()
            },
        }


def pair_calibration(
    gaps: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    num_bins: int = 10,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Calibration of sigmoid(gap) as the probability that the better completion wins.

    Args:
        gaps: [M] score of the better minus score of the worse one, log-odds.
        clusters: [M] labels; whole clusters are resampled. None: each pair by itself.
        num_bins: bins of equal mass by confidence (Naeini et al. 2015); equal confidences share a bin, so there
            may be fewer.

    Raises:
        ValueError: NaN, no pair, `num_bins` below 1.
    """
    gap_M = finite_vector(gaps, "gaps")
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1; 10 is usual")
    confidence_M, hits_M = sigmoid(np.abs(gap_M)), (np.sign(gap_M) + 1.0) / 2.0
    bin_of_M = _equal_mass_bins(confidence_M, num_bins)
    losses = [sigmoid(-gap_M) ** 2, np.logaddexp(0.0, -gap_M)]
    brier, log_loss = mean_intervals(losses, clusters, resamples, confidence, seed, "percentile")
    bins = []
    for number in range(int(bin_of_M.max()) + 1):
        chosen = bin_of_M == number
        labels = None if clusters is None else np.asarray(clusters)[chosen]
        found = mean_intervals([hits_M[chosen]], labels, resamples, confidence, seed, "percentile")[0]
        mean_confidence = float(confidence_M[chosen].mean())
        bins.append(ReliabilityBin(mean_confidence, found.value, found.low, found.high, int(chosen.sum())))
    return Calibration(
        bins=tuple(bins),
        expected_error=_expected_error(
            confidence_M - hits_M, bin_of_M, clusters, resamples, confidence, seed
        ),
        error_by_chance=_error_by_chance(confidence_M, bin_of_M),
        brier=brier,
        log_loss=log_loss,
        temperature=_temperature(gap_M, clusters, resamples, confidence, seed),
    )


def best_temperature(gaps: npt.ArrayLike) -> float:
    """The T > 0 that minimises the mean of -ln sigmoid(gap / T); within [1 / MAX_SLOPE, MAX_SLOPE].

    It puts any score on the log-odds scale: fit it on pairs that are not tested on.
    """
    gap_M = finite_vector(gaps, "gaps")
    return 1.0 / _best_slope(gap_M)


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def _equal_mass_bins(confidence_M: Floats, num_bins: int) -> npt.NDArray[np.int64]:
    """[M] number of each pair's bin, 0, 1, ... without gaps, by rising confidence."""
    edges = np.quantile(confidence_M, np.linspace(0, 1, num_bins + 1)[1:-1])
    _, numbers = np.unique(np.searchsorted(edges, confidence_M, side="left"), return_inverse=True)
    return numbers


def _expected_error(
    excess_M: Floats,
    bin_of_M: npt.NDArray[np.int64],
    clusters: npt.ArrayLike | None,
    resamples: int,
    confidence: float,
    seed: int,
) -> MeanInterval:
    """sum over bins of |sum of (confidence - hit)| / number of pairs; the bins are kept in all resamples."""
    cluster_of, num_clusters = cluster_indices(clusters, len(excess_M))
    num_bins = int(bin_of_M.max()) + 1
    excess_CK = np.bincount(cluster_of * num_bins + bin_of_M, excess_M, num_clusters * num_bins)
    excess_CK = excess_CK.reshape(num_clusters, num_bins)
    sizes_C = np.bincount(cluster_of, minlength=num_clusters).astype(np.float64)
    errors = [
        np.abs(np.einsum("bc,ck->bk", counts_BC, excess_CK)).sum(axis=1)
        / np.einsum("bc,c->b", counts_BC, sizes_C)
        for counts_BC in resample_counts(num_clusters, resamples, seed)
    ]
    drawn = np.concatenate(errors)
    value = float(np.abs(excess_CK.sum(axis=0)).sum() / len(excess_M))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]) - (drawn.mean() - value)
    return MeanInterval(value, max(0.0, float(low)), max(0.0, float(high)))


def _error_by_chance(confidence_M: Floats, bin_of_M: npt.NDArray[np.int64]) -> float:
    """Mean of the folded normal: sqrt(2 / pi) standard deviations of each bin's number of hits."""
    variance_K = np.bincount(bin_of_M, confidence_M * (1.0 - confidence_M))
    return float(np.sqrt(2.0 / np.pi * variance_K).sum() / len(confidence_M))


def _temperature(
    gap_M: Floats, clusters: npt.ArrayLike | None, resamples: int, confidence: float, seed: int
) -> MeanInterval:
    """The best temperature with its interval: the derivative is summed up by cluster on a grid of slopes."""
    best = _best_slope(gap_M)
    grid_S = np.exp(np.clip(np.log(best) + _GRID, -np.log(MAX_SLOPE), np.log(MAX_SLOPE)))
    cluster_of, num_clusters = cluster_indices(clusters, len(gap_M))
    rising_CS = np.stack(
        [np.bincount(cluster_of, gap_M * sigmoid(-slope * gap_M), num_clusters) for slope in grid_S], axis=1
    )
    slopes = [
        _root(np.einsum("bc,cs->bs", counts_BC, rising_CS), grid_S)
        for counts_BC in resample_counts(num_clusters, resamples, seed)
    ]
    low, high = np.quantile(1.0 / np.concatenate(slopes), [(1 - confidence) / 2, (1 + confidence) / 2])
    return MeanInterval(1.0 / best, float(low), float(high))


def _best_slope(gap_M: Floats) -> float:
    """The slope s = 1 / T that minimises sum ln(1 + exp(-s d)), by bisection of the falling -derivative.

    The search is over ln s. Gaps on one side of 0 have no root (and underflow far out): the nearer end is returned.
    """
    if gap_M.max() <= 0:
        return 1.0 / MAX_SLOPE
    if gap_M.min() >= 0:
        return MAX_SLOPE
    low, high = -np.log(MAX_SLOPE), np.log(MAX_SLOPE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if (gap_M * sigmoid(-np.exp(middle) * gap_M)).sum() > 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2.0))


def _root(rising_BS: Floats, grid_S: Floats) -> Floats:
    """[B] where each row falls through 0, linearly between grid points; beyond the grid its end."""
    last_B = (rising_BS > 0).sum(axis=1) - 1
    inside_B = (last_B >= 0) & (last_B < len(grid_S) - 1)
    left_B = np.clip(last_B, 0, len(grid_S) - 2)
    rows = np.arange(len(rising_BS))
    above_B, below_B = rising_BS[rows, left_B], rising_BS[rows, left_B + 1]
    drop_B = np.where(inside_B, above_B - below_B, 1.0)
    share_B = np.where(inside_B, above_B / drop_B, 0.0)
    logs_S = np.log(grid_S)
    between_B = np.exp(logs_S[left_B] + share_B * (logs_S[left_B + 1] - logs_S[left_B]))
    return np.where(inside_B, between_B, np.where(last_B < 0, grid_S[0], grid_S[-1]))
