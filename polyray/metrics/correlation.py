"""Association of a score with an outcome: rank correlation within groups, and correlations with intervals.

quality.py's `engagement_correlation` is the table for judges: it leaves out groups in which a score ties
everything. Here such a group counts as 0, so that all scores are averaged over the same groups and can be
compared. Called by the validation of reward models.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, Integers, check_length, finite_vector
from polyray.metrics.bootstrap import MeanInterval, resample_counts
from polyray.metrics.clusters import cluster_indices

Kind = Literal["pearson", "spearman"]

_SIGNS_UP_TO = 500
"""Largest group with its whole table of signs in memory; scipy sorts larger ones."""


@dataclass(frozen=True, slots=True)
class GroupCorrelations:
    """Rank correlations of each group that counts.

    Example:
        GroupCorrelations(groups_Q=np.array([0, 3]), spearman_Q=np.array([.5, -1.]), kendall_Q=np.array([.33, -1.]),
                          num_groups=5)
    """

    groups_Q: Integers
    """Position of the first member of each group, to look up its cluster."""
    spearman_Q: Floats
    kendall_Q: Floats
    """tau-b, which allows for ties."""
    num_groups: int
    """Number of groups, including those that do not count."""


def group_correlations(
    scores: npt.ArrayLike, outcomes: npt.ArrayLike, groups: npt.ArrayLike, min_distinct: int = 3
) -> GroupCorrelations:
    """Spearman's rho and Kendall's tau-b of scores with outcomes within each group.

    Args:
        scores, outcomes: [N].
        groups: [N] labels.
        min_distinct: groups with fewer different outcomes do not count; which ones count does not depend on
            the scores. Equal scores throughout a group order nothing: 0.

    Raises:
        ValueError: NaN, different lengths, `min_distinct` below 2.
    """
    first, second = finite_vector(scores, "scores"), finite_vector(outcomes, "outcomes")
    labels = np.asarray(groups)
    check_length(second, "outcomes", len(first))
    check_length(labels, "groups", len(first))
    if min_distinct < 2:
        raise ValueError(f"min_distinct={min_distinct} must be at least 2; one value has no order")
    _, group_of = np.unique(labels, return_inverse=True)
    order = np.argsort(group_of, kind="stable")
    bounds = np.append(np.flatnonzero(np.diff(group_of[order], prepend=-1)), len(order))
    heads, spearman, kendall = [], [], []
    for start, end in pairwise(bounds):
        members = order[start:end]
        if len(np.unique(second[members])) >= min_distinct:
            rho, tau = _rank_correlations(first[members], second[members])
            heads.append(members[0])
            spearman.append(rho)
            kendall.append(tau)
    return GroupCorrelations(
        np.asarray(heads, np.int64), np.asarray(spearman), np.asarray(kendall), len(bounds) - 1
    )


def without_group_means(values: npt.ArrayLike, groups: npt.ArrayLike) -> Floats:
    """[N] values minus the mean of their group: what is left when groups are not compared."""
    vector = finite_vector(values, "values")
    group_of, num_groups = cluster_indices(groups, len(vector))
    sums = np.bincount(group_of, weights=vector, minlength=num_groups)
    return vector - (sums / np.bincount(group_of, minlength=num_groups))[group_of]


def bootstrap_correlation(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    kind: Kind = "spearman",
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> MeanInterval | None:
    """Correlation over all items with a percentile interval; whole clusters are resampled.

    Spearman's ranks are those among all items, in every resample, too: a rank is a place in the population, and
    resampling then costs a few sums per cluster. A resample in which a side is constant counts as 0. None if a side
    is constant.

    Args:
        a, b: [N].
        clusters: [N] labels; None: each item by itself.
        kind: "spearman" (tied ranks averaged) or "pearson".

    Raises:
        ValueError: NaN, different lengths, fewer than 2 items, an unknown kind.
    """
    first, second = finite_vector(a, "a", at_least=2), finite_vector(b, "b")
    check_length(second, "b", len(first))
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r} is none of {', '.join(get_args(Kind))}")
    if first.min() == first.max() or second.min() == second.max():
        return None
    if kind == "spearman":
        first, second = _ranks(first), _ranks(second)
    cluster_of, num_clusters = cluster_indices(clusters, len(first))
    # Centred and scaled, so that the differences of sums of squares below keep their digits.
    first, second = _standardised(first), _standardised(second)
    products = [np.ones(len(first)), first, second, first**2, second**2, first * second]
    sums_CK = np.stack([np.bincount(cluster_of, part, num_clusters) for part in products], axis=1)
    drawn = [
        _pearson(np.einsum("bc,ck->bk", counts_BC, sums_CK))
        for counts_BC in resample_counts(num_clusters, resamples, seed)
    ]
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return MeanInterval(float(_pearson(sums_CK.sum(axis=0)[None])[0]), float(low), float(high))


def _standardised(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def _pearson(sums_BK: Floats) -> Floats:
    """[B] correlations from counts, sums, sums of squares and of products."""
    n, a, b, aa, bb, ab = sums_BK.T
    scale = np.sqrt(np.maximum((n * aa - a * a) * (n * bb - b * b), 0.0))
    varies = scale > 1e-12 * n * n
    return np.where(varies, (n * ab - a * b) / np.where(varies, scale, 1.0), 0.0)


def _ranks(values: Floats) -> Floats:
    from scipy import stats

    return np.asarray(stats.rankdata(values), dtype=np.float64)


def _rank_correlations(a: Floats, b: Floats) -> tuple[float, float]:
    """(rho, tau-b) of one group; b is not constant."""
    if a.min() == a.max():
        return 0.0, 0.0
    if len(a) > _SIGNS_UP_TO:
        from scipy import stats

        found: Any = stats.kendalltau(a, b)
        return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1]), float(found.statistic)
    # Many small groups: 2 x rank = sum of signs + constant, so that Spearman and Kendall share one table of signs.
    signs_a, signs_b = np.sign(np.subtract.outer(a, a)), np.sign(np.subtract.outer(b, b))
    tau = (signs_a * signs_b).sum() / np.sqrt((signs_a**2).sum() * (signs_b**2).sum())
    ranks_a, ranks_b = signs_a.sum(axis=1), signs_b.sum(axis=1)
    return float((ranks_a @ ranks_b) / np.sqrt((ranks_a @ ranks_a) * (ranks_b @ ranks_b))), float(tau)
