"""Pareto front of models, e.g. quality against diversity, and its hypervolume.

Called by analysis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Integers


def pareto_front(points: npt.ArrayLike) -> Integers:
    """Indices, ascending, of the points that no other point dominates; every coordinate is to be large.

    a dominates b where it is at least as large in all coordinates and larger in one. Equal points do not
    dominate each other: all of them are kept.

    Args:
        points: [N, D] finite; negate what is to be small.

    Raises:
        ValueError: another shape, no points, NaN.
    """
    matrix = np.asarray(points, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"points has shape {matrix.shape}; give one row per point, one column per objective")
    if not np.isfinite(matrix).all():
        raise ValueError("points holds NaN or infinity; leave out points that were not measured")
    on_front = [
        not bool(((matrix >= point).all(axis=1) & (matrix > point).any(axis=1)).any()) for point in matrix
    ]
    return np.flatnonzero(on_front)


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Area that points in the plane dominate together, down to `reference`; both coordinates are to be large.

    Only points above the reference in both coordinates add to it. The number means nothing without the reference:
    state it beside it.

    Args:
        points: [N, 2] finite.
        reference: [2], a point worse than any that counts.

    Raises:
        ValueError: another shape, no points, NaN.
    """
    matrix = np.asarray(points, dtype=np.float64)
    corner = np.asarray(reference, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1:] != (2,) or not len(matrix) or corner.shape != (2,):
        raise ValueError(
            f"points has shape {matrix.shape} and reference {corner.shape}; give [N, 2] points and one of [2]"
        )
    if not (np.isfinite(matrix).all() and np.isfinite(corner).all()):
        raise ValueError("points or reference holds NaN or infinity; leave out points that were not measured")
    area, covered = 0.0, corner[1]
    for first, second in matrix[np.lexsort((-matrix[:, 1], -matrix[:, 0]))]:
        if first > corner[0] and second > covered:
            area += (first - corner[0]) * (second - covered)
            covered = second
    return float(area)
