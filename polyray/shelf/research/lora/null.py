"""Test whether two arms change a module more differently than two seeds of one arm do.

The statistic of a module is the mean distance between adapters of different arms minus the mean distance within arms
(twice that is the energy distance). Its null: the seeds might as well have carried other arms' labels, so it is
computed for every way to divide the adapters into groups of these sizes. All of them are tried while they are few,
so the p-value is exact; it cannot be smaller than one over their number, which is reported beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polyray.shelf.research.lora.updates import Floats, Update

MAX_DIVISIONS = 20_000


@dataclass(frozen=True, slots=True)
class ArmDifference:
    """Difference of two arms with several seeds each, in one module.

    Example:
        ArmDifference(between=.82, within=.55, p=.1, smallest_p=.1)
    """

    between: float
    """Mean distance of two adapters of different arms, over the mean norm of all."""
    within: float
    """Mean distance of two seeds of one arm, over the same norm; NaN if no arm has two."""
    p: float
    """NaN where no arm has two seeds, or all updates are zero."""
    smallest_p: float
    """Smallest p-value that so few seeds can reach."""


def distances(updates: Sequence[Update]) -> Floats:
    """[N, N] Frobenius distances, and on the diagonal 0."""
    count = len(updates)
    inner = np.zeros((count, count))
    for one, two in itertools.combinations_with_replacement(range(count), 2):
        inner[one, two] = inner[two, one] = updates[one].inner(updates[two])
    norms = np.diag(inner)
    squares = np.maximum(0.0, norms[:, None] + norms[None, :] - 2 * inner)
    np.fill_diagonal(squares, 0.0)
    return np.sqrt(squares)


def arm_difference(first: Sequence[Update], second: Sequence[Update]) -> ArmDifference:
    """Difference of two arms, each with at least one seed. Raises ValueError for more divisions than
    MAX_DIVISIONS.
    """
    count, size = len(first) + len(second), len(first)
    updates = [*first, *second]
    scale = float(np.mean([math.sqrt(max(0.0, update.inner(update))) for update in updates]))
    if scale == 0:
        return ArmDifference(math.nan, math.nan, math.nan, math.nan)
    apart = distances(updates) / scale
    between, within = _means(apart, np.arange(count) < size)
    if math.isnan(within):
        return ArmDifference(between, within, math.nan, math.nan)
    statistics = np.array([_statistic(apart, chosen) for chosen in _divisions(count, size)])
    found = between - within
    p = float(np.mean(statistics >= found - 1e-12 * max(1.0, abs(found))))
    return ArmDifference(between, within, p, 1 / len(statistics))


def _divisions(count: int, size: int) -> Iterator[np.ndarray]:
    """[count] masks. Groups of equal size have no names: of a division and its mirror image one is enough."""
    total = math.comb(count, size) // (2 if 2 * size == count else 1)
    if total > MAX_DIVISIONS:
        raise ValueError(
            f"{count} adapters have {total} divisions, the limit is {MAX_DIVISIONS}; give fewer seeds"
        )
    for chosen in itertools.combinations(range(count), size):
        if 2 * size == count and chosen[0] != 0:
            break
        mask = np.zeros(count, bool)
        mask[list(chosen)] = True
        yield mask


def _statistic(apart: Floats, chosen: np.ndarray) -> float:
    between, within = _means(apart, chosen)
    return between - within


def _means(apart: Floats, chosen: np.ndarray) -> tuple[float, float]:
    """(mean distance between the groups, mean within them): each pair of one arm counts once."""
    upper = np.triu(np.ones_like(apart, dtype=bool), 1)
    same = (chosen[:, None] == chosen[None, :]) & upper
    within = float(apart[same].mean()) if same.any() else math.nan
    return float(apart[~same & upper].mean()), within
