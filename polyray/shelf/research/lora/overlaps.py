"""Similarity of two updates of one module: their cosine, and the angles of the spaces that they read and write.

The overlap of subspaces of dimensions i and j is ||U^T V||_F^2 / min(i, j), between 0 and 1 (Hu et al. 2021, section
7.2). Two subspaces drawn at random in d dimensions have max(i, j) / d of it: without that number an overlap says
nothing, so it is reported beside each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polyray.shelf.research.lora.spectra import Decomposition
from polyray.shelf.research.lora.updates import Floats


@dataclass(frozen=True, slots=True)
class SubspaceOverlap:
    """Overlap of the spaces that two updates write to, or read from.

    Example:
        SubspaceOverlap(overlap=.41, by_chance=.016, angles=(.1, .8, 1.5))
    """

    overlap: float
    """NaN where one of the updates is zero."""
    by_chance: float
    """Mean overlap of random subspaces of these dimensions."""
    angles: tuple[float, ...]
    """Principal angles in radians, ascending, as many as the smaller space has dimensions."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of two updates of one module.

    Example:
        Overlap(cosine=.37, written=SubspaceOverlap(...), read=SubspaceOverlap(...))
    """

    cosine: float
    """Cosine of the matrices, in [-1, 1]; NaN if one of them is zero."""
    written: SubspaceOverlap
    """Column spaces: directions in which the module's output changes."""
    read: SubspaceOverlap
    """Row spaces: which inputs make a difference."""


def overlap(first: Decomposition, second: Decomposition) -> Overlap:
    """Similarity of two updates: <U S V^T, P T Q^T> is the sum of s_i t_j (U^T P)_ij (V^T Q)_ij."""
    written = first.output_basis.T @ second.output_basis
    read = first.input_basis.T @ second.input_basis
    inner = float(first.singular_values @ (written * read) @ second.singular_values)
    norms = float(np.linalg.norm(first.singular_values) * np.linalg.norm(second.singular_values))
    return Overlap(
        cosine=max(-1.0, min(1.0, inner / norms)) if norms > 0 else math.nan,
        written=subspace_overlap(written, len(first.output_basis)),
        read=subspace_overlap(read, len(first.input_basis)),
    )


def subspace_overlap(products: Floats, dimension: int) -> SubspaceOverlap:
    """Overlap of two subspaces of `dimension` dimensions, from the inner products [i, j] of their orthonormal
    bases.
    """
    small, large = sorted(products.shape)
    if small == 0:
        return SubspaceOverlap(math.nan, math.nan, ())
    cosines = np.clip(np.linalg.svd(products, compute_uv=False), 0.0, 1.0)
    return SubspaceOverlap(
        overlap=float(np.sum(cosines**2)) / small,
        by_chance=large / dimension,
        angles=tuple(float(angle) for angle in np.arccos(cosines)),
    )
