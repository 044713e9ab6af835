"""Maximal marginal relevance, against its definition written out."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.metrics import maximal_marginal_relevance


def random_items(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    points = draw.random((size, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) / np.sqrt(3)
    return draw.random(size), (distances + distances.T) / 2


def literal(relevance: np.ndarray, distances: np.ndarray, k: int, weight: float) -> list[int]:
    taken: list[int] = []
    while len(taken) < k:
        best, best_gain = -1, -np.inf
        for item in range(len(relevance)):
            if item in taken:
                continue
            nearest = min((distances[item, other] for other in taken), default=0.0)
            gain = (1 - weight) * relevance[item] + weight * nearest if taken else relevance[item]
            if gain > best_gain:
                best, best_gain = item, gain
        taken.append(best)
    return taken


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_marginal_relevance_equals_its_definition(seed: int, weight: float) -> None:
    relevance, distances = random_items(seed, 9)
    for k in (1, 4, 9):
        expected = literal(relevance, distances, k, weight)
        assert maximal_marginal_relevance(relevance, distances, k, weight) == expected


def test_marginal_relevance_ranks_a_copy_last_and_a_tie_by_index() -> None:
    distances = [[0.0, 0.0, 0.4], [0.0, 0.0, 0.4], [0.4, 0.4, 0.0]]
    assert maximal_marginal_relevance([0.9, 0.9, 0.7], distances, 3, 0.5) == [0, 2, 1]
    assert maximal_marginal_relevance([0.5] * 4, 1 - np.eye(4), 4, 0.5) == [0, 1, 2, 3]
