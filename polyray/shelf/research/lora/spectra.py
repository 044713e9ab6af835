"""Size of an update and its number of directions, from the factors alone.

left = Q1 R1 and right^T = Q2 R2, so the singular values of left @ right are those of R1 R2^T, an r x r matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyray.shelf.research.lora.updates import Floats, Update

RANK_TOLERANCE = 1e-10
"""Smallest singular value that is not rounding, relative to the largest."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Delta W = output_basis diag(singular_values) input_basis^T, without what is zero.

    Example:
        Decomposition(np.array([2.0, 0.5]), np.zeros((64, 2)), np.zeros((32, 2)))
    """

    singular_values: Floats
    """[k], descending; k is the rank."""
    output_basis: Floats
    """[out, k], orthonormal columns."""
    input_basis: Floats
    """[in, k], orthonormal columns."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The size and the dimensions of one update.

    Example:
        Spectrum(norm=2.06, spectral_norm=2.0, rank=2, effective_rank=1.65, stable_rank=1.06,
                 singular_values=(2.0, 0.5))
    """

    norm: float
    """Frobenius."""
    spectral_norm: float
    rank: int
    effective_rank: float
    """exp of the entropy of sigma / sum(sigma) (Roy and Vetterli 2007); 0 without an update."""
    stable_rank: float
    """Squared Frobenius norm over squared spectral norm; 0 without an update."""
    singular_values: tuple[float, ...]


def decompose(update: Update) -> Decomposition:
    """The thin singular value decomposition of an update, in O((out + in) r^2)."""
    output_basis, output_factor = np.linalg.qr(update.left)
    input_basis, input_factor = np.linalg.qr(update.right.T)
    left, values, right = np.linalg.svd(output_factor @ input_factor.T)
    kept = (
        values > RANK_TOLERANCE * values[0] if len(values) and values[0] > 0 else np.zeros(len(values), bool)
    )
    return Decomposition(values[kept], output_basis @ left[:, kept], input_basis @ right.T[:, kept])


def spectrum(singular_values: Floats) -> Spectrum:
    """Measures of the non-zero singular values, which must descend."""
    if not len(singular_values):
        return Spectrum(0.0, 0.0, 0, 0.0, 0.0, ())
    squares = float(np.sum(singular_values**2))
    shares = singular_values / singular_values.sum()
    return Spectrum(
        norm=float(np.sqrt(squares)),
        spectral_norm=float(singular_values[0]),
        rank=len(singular_values),
        effective_rank=float(np.exp(-np.sum(shares * np.log(shares)))),
        stable_rank=squares / float(singular_values[0]) ** 2,
        singular_values=tuple(float(value) for value in singular_values),
    )
