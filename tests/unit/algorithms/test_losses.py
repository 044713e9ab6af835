"""The clipped surrogate and its aggregation against literal float64 transcriptions with loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from polyray.algorithms import clipped_surrogate, loss_denominator, loss_numerator

CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28}


def random_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(6, 5, generator=generator, dtype=torch.float64)
    policy = old + 0.6 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    return policy, old, advantages


def test_surrogate_and_its_gradient_equal_the_formula_token_by_token() -> None:
    policy, old, advantages = random_batch(0)
    policy.requires_grad_()
    loss, clipped = clipped_surrogate(policy, old, advantages, **CLIP)
    per_token, _ = clipped_surrogate(policy, old, advantages[:, None].repeat(1, 5), **CLIP)
    assert torch.equal(loss, per_token)
    (gradient,) = torch.autograd.grad(loss.sum(), policy)
    num_clipped = 0
    for b in range(6):
        for t in range(5):
            ratio, advantage = math.exp(policy[b, t].item() - old[b, t].item()), advantages[b].item()
            outside = (advantage > 0 and ratio > 1.28) or (advantage < 0 and ratio < 0.8)
            expected = -min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
            assert loss[b, t].item() == pytest.approx(expected, abs=1e-14)
            assert clipped[b, t].item() == outside
            assert gradient[b, t].item() == pytest.approx(0.0 if outside else -ratio * advantage, abs=1e-14)
            num_clipped += outside
    assert 3 <= num_clipped <= 20


def test_surrogate_of_an_absurd_ratio_has_finite_loss_and_gradient() -> None:
    policy = torch.tensor([[0.0, 0.0]], requires_grad=True)
    loss, _ = clipped_surrogate(policy, torch.tensor([[-1000.0, 1000.0]]), torch.tensor([1.0]), **CLIP)
    (gradient,) = torch.autograd.grad(loss.sum(), policy)
    assert loss.tolist() == [[pytest.approx(-1.28), pytest.approx(0.0, abs=1e-8)]]
    assert gradient.tolist() == [[0.0, 0.0]]


LOSS_BT = torch.tensor(
    [[1.0, 2.0, 3.0, 9.0], [4.0, 9.0, 9.0, 9.0], [5.0, 7.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]]
)
MASK_BT = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
COUNTS: dict[str, Any] = {"max_tokens": 10, "num_sequences": 4, "num_tokens": 6}
NORMALISATIONS = ["constant", "token", "sequence", "sum"]


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [("constant", 22 / 40), ("token", 22 / 6), ("sum", 22 / 4), ("sequence", (2 + 4 + 6 + 0) / 4)],
)
def test_loss_is_the_numerator_over_the_denominator_by_hand(normalisation, expected) -> None:
    loss = loss_numerator(LOSS_BT, MASK_BT, normalisation) / loss_denominator(normalisation, **COUNTS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_numerator_adds_up_over_micro_batches_and_ignores_masked_tokens(normalisation) -> None:
    whole = loss_numerator(LOSS_BT, MASK_BT, normalisation)
    parts = [loss_numerator(LOSS_BT[i : i + 1], MASK_BT[i : i + 1], normalisation).item() for i in range(4)]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-6)
    poisoned = torch.where(MASK_BT, LOSS_BT, torch.tensor(float("nan"))).requires_grad_()
    loss = loss_numerator(poisoned, MASK_BT, normalisation)
    assert loss.item() == whole.item()
    (gradient,) = torch.autograd.grad(loss, poisoned)
    assert (gradient[~MASK_BT] == 0).all() and (gradient[MASK_BT] > 0).all()
    assert loss_numerator(LOSS_BT, torch.zeros_like(MASK_BT), normalisation).item() == 0.0
    assert loss_denominator(normalisation, max_tokens=10, num_sequences=0, num_tokens=0) == 1.0
