"""Credits of objectives on a similarity kernel: determinant of a minor, facility location, pairs of correct ones.

Sources: determinants as group diversity, arXiv 2509.04784; elementary symmetric polynomials of k-DPPs (Kulesza
and Taskar, arXiv 1207.6083). The kernel depends on the samples only pairwise, so U_k is over minors of one
matrix. Not here: log-determinants and Vendi scores, which have no closed form (subset_credits.py).
Suffix _GG = pairs of samples of one prompt, _VG = anchors by samples, _E = eigenvalues.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_group_size
from polyray.algorithms.order_credits import best_credits
from polyray.metrics.arrays import UNIT_TOLERANCE, Floats, unit_distances, unit_vector


def gated_distances(quality_G: npt.ArrayLike, distance_GG: npt.ArrayLike) -> Floats:
    """[N, N]: d_ij q_i q_j, "diversity among correct only": use it as the distance of any pairwise objective.

    Args:
        quality_G: [N] in [0, 1].
        distance_GG: [N, N] in [0, 1], symmetric, zero diagonal.
    """
    quality = unit_vector(quality_G, "quality_G")
    return unit_distances(distance_GG, "distance_GG", len(quality)) * np.outer(quality, quality)


def facility_location_set_credits(similarity_VG: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = mean over anchors v of the largest similarity of v to a member of the set.

    The anchors must not depend on the samples (reference answers, cluster centres): a set is then worth how well
    it covers them. Anchors taken from the group itself would bias the gradient.

    Args:
        similarity_VG: [V >= 1, N >= k + 1] in [0, 1].
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, values outside [0, 1], NaN, not two-dimensional.
    """
    similarity = np.asarray(similarity_VG, dtype=np.float64)
    if similarity.ndim != 2 or similarity.shape[0] == 0:
        raise ValueError(
            f"similarity_VG has shape {similarity.shape}; give one row per anchor, one column per sample"
        )
    for row in similarity:
        unit_vector(row, "similarity_VG")
    check_group_size(k, similarity.shape[1])
    return best_credits(similarity, k).mean(axis=0)


def determinant_set_credits(kernel_GG: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = determinant of the kernel's minor over the set: the squared volume the k samples span.

    U_k is e_k(eigenvalues) / C(N, k); the part of the minors with i is sum_e v_e(i)^2 lambda_e e_{k-1}(the other
    eigenvalues), so one eigendecomposition serves all samples. Cost N^3 + N k^2.

    Args:
        kernel_GG: [N >= k + 1, N] positive semi-definite, e.g. cosine similarities (unit diagonal: f in [0, 1]).
        k: set size, at least 2.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, NaN, not symmetric, or an eigenvalue clearly below 0.
    """
    kernel = _checked_kernel(kernel_GG)
    num_samples = len(kernel)
    check_group_size(k, num_samples, at_least=2)
    eigenvalues_E, vectors_GE = np.linalg.eigh(kernel)
    if eigenvalues_E[0] < -UNIT_TOLERANCE * num_samples:
        raise ValueError(
            f"kernel_GG has the eigenvalue {eigenvalues_E[0]:.3g}; it must be positive semi-definite: use inner "
            "products of features, not arbitrary similarities"
        )
    eigenvalues_E = np.clip(eigenvalues_E, 0.0, None)
    mean_with_G = vectors_GE**2 @ (eigenvalues_E * _mean_products_without_each(eigenvalues_E, k - 1))
    share = k / num_samples
    # U_k = share x mean_with + (1 - share) x mean_without, and sum_i mean_with_i = N U_k.
    mean_without_G = (mean_with_G.mean() - share * mean_with_G) / (1 - share)
    return share * (mean_with_G - mean_without_G)


def _mean_products_without_each(values_E: Floats, order: int) -> Floats:
    """[N]: the mean product over all `order`-subsets of the other N - 1 values, for each of them.

    With e_j the j-th elementary symmetric polynomial, e_j(first n) / C(n, j) is a mean, so nothing overflows; what
    lies before and after the left-out value meets with hypergeometric weights, and nothing is subtracted.
    """
    num_values = len(values_E)
    kept, taken = _mean_product_steps(num_values, order)
    both = np.stack([values_E, values_E[::-1]])
    rows = np.zeros((num_values, 2, order + 1))
    rows[0, :, 0] = 1.0
    for n in range(1, num_values):
        rows[n] = kept[n] * rows[n - 1]
        rows[n, :, 1:] += taken[n] * both[:, n - 1, None] * rows[n - 1, :, :-1]
    return (_split_weights(num_values, order) * rows[:, 0] * rows[::-1, 1, ::-1]).sum(axis=1)


@lru_cache(maxsize=64)
def _mean_product_steps(num_values: int, order: int) -> tuple[Floats, Floats]:
    """The shares (n - j) / n and j / n with which a mean over n values is made of those over n - 1."""
    n, j = np.maximum(np.arange(num_values), 1)[:, None], np.arange(order + 1)
    return np.maximum(n - j, 0) / n, np.where(j <= n, j / n, 0.0)[:, 1:]


@lru_cache(maxsize=64)
def _split_weights(num_values: int, order: int) -> Floats:
    """[N, order + 1]: the chance that j of `order` values drawn from N - 1 are among the first n."""
    total = comb(num_values - 1, order)
    weights = [
        [comb(n, j) * comb(num_values - 1 - n, order - j) / total for j in range(order + 1)]
        for n in range(num_values)
    ]
    return np.array(weights)


def _checked_kernel(kernel_GG: npt.ArrayLike) -> Floats:
    kernel = np.asarray(kernel_GG, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel_GG has shape {kernel.shape}; give one row and one column per sample")
    if not np.isfinite(kernel).all():
        raise ValueError("kernel_GG holds a value that is not finite; leave out samples without features")
    asymmetry = np.abs(kernel - kernel.T).max()
    if asymmetry > UNIT_TOLERANCE:
        raise ValueError(f"kernel_GG differs from its transpose by {asymmetry:.3g}; pass (K + K.T) / 2")
    return kernel
