"""Dual clip, GSPO, CISPO, SAPO and the token filters against literal float64 transcriptions with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyray.algorithms import (
    cispo_loss,
    clip_cov_tokens,
    clipped_surrogate,
    kl_cov_penalty,
    kl_cov_tokens,
    masked_token_weights,
    soft_gated_loss,
    token_covariances,
)

LENGTHS = [5, 3, 1, 4, 0, 2]
MASK_BT = torch.arange(5)[None] < torch.tensor(LENGTHS)[:, None]
ADVANTAGES_B = torch.tensor([1.0, -1.0, 0.5, -2.0, 0.7, 3.0], dtype=torch.float64)


def random_batch(seed: int, spread: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(6, 5, generator=generator, dtype=torch.float64)
    policy = old + spread * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return policy.requires_grad_(), old


def gradient_of(loss: torch.Tensor, policy: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss.sum(), policy)[0]


def tokens(policy: torch.Tensor, old: torch.Tensor) -> list[tuple[tuple[int, int], float, float]]:
    """((row, position), ratio, advantage) of every token, as Python floats."""
    log_ratios = (policy - old).tolist()
    places = [(b, t) for b in range(6) for t in range(5)]
    return [((b, t), math.exp(log_ratios[b][t]), ADVANTAGES_B[b].item()) for b, t in places]


def test_dual_clip_and_its_gradient_equal_the_formula() -> None:
    policy, old = random_batch(0, spread=1.5)
    loss, clipped = clipped_surrogate(policy, old, ADVANTAGES_B, clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    gradient = gradient_of(loss, policy)
    num_limited = 0
    for at, ratio, advantage in tokens(policy, old):
        surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        expected = -max(surrogate, 3.0 * advantage) if advantage < 0 else -surrogate
        limited = advantage < 0 and ratio > 3.0
        outside = limited or (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
        assert loss[at].item() == pytest.approx(expected, abs=1e-13)
        assert clipped[at].item() == outside
        assert gradient[at].item() == pytest.approx(0.0 if outside else -ratio * advantage, abs=1e-13)
        num_limited += limited
    assert num_limited >= 1


def test_gspo_and_its_gradient_equal_the_formula_of_sequences() -> None:
    policy, old = random_batch(1, spread=0.3)
    loss, clipped = clipped_surrogate(
        policy, old, ADVANTAGES_B, clip_low=0.1, clip_high=0.12, sequence_mask=MASK_BT
    )
    masked = torch.where(MASK_BT, loss, torch.zeros_like(loss))
    gradient = gradient_of(masked.sum(1) / MASK_BT.sum(1).clamp(min=1), policy)
    log_ratios, outcomes = (policy - old).tolist(), set()
    for (b, t), _, advantage in tokens(policy, old):
        length = LENGTHS[b]
        ratio = math.exp(sum(log_ratios[b][:length]) / max(length, 1))
        outside = (advantage > 0 and ratio > 1.12) or (advantage < 0 and ratio < 0.9)
        outcomes.add(outside)
        expected = -min(ratio * advantage, min(max(ratio, 0.9), 1.12) * advantage)
        assert loss[b, t].item() == pytest.approx(expected, abs=1e-13)
        assert clipped[b, t].item() == outside
        # d s_i / d log pi_t = s_i / |y_i|
        slope = 0.0 if outside or t >= length else -ratio * advantage / length
        assert gradient[b, t].item() == pytest.approx(slope, abs=1e-13)
    assert outcomes == {True, False}


def test_cispo_and_its_gradient_equal_the_formula() -> None:
    policy, old = random_batch(2)
    loss, capped = cispo_loss(policy, old, ADVANTAGES_B, cap=1.5)
    gradient = gradient_of(loss, policy)
    for at, ratio, advantage in tokens(policy, old):
        weight = min(ratio, 1.5)
        assert loss[at].item() == pytest.approx(-weight * advantage * policy[at].item(), abs=1e-13)
        assert gradient[at].item() == pytest.approx(-weight * advantage, abs=1e-13)
        assert capped[at].item() == (ratio > 1.5)
    assert 2 <= int(capped.sum()) <= 20


def test_sapo_and_its_gradient_equal_the_formula() -> None:
    policy, old = random_batch(3)
    loss = soft_gated_loss(policy, old, ADVANTAGES_B, temperature_positive=1.0, temperature_negative=1.5)
    gradient = gradient_of(loss, policy)
    for at, ratio, advantage in tokens(policy, old):
        tau = 1.0 if advantage > 0 else 1.5
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        assert loss[at].item() == pytest.approx(-4 / tau * gate * advantage, abs=1e-13)
        assert gradient[at].item() == pytest.approx(-4 * gate * (1 - gate) * ratio * advantage, abs=1e-13)


def test_token_covariances_equal_products_of_deviations() -> None:
    logprobs, advantages = np.array([-1.0, -3.0, -0.5, -0.5]), np.array([1.0, 1.0, -1.0, -2.0])
    expected = (logprobs - logprobs.mean()) * (advantages - advantages.mean())
    np.testing.assert_allclose(token_covariances(logprobs, advantages), expected, atol=1e-15)
    assert token_covariances([], []).tolist() == []


def test_clip_cov_draws_a_share_of_all_tokens_out_of_the_band() -> None:
    covariances = np.linspace(0, 6, 160)
    draws = np.random.default_rng(0).random(160)
    out = clip_cov_tokens(covariances, draws, share=0.05, low=1.0, high=5.0)
    assert out.sum() == 8  # 5 % of 160
    inside = (covariances > 1) & (covariances < 5)
    assert draws[out].max() < draws[inside & ~out].min() and inside[out].all()
    other = clip_cov_tokens(covariances, np.random.default_rng(1).random(160), share=0.05)
    assert not np.array_equal(out, other)
    assert clip_cov_tokens(covariances, draws, share=1e-9).sum() == 1
    assert not clip_cov_tokens(covariances, draws, low=7.0, high=8.0).any()


def test_kl_cov_takes_the_largest_and_draws_among_equals() -> None:
    covariances = np.linspace(0, 6, 160)
    draws = np.random.default_rng(0).random(160)
    assert np.flatnonzero(kl_cov_tokens(covariances, draws, share=0.05)).tolist() == list(range(152, 160))
    equal = kl_cov_tokens(np.ones(160), draws, share=0.05)
    assert equal.sum() == 8 and draws[equal].max() < draws[~equal].min()
    assert kl_cov_tokens(np.empty(0), np.empty(0)).tolist() == []


@pytest.mark.parametrize("choose", [clip_cov_tokens, kl_cov_tokens])
def test_token_filters_do_not_depend_on_the_order(choose) -> None:
    generator = np.random.default_rng(3)
    covariances, draws = generator.integers(0, 6, 300) * 1.0, generator.random(300)
    chosen, order = choose(covariances, draws, share=0.1), generator.permutation(300)
    assert chosen.sum() == 30
    assert choose(covariances[order], draws[order], share=0.1).tolist() == chosen[order].tolist()


def test_kl_cov_penalty_is_the_absolute_log_ratio_without_a_jump_at_zero() -> None:
    ratios = torch.tensor([0.3, -0.2, 1e-6, -1e-6, 0.0], dtype=torch.float64)
    policy = (ratios - 1).requires_grad_()
    penalty = kl_cov_penalty(policy, torch.full_like(ratios, -1))
    slopes = gradient_of(penalty, policy)
    assert penalty[:2].tolist() == [pytest.approx(0.3 - 0.005), pytest.approx(0.2 - 0.005)]
    assert slopes.tolist() == pytest.approx([1, -1, 1e-4, -1e-4, 0])


def test_masked_token_weights_are_zero_outside_the_band() -> None:
    policy, rollout = torch.tensor([0.0, -1.0, 0.5, 2.0]), torch.zeros(4)
    two_sided = masked_token_weights(policy, rollout, 0.5, 2.0)
    assert two_sided.tolist() == [1.0, 0.0, pytest.approx(math.exp(0.5)), 0.0]
    one_sided = masked_token_weights(policy, rollout, 0.0, 2.0)
    assert one_sided.tolist() == [1.0, pytest.approx(math.exp(-1)), pytest.approx(math.exp(0.5)), 0.0]
