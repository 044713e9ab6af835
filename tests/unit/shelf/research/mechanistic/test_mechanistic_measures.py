"""Entropy and distance of attention by hand, groups of states that are there and groups that are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyray.shelf.research.mechanistic.attention import pattern_distance, relative_entropy_of_rows
from polyray.shelf.research.mechanistic.clusters import cluster_states


def test_relative_entropy_is_0_at_one_place_and_1_for_uniform_rows() -> None:
    rows = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [0.7, 0.2, 0.1, 0]])
    by_hand = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1)) / math.log(3)
    found = relative_entropy_of_rows(rows, torch.tensor([4, 4, 4, 3]))
    assert found.tolist() == pytest.approx([0.0, 1.0, 0.5, by_hand], abs=1e-7)
    with pytest.raises(ValueError, match="1 place"):
        relative_entropy_of_rows(torch.ones(1, 1), torch.tensor([1]))


def test_pattern_distance_is_a_metric_between_0_and_1() -> None:
    one, other = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.4, 0.6]])
    half = torch.tensor([[0.5, 0.5, 0.0]])
    assert pattern_distance(one, one).item() == 0.0
    assert pattern_distance(one, other).item() == pytest.approx(1.0)
    # The mean is (.75, .25, 0): H2 = .811278; the halves' own entropies are 0 and 1 bit.
    by_hand = math.sqrt(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5)
    assert pattern_distance(one, half).item() == pytest.approx(by_hand)
    draw = np.random.default_rng(0).dirichlet(np.ones(5), size=(200, 3))
    a, b, c = (torch.tensor(draw[:, at]) for at in range(3))
    torch.testing.assert_close(pattern_distance(a, b), pattern_distance(b, a))
    assert (pattern_distance(a, c) <= pattern_distance(a, b) + pattern_distance(b, c) + 1e-12).all()


def blobs(*sizes: int) -> np.ndarray:
    draw = np.random.default_rng(1)
    centres = 10.0 * np.eye(len(sizes), 6)
    return np.concatenate([c + 0.1 * draw.normal(size=(n, 6)) for c, n in zip(centres, sizes, strict=True)])


def test_clusters_of_separate_states_are_found_and_compared_with_solutions() -> None:
    states, classes = blobs(5, 6, 5), [7] * 5 + [9] * 6 + [None] * 5
    found = cluster_states(states, classes, seed=0)
    assert (found.count, found.stability, found.agreement) == (3, 1.0, 1.0)
    assert found.silhouette > 0.95
    assert cluster_states(states, classes, seed=0) == found
    across = cluster_states(blobs(8, 8), [0, 1] * 8, seed=0)
    assert across.count == 2 and across.agreement < 0.05


def test_clusters_of_noise_are_not_stable() -> None:
    draws = [np.random.default_rng(number).normal(size=(16, 32)) for number in range(20)]
    noise = [cluster_states(states, [0, 1] * 8, seed=0) for states in draws]
    assert np.mean([each.stability for each in noise]) < 0.6
    assert abs(np.mean([each.agreement for each in noise])) < 0.1


@pytest.mark.parametrize(
    ("distinct", "classes", "agreement"), [(1, [4] * 4, math.nan), (2, [4, 4, 5, 5], 1.0)]
)
def test_clusters_of_few_states_are_the_states(
    distinct: int, classes: list[int | None], agreement: float
) -> None:
    states = np.repeat(np.eye(distinct, 3), 4 // distinct, axis=0)
    found = cluster_states(states, classes, seed=0)
    assert found.count == distinct and math.isnan(found.silhouette) and math.isnan(found.stability)
    assert found.agreement == pytest.approx(agreement, nan_ok=True)
