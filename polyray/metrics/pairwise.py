"""Pairs of completions of one prompt with a better one, and how often a score is right about them.

A pair is (better, worse) by an outcome that was measured, such as up-votes. Not here: how sure a score is
(calibration.py), whether two scores differ (comparison.py, with `pair_hits` as the values). Called by the
validation of reward models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, Integers, check_length, finite_vector

_ALL_PAIRS_UP_TO = 1000
"""Larger groups are never enumerated (half a million pairs): their pairs are drawn."""
_DRAWS_PER_PAIR = 8


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positions of pairs in the arrays they were made of.

    Example:
        Pairs(better_M=np.array([2, 0]), worse_M=np.array([1, 1]), gaps_M=np.array([5.0, 2.0]), num_left_out=0)
    """

    better_M: Integers
    worse_M: Integers
    gaps_M: Floats
    """Outcome of the better one minus that of the worse one."""
    num_left_out: int
    """Pairs beyond `max_per_group`. For groups above 1,000 members that number is not known and not counted."""

    def __len__(self) -> int:
        return len(self.better_M)


def within_group_pairs(
    outcomes: npt.ArrayLike,
    groups: npt.ArrayLike,
    min_gap: float = 0.0,
    max_per_group: int | None = None,
    seed: int = 0,
) -> Pairs:
    """All pairs within a group with outcomes that differ, by `min_gap` or more.

    Args:
        outcomes: [N] measured values, higher is better.
        groups: [N] labels; only members of one group are compared.
        min_gap: smallest difference that counts; pairs with equal outcomes never count.
        max_per_group: of more, so many are drawn: a group of n has n (n - 1) / 2 pairs and would outweigh all
            others. None: all (of groups above 1,000 members, 1,000 x 999 / 2).
        seed: of that draw.

    Pairs come group by group in the order of first appearance.

    Raises:
        ValueError: NaN, different lengths, a negative `min_gap`, `max_per_group` below 1.
    """
    values = finite_vector(outcomes, "outcomes")
    labels = np.asarray(groups)
    check_length(labels, "groups", len(values))
    if not min_gap >= 0:
        raise ValueError(f"min_gap={min_gap} must be 0 or more; 0 keeps every pair whose outcomes differ")
    if max_per_group is not None and max_per_group < 1:
        raise ValueError(f"max_per_group={max_per_group} must be at least 1; None keeps all")
    generator = np.random.default_rng(seed)
    first_M, second_M, num_left_out = [], [], 0
    for members in _members(labels):
        first, second = _candidates(len(members), max_per_group, generator)
        first, second = members[first], members[second]
        differences = np.abs(values[first] - values[second])
        kept = np.flatnonzero((differences > 0) & (differences >= min_gap))
        if max_per_group is not None and len(kept) > max_per_group:
            num_left_out += len(kept) - max_per_group
            kept = np.sort(generator.choice(kept, max_per_group, replace=False))
        first_M.append(first[kept])
        second_M.append(second[kept])
    a, b = np.concatenate(first_M), np.concatenate(second_M)
    swapped = values[a] < values[b]
    better, worse = np.where(swapped, b, a), np.where(swapped, a, b)
    return Pairs(better, worse, values[better] - values[worse], num_left_out)


def pair_hits(better_scores: npt.ArrayLike, worse_scores: npt.ArrayLike) -> Floats:
    """[M] 1 where the better one has the higher score, 0 where the lower, 0.5 where they tie.

    Its mean is the pairwise accuracy. A score that ties everything has 0.5, as a coin has.
    """
    better, worse = finite_vector(better_scores, "better_scores"), finite_vector(worse_scores, "worse_scores")
    check_length(worse, "worse_scores", len(better))
    return (np.sign(better - worse) + 1.0) / 2.0


def _members(labels: npt.NDArray[np.generic]) -> list[Integers]:
    """Positions of each group's members, groups by first appearance."""
    _, first, group_of = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(group_of, kind="stable")
    bounds = np.searchsorted(group_of[order], np.arange(len(first) + 1))
    return [order[bounds[number] : bounds[number + 1]] for number in np.argsort(first, kind="stable")]


def _candidates(
    size: int, max_per_group: int | None, generator: np.random.Generator
) -> tuple[Integers, Integers]:
    """Positions of pairs within a group, each once: all, or of a large group a draw."""
    if size <= _ALL_PAIRS_UP_TO:
        return np.triu_indices(size, k=1)
    limit = _ALL_PAIRS_UP_TO * (_ALL_PAIRS_UP_TO - 1) // 2
    wanted = limit if max_per_group is None else min(limit, _DRAWS_PER_PAIR * max_per_group)
    drawn = generator.integers(size, size=(wanted, 2))
    drawn = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0)
    return drawn[:, 0], drawn[:, 1]
