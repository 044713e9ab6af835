"""Advantages within a group against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import deviation, deviation_of_sums, group_advantages, leave_one_out_advantages


def test_centred_rewards() -> None:
    np.testing.assert_allclose(group_advantages([1, 0, 0, 0]), [0.75, -0.25, -0.25, -0.25], atol=1e-15)


def test_std_is_the_sample_standard_deviation() -> None:
    centred = group_advantages([1, 0, 0, 0])
    assert deviation(centred) == pytest.approx(0.5 + 1e-6, abs=1e-15)
    np.testing.assert_allclose(centred / deviation(centred), [1.5, -0.5, -0.5, -0.5], atol=4e-6)
    population = centred / deviation(centred, "population")
    np.testing.assert_allclose(population, np.array([3, -1, -1, -1]) / np.sqrt(3), atol=1e-5)


def test_equal_rewards_give_no_advantage() -> None:
    centred = group_advantages([0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(centred / deviation(centred), np.zeros(4))


@pytest.mark.parametrize("std", ["sample", "population"])
def test_deviation_of_sums_equals_deviation_of_all_values(std) -> None:
    groups = [np.array([0.9, -0.1, -0.8]), np.array([0.3, 0.4]), np.array([2.0])]
    every = np.concatenate(groups)
    total, squares = (sum(float((group**power).sum()) for group in groups) for power in (1, 2))
    assert deviation_of_sums(6, total, squares, std) == pytest.approx(deviation(every, std), abs=1e-14)
    assert deviation(every, std) == pytest.approx(every.std(ddof=std == "sample") + 1e-6, abs=1e-15)
    assert deviation_of_sums(0, 0.0, 0.0, std) == 1e-6


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
        ([1.0], r"\b1\b.*\b2\b"),
        ([], r"\b0\b.*\b2\b"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
    ],
)
def test_bad_rewards_are_named(function, rewards, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(rewards)


def test_deviation_with_bad_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="std='both'"):
        deviation([1, 0], "both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="std='both'"):
        deviation_of_sums(2, 1.0, 1.0, "both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"\b1\b.*\b2\b"):
        deviation([1.0])
