"""Intervals for every number of metrics.json at once: clusters are resampled one time, for all columns.

A difference of two models is resampled with the same prompts in both, which is what makes it paired; the tests that
go with a comparison are polyray.metrics.comparison. Called by scoring.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ClusterBootstrap:
    """Resamples of clusters, drawn once and applied to any number of per-prompt columns.

    A resampled mean is the sum over the drawn clusters' prompts divided by their number, so clusters of
    different size are weighted by their prompts.

    Example:
        ClusterBootstrap.draw(["a", "a", "b"], resamples=2000, confidence=0.95, seed=0)
    """

    prompt_clusters_P: np.ndarray
    """[P] int, which cluster a prompt belongs to."""
    counts_BC: np.ndarray
    """[resamples, clusters] float64: how often a cluster was drawn."""
    confidence: float

    @classmethod
    def draw(cls, clusters: Sequence[str], resamples: int, confidence: float, seed: int) -> ClusterBootstrap:
        """Draws as many clusters as there are, with replacement, `resamples` times."""
        names, prompt_clusters_P = np.unique(np.asarray(clusters), return_inverse=True)
        drawn_BC = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
        counts_BC = np.stack([np.bincount(row, minlength=len(names)) for row in drawn_BC]).astype(np.float64)
        return cls(prompt_clusters_P, counts_BC, confidence)

    @property
    def num_clusters(self) -> int:
        """Number of units of the intervals."""
        return self.counts_BC.shape[1]

    def resampled_means(self, values_PM: np.ndarray) -> np.ndarray:
        """[resamples, M] means of M per-prompt columns; prompts without a value (NaN) do not count."""
        known_PM = ~np.isnan(values_PM)
        sums_CM = np.zeros((self.num_clusters, values_PM.shape[1]))
        sizes_CM = np.zeros_like(sums_CM)
        np.add.at(sums_CM, self.prompt_clusters_P, np.where(known_PM, values_PM, 0.0))
        np.add.at(sizes_CM, self.prompt_clusters_P, known_PM.astype(np.float64))
        with np.errstate(invalid="ignore"):
            return (self.counts_BC @ sums_CM) / (self.counts_BC @ sizes_CM)

    def intervals(self, values_PM: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, lower and upper bounds [M] each, of M per-prompt columns."""
        low_M, high_M = self._bounds(self.resampled_means(values_PM))
        known_M = (~np.isnan(values_PM)).sum(axis=0)
        means_M = np.where(known_M > 0, np.nansum(values_PM, axis=0) / np.maximum(known_M, 1), np.nan)
        return means_M, low_M, high_M

    def intervals_of(
        self, function: Callable[[np.ndarray], np.ndarray], values_PM: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for `function` of the means, which maps [..., M] to [..., R]; NaN where it is not defined.

        Resamples in which it is not defined are left out of the bounds.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            value_R = function(values_PM.mean(axis=0))
            low_R, high_R = self._bounds(function(self.resampled_means(values_PM)))
        return value_R, low_R, high_R

    def _bounds(self, resampled_BM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tail = (1.0 - self.confidence) / 2.0
        undefined_M = np.isnan(resampled_BM).all(axis=0)
        filled_BM = np.where(undefined_M, 0.0, resampled_BM)
        quantile = np.nanquantile if np.isnan(filled_BM).any() else np.quantile
        low_M, high_M = quantile(filled_BM, [tail, 1.0 - tail], axis=0)
        return np.where(undefined_M, np.nan, low_M), np.where(undefined_M, np.nan, high_M)
