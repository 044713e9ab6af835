"""Masked cross-entropy against a literal transcription."""

from __future__ import annotations

import math

import pytest
import torch

from polyray.algorithms import masked_cross_entropy


def test_sum_over_masked_positions_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(5, (3, 4), generator=generator)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    expected = 0.0
    for b in range(3):
        for t in range(4):
            if mask[b, t]:
                row = logits[b, t].tolist()
                expected += math.log(sum(math.exp(z) for z in row)) - row[int(targets[b, t])]
    loss_sum, num_tokens = masked_cross_entropy(logits, targets, mask)
    assert loss_sum.item() == pytest.approx(expected, abs=1e-12)
    assert num_tokens == 5


def test_gradient_is_softmax_minus_one_hot_and_zero_where_masked() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [2.0, 1.0]]], requires_grad=True)
    loss_sum, _ = masked_cross_entropy(logits, torch.tensor([[0, -100]]), torch.tensor([[True, False]]))
    (gradient,) = torch.autograd.grad(loss_sum, logits)
    torch.testing.assert_close(gradient, torch.tensor([[[-0.75, 0.75], [0.0, 0.0]]]))


def test_half_precision_logits_are_summed_in_float32() -> None:
    loss_sum, _ = masked_cross_entropy(
        torch.zeros(1, 3, 4, dtype=torch.bfloat16),
        torch.zeros(1, 3, dtype=torch.int64),
        torch.ones(1, 3).bool(),
    )
    assert loss_sum.dtype == torch.float32
    assert loss_sum.item() == pytest.approx(3 * math.log(4), rel=1e-6)


def test_empty_mask_is_a_differentiable_zero() -> None:
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss_sum, num_tokens = masked_cross_entropy(
        logits, torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2).bool()
    )
    loss_sum.backward()
    assert (loss_sum.item(), num_tokens) == (0.0, 0)
    assert logits.grad is not None and logits.grad.abs().max() == 0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"logits_BTV \(1, 2, 3\).*targets_BT \(1, 1\)"):
        masked_cross_entropy(torch.zeros(1, 2, 3), torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
