"""Dual clip, GSPO, CISPO, SAPO and the token filters against literal float64 transcriptions with loops."""

from __future__ import annotations

import math

import pytest
import torch

from polyray.algorithms import (
    cispo_loss,
    clip_cov_mask,
    clipped_surrogate,
    kl_cov_mask,
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


def number(value: torch.Tensor) -> float:
    return value.detach().item()


def gradient_of(loss: torch.Tensor, policy: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss.sum(), policy)[0]


def test_dual_clip_bounds_the_loss_of_bad_samples() -> None:
    policy, old = random_batch(0, spread=1.5)
    loss, clipped = clipped_surrogate(policy, old, ADVANTAGES_B, clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    gradient = gradient_of(loss, policy)
    num_limited = 0
    for b in range(6):
        for t in range(5):
            ratio, advantage = math.exp(number(policy[b, t] - old[b, t])), number(ADVANTAGES_B[b])
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            expected = -max(surrogate, 3.0 * advantage) if advantage < 0 else -surrogate
            limited = advantage < 0 and ratio > 3.0
            outside = limited or (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
            assert number(loss[b, t]) == pytest.approx(expected, abs=1e-13)
            assert bool(clipped[b, t]) == outside
            assert number(gradient[b, t]) == pytest.approx(0.0 if outside else -ratio * advantage, abs=1e-13)
            num_limited += limited
    assert num_limited >= 1


def test_gspo_clips_whole_sequences_by_their_geometric_mean() -> None:
    policy, old = random_batch(1, spread=0.3)
    loss, clipped = clipped_surrogate(
        policy, old, ADVANTAGES_B, clip_low=0.1, clip_high=0.12, sequence_mask=MASK_BT
    )
    masked = torch.where(MASK_BT, loss, torch.zeros_like(loss))
    gradient = gradient_of(masked.sum(1) / MASK_BT.sum(1).clamp(min=1), policy)
    outcomes = set()
    for b, length in enumerate(LENGTHS):
        advantage = number(ADVANTAGES_B[b])
        total = sum(number(policy[b, t] - old[b, t]) for t in range(length))
        ratio = math.exp(total / max(length, 1))
        outside = (advantage > 0 and ratio > 1.12) or (advantage < 0 and ratio < 0.9)
        outcomes.add(outside)
        expected = -min(ratio * advantage, min(max(ratio, 0.9), 1.12) * advantage)
        for t in range(5):
            assert number(loss[b, t]) == pytest.approx(expected, abs=1e-13)
            assert bool(clipped[b, t]) == outside
            # d s_i / d log pi_t = s_i / |y_i|
            slope = 0.0 if outside or t >= length else -ratio * advantage / length
            assert number(gradient[b, t]) == pytest.approx(slope, abs=1e-13)
    assert outcomes == {True, False}


def test_cispo_keeps_every_token_with_a_capped_constant_weight() -> None:
    policy, old = random_batch(2)
    loss, capped = cispo_loss(policy, old, ADVANTAGES_B, cap=1.5)
    gradient = gradient_of(loss, policy)
    for b in range(6):
        for t in range(5):
            ratio, advantage = math.exp(number(policy[b, t] - old[b, t])), number(ADVANTAGES_B[b])
            weight = min(ratio, 1.5)
            assert number(loss[b, t]) == pytest.approx(-weight * advantage * number(policy[b, t]), abs=1e-13)
            assert number(gradient[b, t]) == pytest.approx(-weight * advantage, abs=1e-13)
            assert bool(capped[b, t]) == (ratio > 1.5)
    assert 2 <= int(capped.sum()) <= 20


def test_sapo_is_the_gate_and_the_policy_gradient_at_ratio_one() -> None:
    policy, old = random_batch(3)
    loss = soft_gated_loss(policy, old, ADVANTAGES_B, temperature_positive=1.0, temperature_negative=1.5)
    gradient = gradient_of(loss, policy)
    for b in range(6):
        for t in range(5):
            ratio, advantage = math.exp(number(policy[b, t] - old[b, t])), number(ADVANTAGES_B[b])
            tau = 1.0 if advantage > 0 else 1.5
            gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
            assert number(loss[b, t]) == pytest.approx(-4 / tau * gate * advantage, abs=1e-13)
            slope = -4 * gate * (1 - gate) * ratio * advantage
            assert number(gradient[b, t]) == pytest.approx(slope, abs=1e-13)
    at_one = gradient_of(soft_gated_loss(policy, policy, ADVANTAGES_B), policy)
    torch.testing.assert_close(at_one, -ADVANTAGES_B[:, None].expand(6, 5), rtol=0, atol=1e-14)


def test_covariances_are_over_the_trained_tokens_only() -> None:
    policy, _ = random_batch(4)
    poisoned = torch.where(MASK_BT, policy.detach(), torch.tensor(float("nan"), dtype=torch.float64))
    covariances = token_covariances(poisoned, ADVANTAGES_B, MASK_BT)
    tokens = [(b, t) for b, length in enumerate(LENGTHS) for t in range(length)]
    mean_advantage = sum(number(ADVANTAGES_B[b]) for b, _ in tokens) / len(tokens)
    mean_logprob = sum(number(policy[b, t]) for b, t in tokens) / len(tokens)
    for b in range(6):
        for t in range(5):
            inside = (number(ADVANTAGES_B[b]) - mean_advantage) * (number(policy[b, t]) - mean_logprob)
            assert number(covariances[b, t]) == pytest.approx(inside if (b, t) in tokens else 0.0, abs=1e-14)


def test_clip_cov_drops_a_share_of_the_band_and_kl_cov_marks_the_top() -> None:
    mask = torch.ones(4, 50, dtype=torch.bool)
    mask[:, 40:] = False
    covariances = torch.linspace(0, 6, 200, dtype=torch.float64).view(4, 50)
    kept = clip_cov_mask(covariances, mask, torch.Generator().manual_seed(0), share=0.05, low=1.0, high=5.0)
    dropped = ~kept
    assert int(dropped.sum()) == 8  # 5 % of 160 trained tokens
    assert bool((mask & (covariances > 1) & (covariances < 5))[dropped].all())
    other = clip_cov_mask(covariances, mask, torch.Generator().manual_seed(1), share=0.05, low=1.0, high=5.0)
    assert not torch.equal(kept, other)
    marked = kl_cov_mask(covariances, mask, share=0.05)
    assert torch.nonzero(marked.flatten()).flatten().tolist() == list(range(182, 190))
    assert clip_cov_mask(covariances, mask, torch.Generator(), low=7.0, high=8.0).all()
    assert not kl_cov_mask(covariances, torch.zeros_like(mask)).any()


def test_masked_weights_are_zero_outside_the_band() -> None:
    policy, rollout = torch.tensor([0.0, -1.0, 0.5, 2.0]), torch.zeros(4)
    two_sided = masked_token_weights(policy, rollout, 0.5, 2.0)
    assert two_sided.tolist() == [1.0, 0.0, pytest.approx(math.exp(0.5)), 0.0]
    one_sided = masked_token_weights(policy, rollout, 0.0, 2.0)
    assert one_sided.tolist() == [1.0, pytest.approx(math.exp(-1)), pytest.approx(math.exp(0.5)), 0.0]


def test_bad_arguments_are_named() -> None:
    policy, old = random_batch(5)
    with pytest.raises(ValueError, match=r"dual_clip=1.0 must be above 1"):
        clipped_surrogate(policy, old, ADVANTAGES_B, clip_low=0.2, clip_high=0.2, dual_clip=1.0)
    with pytest.raises(ValueError, match=r"cap=0.0 must be above 0"):
        cispo_loss(policy, old, ADVANTAGES_B, cap=0.0)
    with pytest.raises(ValueError, match=r"temperature_negative=0"):
        soft_gated_loss(policy, old, ADVANTAGES_B, temperature_negative=0)
    with pytest.raises(ValueError, match=r"low=1.5 must lie in \[0, 1\)"):
        masked_token_weights(policy, old, 1.5, 2.0)
    with pytest.raises(ValueError, match=r"share=0 must lie in \(0, 1\]"):
        kl_cov_mask(policy, MASK_BT, share=0)
    with pytest.raises(ValueError, match=r"advantages \(5, 1\) do not fit"):
        cispo_loss(policy, old, ADVANTAGES_B[:5], cap=1.0)
