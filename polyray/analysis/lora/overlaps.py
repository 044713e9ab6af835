"""Whether two updates of one module do the same: their cosine, and the angles between what they read and write.

The overlap of subspaces of dimensions i and j is ||U^T V||_F^2 / min(i, j), between 0 and 1 (Hu et al. 2021, section
7.2). Two subspaces drawn at random in d dimensions have max(i, j) / d of it: without that number an overlap says
nothing, so it stands beside each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polyray.analysis.lora.spectra import decompose
from polyray.analysis.lora.updates import Floats, Update


@dataclass(frozen=True, slots=True)
class SubspaceOverlap:
    """Of the spaces that two updates write to, or read from.

    Example:
        SubspaceOverlap(overlap=.41, by_chance=.016, angles=(.1, .8, 1.5))
    """

    overlap: float
    """NaN where one of the updates is zero."""
    by_chance: float
    """What random subspaces of these dimensions have on average."""
    angles: tuple[float, ...]
    """Principal angles in radians, ascending, as many as the smaller space has dimensions."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of two updates of one module.

    Example:
        Overlap(cosine=.37, written=SubspaceOverlap(...), read=SubspaceOverlap(...))
    """

    cosine: float
    """Of the matrices, in [-1, 1]; NaN where one of them is zero."""
    written: SubspaceOverlap
    """Column spaces: what the module's output is changed by."""
    read: SubspaceOverlap
    """Row spaces: which inputs make a difference."""


def overlap(first: Update, second: Update) -> Overlap:
    """How far two updates point the same way."""
    one, two = decompose(first), decompose(second)
    norms = math.sqrt(float(np.sum(one.singular_values**2)) * float(np.sum(two.singular_values**2)))
    return Overlap(
        cosine=max(-1.0, min(1.0, first.inner(second) / norms)) if norms > 0 else math.nan,
        written=subspace_overlap(one.output_basis, two.output_basis),
        read=subspace_overlap(one.input_basis, two.input_basis),
    )


def subspace_overlap(first: Floats, second: Floats) -> SubspaceOverlap:
    """Of the spaces that the orthonormal columns of [d, i] and [d, j] span."""
    dimension, small, large = len(first), *sorted((first.shape[1], second.shape[1]))
    if small == 0:
        return SubspaceOverlap(math.nan, math.nan, ())
    cosines = np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0)
    return SubspaceOverlap(
        overlap=float(np.sum(cosines**2)) / small,
        by_chance=large / dimension,
        angles=tuple(float(angle) for angle in np.arccos(cosines)),
    )
