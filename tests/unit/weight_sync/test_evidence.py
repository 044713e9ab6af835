"""Statistics that tell versions apart, on synthetic noise of known size."""

from __future__ import annotations

import numpy as np
import pytest

from polyray.weight_sync.evidence import distinct_tokens, is_nearer, is_unmoved, typical_size, wrong_scale

TOKENS = 160
TRIALS = 300


def _noise(draw: np.random.Generator, size: float) -> np.ndarray:
    """Heavy tails, as rounding of log-probs has them."""
    return size * draw.standard_t(3, TOKENS)


def test_shared_beginning_counts_once_or_not_at_all() -> None:
    sequences = ((1, 8, 9), (1, 8, 7, 7), (1, 8, 9))
    assert distinct_tokens(sequences, with_shared=True).tolist() == [1, 1, 0, 1, 1, 0, 0]
    assert distinct_tokens(sequences, with_shared=False).tolist() == [0, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("engine_noise", "learner_noise"), [(0.06, 0.06), (0.03, 0.06), (0.2, 0.05)])
@pytest.mark.parametrize("change", [0.0, 0.002, 0.1, 3.0])
def test_sound_engine_is_never_unmoved_nor_scaled(
    engine_noise: float, learner_noise: float, change: float
) -> None:
    draw = np.random.default_rng(0)
    for _ in range(TRIALS):
        true, base_noise = change * draw.standard_normal(TOKENS), _noise(draw, learner_noise)
        learner = true + _noise(draw, learner_noise) - base_noise
        assert not is_unmoved(true + _noise(draw, engine_noise) - _noise(draw, engine_noise), learner)
        assert wrong_scale(true + _noise(draw, engine_noise) - base_noise, learner) is None


@pytest.mark.parametrize("repeat_noise", [0.0, 0.003])
def test_engine_with_old_weights_is_unmoved_at_any_step_size(repeat_noise: float) -> None:
    draw = np.random.default_rng(0)
    for change in (0.0, 0.002, 0.1):
        learner = change * draw.standard_normal(TOKENS) + _noise(draw, 0.06)
        assert is_unmoved(_noise(draw, repeat_noise), learner)


def test_learner_that_stays_proves_nothing_about_the_engine() -> None:
    still, moved = np.zeros(TOKENS), np.zeros(TOKENS)
    moved[: TOKENS // 2 - 1] = 0.06
    assert not is_unmoved(still, still)
    assert not is_unmoved(still, moved)
    moved[: TOKENS // 2] = 0.06
    assert is_unmoved(still, moved)


def test_few_tokens_are_no_evidence() -> None:
    assert not is_unmoved(np.zeros(25), np.ones(25))
    assert is_unmoved(np.zeros(26), np.ones(26))
    assert wrong_scale(np.zeros(TOKENS), np.zeros(TOKENS)) is None
    ramp = np.linspace(-1, 1, 25)
    assert wrong_scale(2 * ramp, ramp) is None
    assert not is_nearer(ramp, ramp, ramp + 1)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_scaled_change_above_the_noise_is_found_with_its_factor(factor: float) -> None:
    draw = np.random.default_rng(0)
    for _ in range(TRIALS):
        true, base_noise = draw.standard_normal(TOKENS), _noise(draw, 0.03)
        learner = true + _noise(draw, 0.03) - base_noise
        found = wrong_scale(factor * true + _noise(draw, 0.03) - base_noise, learner)
        if factor == 0.0:  # no change has no slope: the base is found by the sign test
            assert is_nearer(_noise(draw, 0.03), np.zeros(TOKENS), learner)
        else:
            assert found == pytest.approx(factor, rel=0.15)


def test_typical_size_leaves_the_largest_quarter_out() -> None:
    assert typical_size(np.array([-1.0, 2.0, -3.0, 100.0])) == 2.0
    assert typical_size(np.array([0.5])) == 0.5
    assert np.isnan(typical_size(np.array([1.0, np.nan, 1.0, 1.0])))
