"""GEM against its formula in loops, and the diversity term of polychromic SFT against the exact gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyray.algorithms import clipped_surrogate, cluster_set_credits, gem_loss, masked_cross_entropy
from tests.unit.algorithms.enumeration import (
    CLASSES_V,
    PROBABILITIES_V,
    QUALITY_V,
    Outcomes,
    distinct_share,
    exact_gradient,
    expectation,
)

MASK_BT = torch.tensor([[True, True, False], [True, False, False]])
TARGETS_BT = torch.tensor([[0, 3, 99], [2, 99, 99]])


def logits(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("link", ["linear", "logsigmoid"])
def test_gem_equals_the_formula(link) -> None:
    values = logits()
    loss, count = gem_loss(values, TARGETS_BT, MASK_BT, beta=0.7, link=link)
    expected = 0.0
    for b, t in ((0, 0), (0, 1), (1, 0)):
        z, y = values[b, t].tolist(), int(TARGETS_BT[b, t])
        norm, norm_q = sum(map(math.exp, z)), sum(math.exp(x / 0.7) for x in z)
        for v in range(4):
            weight = 1.0 if link == "linear" else 1 / (1 + math.exp(-0.01 * (z[v] - z[y])))
            difference = math.log(math.exp(z[y]) / norm) - math.log(math.exp(z[v]) / norm)
            expected -= math.exp(z[v] / 0.7) / norm_q * weight * difference
    assert loss.item() == pytest.approx(expected, abs=1e-13)
    assert count == 3


def test_gem_gradient_with_linear_link_is_q_minus_the_target() -> None:
    values = logits(1)
    loss, _ = gem_loss(values, TARGETS_BT, MASK_BT, beta=0.7)
    (gradient,) = torch.autograd.grad(loss, values)
    expected = torch.softmax(values / 0.7, -1) - torch.nn.functional.one_hot(TARGETS_BT.clamp(max=3), 4)
    torch.testing.assert_close(
        gradient, torch.where(MASK_BT[..., None], expected.detach(), 0.0), rtol=0, atol=1e-14
    )
    cross_entropy, _ = masked_cross_entropy(values, TARGETS_BT, MASK_BT)
    at_one, _ = gem_loss(values, TARGETS_BT, MASK_BT, beta=1.0)
    torch.testing.assert_close(
        torch.autograd.grad(at_one, values)[0],
        torch.autograd.grad(cross_entropy, values)[0],
        rtol=0,
        atol=1e-14,
    )


N, K = 5, 3


def polychromic_gradient(weight: float) -> np.ndarray:
    """Expected gradient, with respect to the logits of a softmax policy, of -lambda D as polyray computes it."""

    def weigh(group: Outcomes) -> np.ndarray:
        theta = torch.tensor(np.log(PROBABILITIES_V), requires_grad=True)
        logprobs_G = torch.log_softmax(theta, 0)[list(group)]
        credits_G = cluster_set_credits(QUALITY_V[list(group)], CLASSES_V[list(group)], K)
        loss_G1, _ = clipped_surrogate(
            logprobs_G[:, None],
            logprobs_G[:, None],
            weight * torch.from_numpy(credits_G),
            clip_low=0.2,
            clip_high=0.2,
        )
        return torch.autograd.grad(loss_G1.sum(), theta)[0].numpy()

    return expectation(weigh, N)


def test_diversity_term_has_the_exact_gradient_at_every_weight() -> None:
    def value(s: Outcomes) -> float:
        return float(np.mean(QUALITY_V[list(s)])) * distinct_share(CLASSES_V, s)

    exact = exact_gradient(value, K)
    assert np.abs(exact).max() > 1e-3
    np.testing.assert_allclose(polychromic_gradient(0.0), 0.0, rtol=0, atol=0)
    np.testing.assert_allclose(polychromic_gradient(10.0), -10 * exact, rtol=0, atol=1e-11)
