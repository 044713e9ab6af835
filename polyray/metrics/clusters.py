"""The unit of statistics: per-prompt values -> totals per cluster, and their mean.

A cluster is a set of related prompts (`Prompt.cluster_id`), or one prompt. The statistic is always the mean
over prompts, which is the sum of the clusters' totals over the sum of their sizes: a ratio, so that larger
clusters weigh more. Called by bootstrap, significance and non_inferiority.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, Integers, check_length


@dataclass(frozen=True, slots=True)
class ClusterTotals:
    """Prompts added up within their clusters.

    Example:
        ClusterTotals(sums_C=np.array([1.5, 0.5]), sizes_C=np.array([3.0, 1.0])).mean  # 0.5
    """

    sums_C: Floats
    sizes_C: Floats

    @property
    def mean(self) -> float:
        """Mean over all prompts."""
        return float(self.sums_C.sum() / self.sizes_C.sum())

    @property
    def means_C(self) -> Floats:
        """Mean of each cluster."""
        return self.sums_C / self.sizes_C

    def __len__(self) -> int:
        return len(self.sums_C)


def cluster_totals(values: Floats, clusters: npt.ArrayLike | None) -> ClusterTotals:
    """Totals of [P] values; clusters in sorted order. None: each prompt is a cluster of its own."""
    if clusters is None:
        return ClusterTotals(values, np.ones(len(values)))
    cluster_of_P, num_clusters = cluster_indices(clusters, len(values))
    sums_C = np.bincount(cluster_of_P, weights=values, minlength=num_clusters).astype(np.float64, copy=False)
    return ClusterTotals(sums_C, np.bincount(cluster_of_P, minlength=num_clusters).astype(np.float64))


def cluster_indices(clusters: npt.ArrayLike | None, num_prompts: int) -> tuple[Integers, int]:
    """[P] the number of each prompt's cluster, and how many clusters there are.

    Raises:
        ValueError: another shape or length than the prompts, missing labels.
    """
    if clusters is None:
        return np.arange(num_prompts), num_prompts
    labels = np.asarray(clusters)
    if labels.ndim != 1:
        raise ValueError(f"clusters has shape {labels.shape}; give one label per prompt")
    check_length(labels, "clusters", num_prompts)
    if labels.dtype.kind == "O" or (labels.dtype.kind == "f" and np.isnan(labels).any()):
        raise ValueError(
            "clusters holds None, NaN or other objects; label every prompt with a string or a number, "
            "prompts that share nothing with their own id"
        )
    names, cluster_of_P = np.unique(labels, return_inverse=True)
    return cluster_of_P, len(names)
