"""Credits of objectives on a similarity kernel: determinant of a minor, facility location, pairs, crowding.

Sources: determinants as group diversity, arXiv 2509.04784; elementary symmetric polynomials of k-DPPs (Kulesza
and Taskar, arXiv 1207.6083); crowding, arXiv 2602.01062. The kernel depends on the samples only pairwise, so U_k
is over minors of one matrix. Not here: log-determinants and Vendi scores, which have no closed form
(subset_credits.py).
Suffix _GG = pairs of samples of one prompt, _VG = anchors by samples, _E = eigenvalues.
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

from polyray.algorithms.checks import check_group_size
from polyray.algorithms.order_credits import best_credits
from polyray.metrics.arrays import UNIT_TOLERANCE, Floats, unit_distances, unit_vector

MAX_SETS = 10**300
"""C(N, k) up to here is a float64: any k of a thousand samples."""


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
    it covers them. Members of the group as anchors bias the gradient. Use it alone, e.g. with unit embeddings:

        similarity_VG = (1 + anchors_VH @ samples_GH.T) / 2
        advantages_G = N * facility_location_set_credits(similarity_VG, k)      # + leave-one-out quality

    Args:
        similarity_VG: [V >= 1, N >= k + 1] in [0, 1]; 0 where a sample is absent, so that only right ones cover.
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


def crowding_marginals(distance_GG: npt.ArrayLike) -> Floats:
    """Diversity of the whole group minus that without each sample (SetPO, arXiv 2602.01062, a reading).

    D(S) is the mean over i in S of -log(1 + crowding of i), the crowding being the mean similarity 1 - d_ij to all of
    S, i included. The baseline of sample i is a function of the others, so sum_i marginal_i grad log pi(y_i) has the
    expectation grad E[D(y_1 .. y_N)] exactly; the loss, a mean over samples, takes 1 / N of it.

    Args:
        distance_GG: [N >= 2, N] in [0, 1], symmetric, zero diagonal.

    Returns:
        [N] float64. The sum is not 0: sets of N and N - 1 are compared.
    """
    distance = np.asarray(distance_GG, dtype=np.float64)
    similarity = 1 - unit_distances(distance, "distance_GG", max(2, len(distance)))
    num_samples = len(similarity)
    total_G = similarity.sum(axis=1)
    whole = -np.log1p(total_G / num_samples).mean()
    # Row i: what each sample has left once i is gone; i itself does not count there.
    left_GG = -np.log1p((total_G - similarity) / (num_samples - 1))
    np.fill_diagonal(left_GG, 0.0)
    return whole - left_GG.sum(axis=1) / (num_samples - 1)


def member_facility_set_credits(similarity_GG: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = largest similarity of one more sample, which is in no set, to a member of the set.

    Every sample in turn is that anchor, for the sets of the other N - 1. The expected update is the gradient of
    E[max over S of sim(v, i)] with S from the policy that is trained and v from the one that sampled, held fixed:
    sets are paid for covering what the policy says now. (Anchors that are members themselves follow no gradient.)

    Args:
        similarity_GG: [N >= k + 2, N] in [0, 1]; an absent sample has a zero row and column: it covers nothing, and
            as the anchor it is covered by nothing.
        k: set size.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 2, values outside [0, 1], NaN, not square.
    """
    similarity = np.asarray(similarity_GG, dtype=np.float64)
    num_samples = len(similarity)
    if similarity.shape != (num_samples, num_samples):
        raise ValueError(
            f"similarity_GG has shape {similarity.shape}; give one row and one column per sample"
        )
    for row in similarity:
        unit_vector(row, "similarity_GG")
    check_group_size(k, num_samples - 1)
    others = ~np.eye(num_samples, dtype=np.bool_)
    credits_GG = np.zeros((num_samples, num_samples))
    credits_GG[others] = best_credits(similarity[others].reshape(num_samples, num_samples - 1), k).ravel()
    return credits_GG.mean(axis=0)


def determinant_set_credits(kernel_GG: npt.ArrayLike, k: int) -> Floats:
    """Credits of f = determinant of the kernel's minor over the set: the squared volume the k samples span.

    With the eigenpairs (lambda_e, v_e), the minors of size k with sample i sum to
    sum_e v_e(i)^2 lambda_e e_{k-1}(the other eigenvalues), e_j the j-th elementary symmetric polynomial: one
    eigendecomposition serves all samples, and no term is negative, so nothing cancels. Cost N^3 + N k.

    Args:
        kernel_GG: [N >= k + 1, N] positive semi-definite, e.g. cosine similarities (unit diagonal: f in [0, 1]).
        k: set size, at least 2.

    Returns:
        [N] float64, summing to 0.

    Raises:
        ValueError: k > N - 1, more than 1e300 sets, NaN, not symmetric, or an eigenvalue clearly below 0.
    """
    kernel = _checked_kernel(kernel_GG)
    num_samples = len(kernel)
    check_group_size(k, num_samples, at_least=2)
    num_sets = comb(num_samples, k)
    if num_sets > MAX_SETS:
        raise ValueError(
            f"N={num_samples}, k={k}: more than {MAX_SETS:g} sets overflow float64; lower k, or use logdet_value "
            "with balanced_set_credits"
        )
    eigenvalues_E, vectors_GE = np.linalg.eigh(kernel)
    if not _is_semidefinite(eigenvalues_E):
        raise ValueError(
            f"kernel_GG has the eigenvalue {eigenvalues_E[0]:.3g}; it must be positive semi-definite: use inner "
            "products of features, not arbitrary similarities"
        )
    # At mean 1 no polynomial exceeds the number of sets (Maclaurin's inequality).
    scale = float(np.trace(kernel)) / num_samples or 1.0
    values_E = np.maximum(eigenvalues_E, 0.0) / scale
    sum_with_G = np.square(vectors_GE) @ (values_E * _products_without_each(values_E, k - 1))
    # credit_i = k / N (mean with i - mean without i); the mean over i of the former is U_k.
    credits_per_sum = scale**k * num_samples / (num_sets * (num_samples - k))
    return credits_per_sum * (sum_with_G - sum_with_G.mean())


def is_semidefinite(kernel_GG: Floats) -> bool:
    """Whether `determinant_set_credits` takes the kernel; edit distances, for example, give others."""
    return _is_semidefinite(np.linalg.eigvalsh(kernel_GG).astype(np.float64))


def _is_semidefinite(ascending_E: Floats) -> bool:
    return bool(ascending_E[0] >= -UNIT_TOLERANCE * len(ascending_E))


def _products_without_each(values_E: Floats, order: int) -> Floats:
    """[N]: the sum over all `order`-subsets of the other N - 1 values of their product, for each value.

    e_j of the values before (and, reversed, behind) each value is a running sum over e_{j-1}; the two sides meet
    in a convolution. Sums of non-negative terms only: dividing the left-out value out of e_j would cancel.
    """
    both = np.stack([values_E, values_E[::-1]])[:, :-1]
    sides = np.zeros((order + 1, 2, len(values_E)))
    sides[0] = 1.0
    for j in range(1, order + 1):
        np.add.accumulate(both * sides[j - 1, :, :-1], axis=1, out=sides[j, :, 1:])
    return (sides[:, 0] * sides[::-1, 1, ::-1]).sum(axis=0)


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
