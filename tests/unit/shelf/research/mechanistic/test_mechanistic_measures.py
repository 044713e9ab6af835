"""Entropy and distance of attention by hand, groups of states that are there and groups that are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyray.shelf.research.mechanistic.attention import pattern_distance, relative_entropy_of_rows
from polyray.shelf.research.mechanistic.clusters import Clustering, cluster_states


def test_relative_entropy_is_0_at_one_place_and_1_where_all_are_alike() -> None:
    rows = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.7, 0.2, 0.1, 0.0]]
    )
    visible = torch.tensor([4, 4, 4, 3])
    by_hand = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert relative_entropy_of_rows(rows, visible).tolist() == pytest.approx(
        [0.0, 1.0, 0.5, by_hand], abs=1e-7
    )


def test_a_row_with_one_place_has_no_relative_entropy() -> None:
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
    assert pattern_distance(half, one).item() == pytest.approx(by_hand)
    draw = np.random.default_rng(0).dirichlet(np.ones(5), size=(200, 3))
    a, b, c = (torch.tensor(draw[:, at]) for at in range(3))
    assert (pattern_distance(a, c) <= pattern_distance(a, b) + pattern_distance(b, c) + 1e-12).all()


def blobs(sizes: tuple[int, ...], spread: float) -> np.ndarray:
    draw = np.random.default_rng(1)
    centres = 10.0 * np.eye(len(sizes), 6)
    return np.concatenate(
        [centre + spread * draw.normal(size=(size, 6)) for centre, size in zip(centres, sizes, strict=True)]
    )


def test_groups_that_are_there_are_found_again_and_are_the_solutions() -> None:
    classes = [7] * 5 + [9] * 6 + [None] * 5
    found = cluster_states(blobs((5, 6, 5), 0.1), classes, seed=0)
    assert (found.count, found.stability, found.agreement) == (3, 1.0, 1.0)
    assert found.silhouette > 0.95


def test_groups_of_noise_are_not_stable() -> None:
    draws = [np.random.default_rng(number).normal(size=(16, 32)) for number in range(20)]
    noise = [cluster_states(states, [0, 1] * 8, seed=0) for states in draws]
    assert np.mean([each.stability for each in noise]) < 0.6
    assert abs(np.mean([each.agreement for each in noise])) < 0.1


def test_groups_across_solutions_do_not_agree() -> None:
    found = cluster_states(blobs((8, 8), 0.1), [0, 1] * 8, seed=0)
    assert found.count == 2 and found.agreement < 0.05


@pytest.mark.parametrize(
    ("distinct", "classes", "agreement"), [(1, [4, 4, 4, 4], None), (2, [4, 4, 5, 5], 1.0)]
)
def test_few_states_are_their_own_groups(
    distinct: int, classes: list[int | None], agreement: float | None
) -> None:
    states = np.repeat(np.eye(distinct, 3), 4 // distinct, axis=0)
    found = cluster_states(states, classes, seed=0)
    assert found.count == distinct and math.isnan(found.silhouette) and math.isnan(found.stability)
    assert math.isnan(found.agreement) if agreement is None else found.agreement == agreement


def test_equal_input_gives_equal_output() -> None:
    states = blobs((4, 4, 8), 2.0)
    first, second = (cluster_states(states, [1] * 8 + [2] * 8, seed=5) for _ in range(2))
    assert first == second and isinstance(first, Clustering)
