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
def test_equals_its_definition(seed: int, weight: float) -> None:
    relevance, distances = random_items(seed, 9)
    for k in (1, 4, 9):
        assert maximal_marginal_relevance(relevance, distances, k, weight) == literal(
            relevance, distances, k, weight
        )


def test_no_weight_on_diversity_takes_the_most_relevant() -> None:
    relevance, distances = random_items(7, 8)
    assert maximal_marginal_relevance(relevance, distances, 3, 0.0) == np.argsort(-relevance)[:3].tolist()


def test_copy_of_a_chosen_item_is_ranked_last() -> None:
    distances = [[0.0, 0.0, 0.4], [0.0, 0.0, 0.4], [0.4, 0.4, 0.0]]
    assert maximal_marginal_relevance([0.9, 0.9, 0.7], distances, 3, 0.5) == [0, 2, 1]


def test_ties_go_to_the_lower_index() -> None:
    distances = 1 - np.eye(4)
    assert maximal_marginal_relevance([0.5] * 4, distances, 4, 0.5) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 4}, r"k=4.*\b3\b"),
        ({"k": 0}, r"k=0.*\b1\b"),
        ({"diversity_weight": 1.5}, r"diversity_weight=1\.5.*\[0, 1\]"),
        ({"diversity_weight": float("nan")}, "diversity_weight=nan"),
        ({"relevance_G": [0.1, float("nan"), 0.2]}, "relevance_G.*nan"),
        ({"distances_GG": np.zeros((2, 2))}, r"distances_GG.*\(2, 2\).*\b3\b"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "relevance_G": [0.1, 0.2, 0.3],
        "distances_GG": 1 - np.eye(3),
        "k": 2,
        "diversity_weight": 0.5,
    }
    with pytest.raises(ValueError, match=message):
        maximal_marginal_relevance(**{**arguments, **changes})  # type: ignore[arg-type]
