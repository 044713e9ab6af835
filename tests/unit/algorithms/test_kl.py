"""KL estimators: expectations and directions of gradients, enumerated on a categorical policy."""

from __future__ import annotations

import pytest
import torch

from polyray.algorithms import k1, k2, k3

LOGITS = torch.tensor([0.2, -1.0, 0.9, 0.0], dtype=torch.float64)
REFERENCE = torch.log_softmax(torch.tensor([-0.4, 0.3, 0.1, 1.0], dtype=torch.float64), 0)


def kl(first_logprobs: torch.Tensor, second_logprobs: torch.Tensor) -> torch.Tensor:
    return (first_logprobs.exp() * (first_logprobs - second_logprobs)).sum()


def test_kl_estimators_have_their_expectations_under_the_policy() -> None:
    policy = torch.log_softmax(LOGITS, 0)
    exact = kl(policy, REFERENCE).item()
    assert (policy.exp() * k1(policy, REFERENCE)).sum().item() == pytest.approx(exact, abs=1e-14)
    assert (policy.exp() * k3(policy, REFERENCE)).sum().item() == pytest.approx(exact, abs=1e-14)
    squares = sum(p * (lp - r) ** 2 / 2 for p, lp, r in zip(policy.exp(), policy, REFERENCE, strict=True))
    assert (policy.exp() * k2(policy, REFERENCE)).sum().item() == pytest.approx(float(squares), abs=1e-14)


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_kl_estimators_have_their_expected_gradients(estimator) -> None:
    logits = LOGITS.clone().requires_grad_()
    policy = torch.log_softmax(logits, 0)
    # Sampling weights are constants: a loss is differentiated through log pi of the sampled tokens only.
    (gradient,) = torch.autograd.grad((policy.exp().detach() * estimator(policy, REFERENCE)).sum(), logits)
    fresh = torch.log_softmax(logits, 0)
    forward = torch.autograd.grad(kl(fresh, REFERENCE), logits, retain_graph=True)[0]
    reverse = torch.autograd.grad(kl(REFERENCE, fresh), logits)[0]
    expected = {k1: torch.zeros(4, dtype=torch.float64), k2: forward, k3: reverse}[estimator]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)
    assert (forward - reverse).abs().max() > 0.01


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_kl_is_zero_at_the_reference_and_differentiates_the_policy_alone(estimator) -> None:
    assert estimator(REFERENCE, REFERENCE).tolist() == [0.0, 0.0, 0.0, 0.0]
    policy, reference = LOGITS.clone().requires_grad_(), REFERENCE.clone().requires_grad_()
    estimator(policy, reference).sum().backward()
    assert reference.grad is None
    assert policy.grad is not None and (policy.grad != 0).all()
