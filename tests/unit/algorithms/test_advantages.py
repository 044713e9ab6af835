"""Advantages within a group against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import group_advantages, leave_one_out_advantages


def test_centred_rewards() -> None:
    np.testing.assert_allclose(group_advantages([1, 0, 0, 0]), [0.75, -0.25, -0.25, -0.25], atol=1e-15)


def test_std_is_the_sample_standard_deviation() -> None:
    advantages = group_advantages([1, 0, 0, 0], scale="std")
    np.testing.assert_allclose(advantages, [1.5, -0.5, -0.5, -0.5], atol=4e-6)
    assert advantages[0] == pytest.approx(0.75 / (0.5 + 1e-6), abs=1e-15)


@pytest.mark.parametrize("scale", ["none", "std"])
def test_equal_rewards_give_no_advantage(scale) -> None:
    np.testing.assert_array_equal(group_advantages([0.5, 0.5, 0.5, 0.5], scale), np.zeros(4))


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    rewards = np.array([0.9, 0.1, 0.4, 0.0, 0.6])
    expected = [rewards[i] - np.delete(rewards, i).mean() for i in range(5)]
    np.testing.assert_allclose(leave_one_out_advantages(rewards), expected, atol=1e-15)
    np.testing.assert_allclose(leave_one_out_advantages(list(rewards)), group_advantages(rewards) * 5 / 4)


@pytest.mark.parametrize("function", [group_advantages, leave_one_out_advantages])
@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0, float("nan")], r"rewards_G\[1\]=nan"),
        ([1.0, None], r"rewards_G\[1\]=nan"),
        ([float("inf"), 0.0], r"rewards_G\[0\]=inf"),
        ([1.0], "1 samples, at least 2"),
        ([], "0 samples, at least 2"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
    ],
)
def test_bad_rewards_are_named(function, rewards, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(rewards)


def test_unknown_scale_is_named() -> None:
    with pytest.raises(ValueError, match="scale='mean' must be"):
        group_advantages([1, 0], scale="mean")  # pyright: ignore[reportArgumentType]
