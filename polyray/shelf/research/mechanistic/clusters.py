"""Number of groups that the hidden states of one prompt's completions form, and their stability.

Ward's hierarchy is cut where the silhouette is largest. Stability follows Ben-Hur, Elisseeff and Guyon (2002): two
random parts of the completions are grouped separately, and the agreement on their common completions (adjusted Rand
index) is averaged. Real groups recur, groups that an algorithm makes of noise do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score, silhouette_score

Floats = npt.NDArray[np.float64]

MAX_CLUSTERS = 8
PART = 0.8
"""Share of the completions in each of the two parts."""
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Clustering:
    """The groups of one prompt's completions.

    Example:
        Clustering(count=3, silhouette=0.41, stability=0.87, agreement=0.95)
    """

    count: int
    """Groups; 1 where all states are equal."""
    silhouette: float
    """Silhouette of the cut, -1 to 1; NaN if fewer than three states differ."""
    stability: float
    """1: the same groups from every part of the completions; about 0: chance. NaN as above."""
    agreement: float
    """Adjusted Rand index of the groups and the classes of the correct completions; NaN where those are of one class,
    or fewer than three."""


def cluster_states(states: Floats, classes: Sequence[int | None], seed: int) -> Clustering:
    """`states` [n, d]: one of each completion. `classes`: which solution each is, None where it is none."""
    distinct = len(np.unique(states, axis=0))
    if distinct < 3:
        labels = np.unique(states, axis=0, return_inverse=True)[1].reshape(-1)
        return Clustering(distinct, math.nan, math.nan, _agreement(labels, classes))
    labels, silhouette = _best_cut(states, min(MAX_CLUSTERS, distinct - 1))
    count = len(np.unique(labels))
    return Clustering(count, silhouette, _stability(states, count, seed), _agreement(labels, classes))


def _best_cut(states: Floats, most: int) -> tuple[npt.NDArray[np.int64], float]:
    tree = linkage(states, "ward")
    cuts = [fcluster(tree, count, "maxclust") for count in range(2, most + 1)]
    scored = [
        (float(silhouette_score(states, labels)), labels)
        for labels in cuts
        if 1 < len(np.unique(labels)) < len(states)
    ]
    silhouette, labels = max(scored, key=lambda pair: pair[0])
    return labels, silhouette


def _stability(states: Floats, count: int, seed: int) -> float:
    draw = np.random.default_rng(seed)
    size = math.ceil(PART * len(states))
    found = []
    for _ in range(REPEATS):
        parts = [np.sort(draw.permutation(len(states))[:size]) for _ in range(2)]
        both = np.intersect1d(parts[0], parts[1])
        labels = [
            fcluster(linkage(states[part], "ward"), count, "maxclust")[np.searchsorted(part, both)]
            for part in parts
        ]
        found.append(adjusted_rand_score(*labels))
    return float(np.mean(found))


def _agreement(labels: npt.NDArray[np.int64], classes: Sequence[int | None]) -> float:
    correct = [number for number, label in enumerate(classes) if label is not None]
    known = [classes[number] for number in correct]
    if len(correct) < 3 or len(set(known)) < 2:
        return math.nan
    return float(adjusted_rand_score(known, labels[correct]))
