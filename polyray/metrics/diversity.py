"""Diversity of the samples of one prompt, from embeddings, kernels and classes.

Not here: differences of words (text_diversity.py); the source of embeddings, kernels and classes. Called by
evaluation, once per prompt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import UNIT_TOLERANCE, Floats, integer_vector


def mean_pairwise_cosine_distance(embeddings: npt.ArrayLike) -> float:
    """Mean of 1 - cos over the pairs i < j, in [0, 2]; unbiased in the number of samples.

    Args:
        embeddings: [G, D], one row per sample, G >= 2, none of length 0 (they are normalised here).

    Raises:
        ValueError: fewer than two rows, a zero row, NaN.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"embeddings has shape {rows.shape}; give at least 2 rows, one embedding per sample")
    if not np.isfinite(rows).all():
        raise ValueError("embeddings holds NaN or infinity; leave out what could not be embedded")
    lengths = np.linalg.norm(rows, axis=1)
    if (lengths == 0).any():
        position = int(np.flatnonzero(lengths == 0)[0])
        raise ValueError(
            f"embeddings[{position}] has length 0 and no direction; leave out what could not be embedded"
        )
    count = len(rows)
    mean_direction = (rows / lengths[:, None]).sum(axis=0)
    # |sum of unit vectors|^2 is the sum of all G^2 cosines; the G on the diagonal are 1.
    cosines = (mean_direction @ mean_direction - count) / (count * (count - 1))
    return float(1.0 - cosines)


def vendi_score(kernel: npt.ArrayLike, q: float = 1.0) -> float:
    """The effective number of different samples, in [1, G] (Friedman and Dieng 2023).

    exp of the Renyi entropy of order q of the eigenvalues l of K / G: q = 1 exp(-sum l log l), q = 0 the rank,
    q = inf 1 / max l, else (sum l^q)^(1 / (1 - q)). Larger q: rare ones count less. Grows with G (biased low):
    compare at equal G only.

    Args:
        kernel: [G, G] similarities, symmetric, positive semidefinite, ones on the diagonal.
        q: >= 0.

    Raises:
        ValueError: another shape, asymmetry, a diagonal other than 1, a negative eigenvalue.
    """
    matrix = _checked_kernel(kernel)
    if not q >= 0:
        raise ValueError(f"q={q} must be at least 0; 1 is the Vendi score proper")
    shares = np.linalg.eigvalsh(matrix / len(matrix))
    if shares[0] < -UNIT_TOLERANCE:
        raise ValueError(
            f"kernel has the negative eigenvalue {shares[0] * len(matrix):.3g} and is not a kernel: use cosines "
            "or another positive semidefinite similarity"
        )
    # Rounding leaves eigenvalues of about 1e-17 where exact arithmetic has 0.
    shares = shares[shares > 1e-12]
    if q == 1:
        return float(np.exp(-(shares * np.log(shares)).sum()))
    if np.isinf(q):
        return float(1.0 / shares.max())
    return float((shares**q).sum() ** (1.0 / (1.0 - q)))


def output_entropy(classes_G: npt.ArrayLike) -> float:
    """Entropy in nats of the shares of the classes: 0 for one class, log(G) for G different ones.

    The plug-in estimate. It is biased low, by about (classes - 1) / (2 G) (Miller 1955), and cannot exceed
    log(G): compare at equal G only. The class -1 (wrong or unparsable) is a class like every other; leave such
    samples out to speak of correct ones alone.
    """
    classes = integer_vector(classes_G, "classes_G")
    if not len(classes):
        raise ValueError("classes_G is empty; give the class of each sample")
    _, counts = np.unique(classes, return_counts=True)
    shares = counts / len(classes)
    return float(-(shares * np.log(shares)).sum()) + 0.0  # one class alone would give -0.0


def _checked_kernel(kernel: npt.ArrayLike) -> Floats:
    matrix = np.asarray(kernel, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"kernel has shape {matrix.shape}; give one row and one column per sample")
    if not np.isfinite(matrix).all():
        raise ValueError("kernel holds NaN or infinity; leave out what has no similarity")
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > UNIT_TOLERANCE:
        raise ValueError(f"kernel differs from its transpose by {asymmetry}; pass (k + k.T) / 2")
    if np.abs(matrix.diagonal() - 1.0).max() > UNIT_TOLERANCE:
        raise ValueError(
            f"kernel has a diagonal from {matrix.diagonal().min()} to {matrix.diagonal().max()} but a sample's "
            "similarity to itself is 1; divide by the square roots of the diagonal, and pass no distances"
        )
    return matrix
