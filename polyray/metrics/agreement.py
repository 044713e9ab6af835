"""Agreement of judges beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number with gaps.

Not here: agreement of judges with people (quality.py). Called by evaluation for
judges and repeated judgements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, check_length

Level = Literal["nominal", "ordinal", "interval"]


def cohens_kappa(a: Sequence[Any] | npt.ArrayLike, b: Sequence[Any] | npt.ArrayLike) -> float:
    """(observed - expected agreement) / (1 - expected) of two judges (Cohen 1960): 1 full, 0 chance.

    Args:
        a, b: one label (string or number) per item, in the same order.

    NaN where both give one and the same label to everything: then chance agrees fully, too.

    Raises:
        ValueError: no items, different lengths, NaN.
    """
    first, second = _labels(a, "a"), _labels(b, "b")
    check_length(second, "b", len(first))
    _, numbers = np.unique(np.concatenate((first, second)), return_inverse=True)
    first_numbers, second_numbers = numbers[: len(first)], numbers[len(first) :]
    size = int(numbers.max()) + 1
    observed = float((first_numbers == second_numbers).mean())
    expected = (
        float(np.bincount(first_numbers, minlength=size) @ np.bincount(second_numbers, minlength=size))
        / len(first) ** 2
    )
    return (observed - expected) / (1.0 - expected) if expected < 1.0 else float("nan")


def krippendorff_alpha(
    ratings: npt.ArrayLike | Sequence[Sequence[float | None]], level: Level = "nominal"
) -> float:
    """1 - observed / expected disagreement of any number of judges (Krippendorff 2011): 1 full, 0 chance.

    Args:
        ratings: [judges, items] numbers; NaN (or None) where a judge gave none. Items with fewer than two
            ratings say nothing about agreement and do not count.
        level: "nominal" (equal or not), "ordinal" (ranks), "interval" (squared difference).

    NaN where all ratings that count are equal.

    Raises:
        ValueError: another shape, no item with two ratings, an unknown level.
    """
    if level not in get_args(Level):
        raise ValueError(f"level={level!r} is none of {', '.join(get_args(Level))}")
    matrix = np.asarray(ratings, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"ratings has shape {matrix.shape}; give one row per judge, one column per item")
    if np.isinf(matrix).any():
        raise ValueError("ratings holds infinity; give NaN where a judge gave no rating")
    matrix = matrix[:, (~np.isnan(matrix)).sum(axis=0) >= 2]
    if not matrix.size:
        raise ValueError("ratings has no item with two ratings; at least two judges must rate the same item")
    values, coincidences = _coincidences(matrix)
    totals = coincidences.sum(axis=1)
    distances = _distances(values, totals, level)
    observed = (coincidences * distances).sum()
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1.0)
    return float(1.0 - observed / expected) if expected > 0 else float("nan")


def _coincidences(matrix: Floats) -> tuple[Floats, Floats]:
    """The values that occur [V] and, [V, V], how often two judges pair them, each item weighted 1 / (m - 1)."""
    values = np.unique(matrix[~np.isnan(matrix)])
    counts_VI = (matrix[None, :, :] == values[:, None, None]).sum(axis=1).astype(np.float64)
    weighted_VI = counts_VI / (counts_VI.sum(axis=0) - 1.0)
    # A judge is not paired with itself: of c equal ratings each has c - 1 partners.
    return values, weighted_VI @ counts_VI.T - np.diag(weighted_VI.sum(axis=1))


def _distances(values: Floats, totals: Floats, level: Level) -> Floats:
    """[V, V] squared differences between values."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    # Ordinal: half of the ratings at both ends and all between them lie between two values.
    positions = values if level == "interval" else np.cumsum(totals) - totals / 2.0
    return np.subtract.outer(positions, positions) ** 2


def _labels(values: Sequence[Any] | npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    labels = np.asarray(values)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"{name} has shape {labels.shape}; give one label per item")
    if labels.dtype.kind == "O" or (labels.dtype.kind == "f" and np.isnan(labels).any()):
        raise ValueError(
            f"{name} holds None, NaN or other objects; leave out items that a judge did not label"
        )
    return labels
