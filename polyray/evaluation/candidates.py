"""From what was sampled to what a person is shown: near-duplicates once, k of the rest, clusters, and a pick.

    samples --collapse--> representatives --maximal marginal relevance, or all--> shown --selector--> selected

Pure: samples, distances and scores in, places out. Called by the generation service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.selectors import best_of, get_selector
from polyray.metrics.marginal_relevance import maximal_marginal_relevance
from polyray.types import WRONG_CLASS

DIVERSE = "diverse"
"""Selector that chooses a set even if nothing has to be left out."""


@dataclass(frozen=True, slots=True)
class ChoiceRules:
    """Rules by which a set is chosen.

    Example:
        ChoiceRules(k=4, selector="reward", diversity_weight=0.5, duplicate_distance=0.05, cluster_distance=0.5)
    """

    k: int
    selector: str
    diversity_weight: float
    duplicate_distance: float
    """Samples not further apart than this are one."""
    cluster_distance: float
    """Average linkage joins clusters nearer than this, where there are no classes."""


@dataclass(frozen=True, slots=True)
class ChosenSet:
    """The set of candidates that is shown; all numbers are places among the samples.

    Example:
        ChosenSet(shown=(2, 0), clusters=(0, 1), selected=2, stands_for={2: (2, 3), 0: (0,), 1: (1,)})
    """

    shown: tuple[int, ...]
    """Samples in the order in which they are shown; fewer than k if there were too many near-duplicates."""
    clusters: tuple[int | None, ...]
    """Clusters of the shown candidates, numbered as they appear; None: wrong by the verifier."""
    selected: int
    """One of those shown."""
    stands_for: dict[int, tuple[int, ...]]
    """Each representative, shown or not -> the samples that are it, itself first."""


def choose_candidates(
    samples: Sequence[SampleRecord], distances_GG: np.ndarray, rules: ChoiceRules, has_classes: bool
) -> ChosenSet:
    """The set that a person is shown.

    Args:
        samples: of one request; `reward` is NaN where nothing was scored. `task_id` seeds random picks and ties.
        distances_GG: [G, G] in [0, 1], symmetric with a zero diagonal.
        rules: see there.
        has_classes: whether `class_id` says what kind a sample is; else kinds are found by distance.

    Raises:
        DataError: the selector needs scores, and a sample has none.
    """
    stands_for = _collapsed(samples, distances_GG, rules.duplicate_distance)
    kept = list(stands_for)
    if rules.selector == DIVERSE or len(kept) > rules.k:
        order = maximal_marginal_relevance(
            _relevance([samples[at] for at in kept]),
            distances_GG[np.ix_(kept, kept)],
            min(rules.k, len(kept)),
            rules.diversity_weight,
        )
        kept = [kept[at] for at in order]
    shown = [samples[at] for at in kept]
    selected = kept[0] if rules.selector == DIVERSE else kept[_pick(rules.selector, shown)]
    labels = (
        [sample.class_id for sample in shown]
        if has_classes
        else _linked(distances_GG[np.ix_(kept, kept)], rules.cluster_distance)
    )
    return ChosenSet(tuple(kept), _numbered(labels), selected, stands_for)


def mean_distance(distances_GG: np.ndarray) -> float:
    """Mean distance over all pairs; 0 for one sample."""
    size = len(distances_GG)
    return float(distances_GG.sum() / (size * (size - 1))) if size > 1 else 0.0


def _collapsed(
    samples: Sequence[SampleRecord], distances_GG: np.ndarray, limit: float
) -> dict[int, tuple[int, ...]]:
    """Each sample joins the first representative it is near to, or becomes one."""
    members: dict[int, list[int]] = {}
    for at, sample in enumerate(samples):
        near = (
            representative
            for representative in members
            if samples[representative].completion == sample.completion
            or (limit > 0 and distances_GG[at, representative] <= limit)
        )
        members.setdefault(next(near, at), []).append(at)
    return {representative: tuple(all_of_it) for representative, all_of_it in members.items()}


def _relevance(samples: Sequence[SampleRecord]) -> np.ndarray:
    """[G] in [0, 1]: the scores where all have one, else how a sample ranks by its likelihood."""
    rewards_G = np.array([sample.reward for sample in samples])
    if not np.isnan(rewards_G).any():
        return rewards_G
    logprobs_G = np.array([sample.logprob for sample in samples])
    below_G = (logprobs_G[:, None] > logprobs_G[None, :]).sum(1)
    return below_G / max(1, len(samples) - 1)


def _pick(selector: str, samples: Sequence[SampleRecord]) -> int:
    chosen = get_selector(selector)
    if chosen.scores is None:
        assert chosen.pick is not None
        return chosen.pick(samples)
    scores_G = chosen.scores(samples)
    if np.isnan(scores_G).any():
        unscored = int(np.isnan(scores_G).sum())
        raise DataError(
            f"selector={selector!r} needs a score of every candidate, but {unscored} of {len(samples)} have none; "
            "choose another selector, e.g. logprob"
        )
    return best_of(samples, scores_G)


def _linked(distances_GG: np.ndarray, limit: float) -> list[int]:
    if len(distances_GG) < 2:
        return [0] * len(distances_GG)
    # fcluster joins at a distance of at most its threshold; candidates exactly at the limit stay apart.
    threshold = np.nextafter(limit, 0.0)
    tree = linkage(squareform(distances_GG, checks=False), method="average")
    return [int(label) for label in fcluster(tree, threshold, criterion="distance")]


def _numbered(labels: Sequence[int]) -> tuple[int | None, ...]:
    numbers: dict[int, int] = {}
    return tuple(
        None if label == WRONG_CLASS else numbers.setdefault(label, len(numbers)) for label in labels
    )
