"""Masked cross-entropy against a literal transcription."""

from __future__ import annotations

import math

import pytest
import torch

from polyray.algorithms import masked_cross_entropy


def test_cross_entropy_and_its_gradient_equal_the_formula_where_masked_in() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    targets = torch.where(mask, torch.randint(5, (3, 4), generator=generator), -100)
    expected, slopes = 0.0, torch.zeros(3, 4, 5, dtype=torch.float64)
    for b, t in mask.nonzero().tolist():
        row, target = logits[b, t].tolist(), int(targets[b, t])
        total = sum(math.exp(z) for z in row)
        expected += math.log(total) - row[target]
        slopes[b, t] = torch.tensor([math.exp(z) / total - (v == target) for v, z in enumerate(row)])
    loss_sum, num_tokens = masked_cross_entropy(logits, targets, mask)
    assert loss_sum.item() == pytest.approx(expected, abs=1e-12)
    assert num_tokens == 5
    (gradient,) = torch.autograd.grad(loss_sum, logits)
    torch.testing.assert_close(gradient, slopes, rtol=0, atol=1e-7)


def test_cross_entropy_of_half_precision_is_float32_and_of_no_token_a_zero_with_gradient() -> None:
    logits = torch.zeros(1, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    targets, mask = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3).bool()
    loss_sum, _ = masked_cross_entropy(logits, targets, mask)
    assert loss_sum.dtype == torch.float32
    assert loss_sum.item() == pytest.approx(3 * math.log(4), rel=1e-6)
    nothing, num_tokens = masked_cross_entropy(logits, targets, ~mask)
    nothing.backward()
    assert (nothing.item(), num_tokens) == (0.0, 0)
    assert logits.grad is not None and logits.grad.abs().max() == 0


def test_cross_entropy_on_right_samples_of_the_base_has_the_gradient_of_its_forward_kl() -> None:
    """DPH-RL's rehearsal: the expectation over right answers of the base against KL(base given right || pi)."""
    base_V = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64) * torch.tensor([1, 1, 0, 1])
    base_V = base_V / base_V.sum()
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64).requires_grad_()
    rows, mask = logits.expand(4, 1, 4), torch.ones(1, 1).bool()
    losses = [masked_cross_entropy(rows[v : v + 1], torch.tensor([[v]]), mask)[0] for v in range(4)]
    (expected,) = torch.autograd.grad((base_V * torch.stack(losses)).sum(), logits, retain_graph=True)
    divergence = torch.nn.functional.kl_div(torch.log_softmax(logits, 0), base_V, reduction="sum")
    (gradient,) = torch.autograd.grad(divergence, logits)
    torch.testing.assert_close(expected, gradient, rtol=0, atol=1e-12)
