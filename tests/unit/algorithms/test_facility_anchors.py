"""Anchors out of the group: which of them keep facility location an exact gradient, by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from polyray.algorithms import facility_location_set_credits, member_facility_set_credits
from tests.unit.algorithms.enumeration import KERNEL_VV, PROBABILITIES_V, Outcomes, expected_update, scores

N, K = 5, 2


def gradients() -> tuple[np.ndarray, np.ndarray]:
    """Gradients of E[best similarity of an anchor to K samples]: samples alone (anchor fixed), and all."""
    of_samples, of_all = np.zeros(4), np.zeros(4)
    for anchor, *chosen in product(range(4), repeat=K + 1):
        weight = PROBABILITIES_V[[anchor, *chosen]].prod() * KERNEL_VV[anchor, chosen].max()
        score = scores((anchor, *chosen))
        of_samples += weight * score[1:].sum(axis=0)
        of_all += weight * score.sum(axis=0)
    return of_samples, of_all


def all_members(group: Outcomes) -> np.ndarray:
    return facility_location_set_credits(KERNEL_VV[np.ix_(group, group)].clip(0, 1), K)


def each_other_member(group: Outcomes) -> np.ndarray:
    """Every member in turn is the anchor of the other N - 1."""
    credits_G = np.zeros(N)
    for anchor in range(N):
        others = [i for i in range(N) if i != anchor]
        similarity = KERNEL_VV[group[anchor], [group[i] for i in others]][None].clip(0, 1)
        credits_G[others] += facility_location_set_credits(similarity, K) / N
    return credits_G


def closed(group: Outcomes) -> np.ndarray:
    return member_facility_set_credits(KERNEL_VV[np.ix_(group, group)].clip(0, 1), K)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_only_anchors_left_out_of_the_sets_give_a_gradient() -> None:
    of_samples, of_all = gradients()
    np.testing.assert_allclose(expected_update(each_other_member, N), of_samples, rtol=0, atol=1e-12)
    np.testing.assert_allclose(expected_update(closed, N), of_samples, rtol=0, atol=1e-12)
    biased = expected_update(all_members, N)
    assert (round(cosine(biased, of_samples), 2), round(cosine(biased, of_all), 2)) == (0.49, -0.06)


def test_every_member_in_turn_is_the_anchor_of_the_others() -> None:
    for group in ((0, 1, 2, 3, 1), (2, 2, 0, 0, 3), (1, 1, 1, 1, 1)):
        np.testing.assert_allclose(closed(group), each_other_member(group), rtol=0, atol=1e-15)
        assert abs(closed(group).sum()) < 1e-15
    with pytest.raises(ValueError, match=r"k=4.*\b3\b"):
        member_facility_set_credits(np.eye(5), 4)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        member_facility_set_credits(np.ones((2, 3)), 1)
