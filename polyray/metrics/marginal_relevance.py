"""Maximal marginal relevance: a good and diverse few out of many (Carbonell and Goldstein 1998)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import check_set_size, unit_distances, unit_vector


def maximal_marginal_relevance(
    relevance_G: npt.ArrayLike, distances_GG: npt.ArrayLike, k: int, diversity_weight: float
) -> list[int]:
    """Indices of k of G items, in the order in which they are taken.

    The first is the most relevant; each next one maximises
    (1 - w) relevance + w (distance to the nearest one that was taken), with ties going to the lower index.

    Args:
        relevance_G: [G] in [0, 1].
        distances_GG: [G, G] in [0, 1], symmetric with a zero diagonal.
        k: how many to take, 1 to G.
        diversity_weight: w in [0, 1]; 0 is the k most relevant ones.

    Raises:
        ValueError: a value out of range, or distances of another shape.
    """
    relevance = unit_vector(relevance_G, "relevance_G")
    distances = unit_distances(distances_GG, "distances_GG", len(relevance))
    check_set_size(k, len(relevance), "there are no more items to take; sample more, or take fewer")
    if not 0.0 <= diversity_weight <= 1.0:
        raise ValueError(f"diversity_weight={diversity_weight} is outside [0, 1]")
    taken = [int(np.argmax(relevance))]
    nearest = distances[taken[0]].copy()
    while len(taken) < k:
        gain = (1.0 - diversity_weight) * relevance + diversity_weight * nearest
        gain[taken] = -np.inf
        taken.append(int(np.argmax(gain)))
        nearest = np.minimum(nearest, distances[taken[-1]])
    return taken
