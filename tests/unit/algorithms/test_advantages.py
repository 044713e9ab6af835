"""Advantages within a group against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import (
    deviation,
    deviation_of_sums,
    focal_weight,
    group_advantages,
    leave_one_out_advantages,
    reinforce_advantages,
)


@pytest.mark.parametrize("std", ["sample", "population"])
def test_deviation_of_sums_equals_deviation_of_all_values(std) -> None:
    groups = [np.array([0.9, -0.1, -0.8]), np.array([0.3, 0.4]), np.array([2.0])]
    every = np.concatenate(groups)
    total, squares = (sum(float((group**power).sum()) for group in groups) for power in (1, 2))
    assert deviation_of_sums(6, total, squares, std) == pytest.approx(deviation(every, std), abs=1e-14)
    assert deviation(every, std) == pytest.approx(every.std(ddof=std == "sample") + 1e-6, abs=1e-15)
    assert deviation_of_sums(0, 0.0, 0.0, std) == 1e-6


def test_group_advantages_subtract_the_mean_and_leave_one_out_that_of_the_others() -> None:
    rewards = np.array([0.9, 0.1, 0.4, 0.0, 0.6])
    np.testing.assert_allclose(group_advantages(rewards), rewards - rewards.mean(), atol=1e-15)
    np.testing.assert_array_equal(group_advantages([0.5] * 4), np.zeros(4))
    expected = [rewards[i] - np.delete(rewards, i).mean() for i in range(5)]
    np.testing.assert_allclose(leave_one_out_advantages(list(rewards)), expected, atol=1e-15)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_reinforce_advantages_equal_the_weighted_rewards_of_the_paper(weight: float) -> None:
    """W-REINFORCE: lambda r for r = +1 and r for r = -1, of a verifier's 1 and 0."""
    verdicts = [1, 0, 0, 1, 0]
    published = [weight * r if r == 1 else r for r in (2 * verdict - 1 for verdict in verdicts)]
    assert reinforce_advantages(verdicts, weight).tolist() == published
    np.testing.assert_allclose(reinforce_advantages([0.25], weight), [0.25 * weight - 0.75], atol=1e-15)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_focal_weight_is_the_power_of_the_share_of_wrong_samples(gamma: float) -> None:
    assert focal_weight([1, 0, 0, 1, 1, 0, 0, 0], gamma) == pytest.approx((1 - 3 / 8) ** gamma, abs=1e-15)
    assert focal_weight([0, 0], gamma) == 1.0
    assert focal_weight([1, 1], gamma) == (1.0 if gamma == 0 else 0.0)
