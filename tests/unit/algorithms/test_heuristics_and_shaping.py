"""Heuristic baselines and what happens to rewards before an objective: values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.algorithms import (
    darling_advantages,
    floored_classes,
    floored_distances,
    floored_kernel,
    gapo_advantages,
    has_signal,
    maximum_likelihood_advantages,
    mode_anchored_rewards,
    overlong_penalty,
    present_samples,
    rare_advantages,
    scheduled,
    shaped_advantages,
    ucpo_advantages,
    unlikeliness_advantages,
)

DISTANCES = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=float)


def test_shaped_and_darling_advantages_equal_sums_by_hand() -> None:
    # Mean distances to the others: 1, 1/2, 1/2.
    shaped = shaped_advantages([1, 1, 0], DISTANCES, 0.5)
    np.testing.assert_allclose(shaped, np.array([1.5, 1.25, 0.25]) - 1.0, atol=1e-15)
    darling = darling_advantages([1, 1, 0], DISTANCES)
    np.testing.assert_allclose(darling, np.array([1, 0.5, 0]) - 0.5, atol=1e-15)
    added = darling_advantages([1, 1, 0], DISTANCES, combine="add")
    np.testing.assert_allclose(added, np.array([2, 1.5, 0.5]) - 4 / 3, atol=1e-15)


def test_unlikeliness_discounts_by_rank_of_likelihood() -> None:
    # Ranks 2, 0, 1, 3 of 4: rewards 1 x (1 - .25 x 2/4), 1, 0, 1 x (1 - .25 x 3/4).
    values = np.array([0.875, 1.0, 0.0, 0.8125])
    advantages = unlikeliness_advantages([1, 1, 0, 1], [-1.0, -3.0, -2.0, -0.5])
    np.testing.assert_allclose(advantages, values - values.mean(), atol=1e-15)
    tied = unlikeliness_advantages([1, 1], [-1.0, -1.0])
    assert tied.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rare_divides_advantages_by_a_power_of_the_class_size(alpha: float) -> None:
    rewards, classes = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.4]), [7, 2, -1, 7, -1, 7]
    weights = [1 / (1 if c == -1 else classes.count(c)) ** alpha for c in classes]
    expected = weights * (rewards - rewards.mean())
    np.testing.assert_allclose(rare_advantages(rewards, classes, alpha), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("num_answers", [None, 10])
def test_gapo_rewards_equal_one_minus_frequency_over_its_target(num_answers: int | None) -> None:
    answers = ["b", "a", "?", "a", "c", "a"]
    valid = [answer for answer in answers if answer != "?"]
    target = 0.0 if num_answers is None else 1 / num_answers
    rewards = np.array([
        -1.0 if answer == "?" else 1 - (valid.count(answer) / len(valid) - target) for answer in answers
    ])  # fmt: skip
    quality, classes = [float(a != "?") for a in answers], [-1 if a == "?" else ord(a) for a in answers]
    found = gapo_advantages(quality, classes, num_answers)
    np.testing.assert_allclose(found, rewards - rewards.mean(), rtol=0, atol=1e-15)
    assert gapo_advantages([0, 0], [-1, -1], num_answers).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("tau", [0.0, 0.2, 1.0])
def test_ucpo_blends_uniform_and_inverse_likelihood_weights(tau: float) -> None:
    correct, logprobs = np.array([1, 0, 1, 1, 0]), np.array([-0.2, -3.0, -1.5, -0.7, -0.1])
    right = np.flatnonzero(correct)
    q = np.exp(logprobs[right]) / np.exp(logprobs[right]).sum()
    blended = (1 - tau) / len(right) + tau * (1 / q) / (1 / q).sum()
    expected = correct - correct.mean()
    expected[right] *= blended * len(right)
    found = ucpo_advantages(correct, logprobs, tau)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    assert abs(found.sum()) < 1e-15 and found[2] >= found[3] >= found[0]
    assert ucpo_advantages([0, 0], [-1.0, -2.0], tau).tolist() == [0.0, 0.0]


def test_maximum_likelihood_divides_by_the_mean_reward() -> None:
    np.testing.assert_allclose(maximum_likelihood_advantages([1, 0, 0, 0]), [3, -1, -1, -1], atol=1e-15)
    assert maximum_likelihood_advantages([0, 0]).tolist() == [0.0, 0.0]
    assert maximum_likelihood_advantages([1, 1]).tolist() == [0.0, 0.0]


def test_mode_anchored_rewards_make_good_samples_equal_under_the_kl() -> None:
    rewards, logprobs = np.array([1.0, 0.2, 0.9, 1.0]), np.log([0.05, 0.6, 0.3, 0.01])
    found = mode_anchored_rewards(rewards, logprobs, 0.5, 0.9)
    # The anchor is sample 2; sample 1 is likelier but not good.
    expected = [0.9 + 0.5 * (logprobs[2] - logprobs[i]) if i != 1 else 0.2 for i in range(4)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    best = np.exp(logprobs + found / 0.5)
    np.testing.assert_allclose(best[[0, 3]], best[2], rtol=1e-12)
    assert mode_anchored_rewards(rewards, logprobs, 0.5, 1.1).tolist() == rewards.tolist()


def test_overlong_penalty_is_a_ramp() -> None:
    penalties = overlong_penalty([0, 6, 7, 8, 10, 12], max_length=10, buffer=4)
    assert penalties.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_floor_removes_classes_distances_and_similarities() -> None:
    quality = [0.2, 0.5, 1.0]
    assert floored_classes(quality, [4, 5, -1], 0.5).tolist() == [-1, 5, -1]
    assert present_samples(quality, [4, 5, -1], 0.5).tolist() == [False, True, False]
    assert present_samples(quality, None, 0.5).tolist() == [False, True, True]
    floored = floored_distances(quality, np.ones((3, 3)) - np.eye(3), 0.5)
    assert floored.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    kernel = floored_kernel(quality, [[0, 1, 1], [1, 0, 0.25], [1, 0.25, 0]], 0.5)
    assert kernel.tolist() == [[0, 0, 0], [0, 1, 0.75], [0, 0.75, 1]]


def test_has_signal_is_true_for_differing_credits_only() -> None:
    assert has_signal([0.5, -0.5])
    assert not has_signal([0.0, 0.0, 0.0]) and not has_signal([1e-12, -1e-12])


@pytest.mark.parametrize(
    ("shape", "values"),
    [("constant", [4, 4, 4, 4]), ("linear", [4, 2.5, 1, 1]), ("cosine", [4, 2.5, 1, 1])],
)
def test_scheduled_value_follows_its_shape(shape, values) -> None:
    assert [scheduled(4, 1, step, 10, shape) for step in (0, 5, 10, 99)] == pytest.approx(values)
