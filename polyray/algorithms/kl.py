"""Per-token estimators of KL(policy || reference) on tokens sampled from the policy (Schulman's k1, k2, k3).

With r = pi_ref / pi: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r. As numbers k1 and k3 have the
expectation KL(policy || reference); k2 only approximates it. As a loss, differentiated through log pi of
sampled tokens only, the expected gradients are different things:

    k1   0: it regularises nothing                      (use it inside the reward, detached)
    k2   the gradient of KL(policy || reference)        (the right one for a loss)
    k3   the gradient of KL(reference || policy)        (what GRPO does; the other direction)

Not here: the coefficient and the aggregation (losses.py). Called by the learner step. Monitor with k3.
Shapes of both arguments are alike; the reference is treated as constant; all is elementwise.
"""

from __future__ import annotations

import torch


def k1(policy_logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """log pi - log pi_ref; unbiased as a number, but zero expected gradient as a loss."""
    return _log_ratio(policy_logprobs, reference_logprobs)


def k2(policy_logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """(log pi - log pi_ref)^2 / 2; as a loss its expected gradient is that of KL(policy || reference)."""
    return 0.5 * _log_ratio(policy_logprobs, reference_logprobs).square()


def k3(policy_logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """pi_ref / pi - 1 + log(pi / pi_ref), never negative; as a loss it follows KL(reference || policy)."""
    log_ratio = _log_ratio(policy_logprobs, reference_logprobs)
    return torch.expm1(-log_ratio) + log_ratio


def _log_ratio(policy_logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    if policy_logprobs.shape != reference_logprobs.shape:
        raise ValueError(
            f"policy_logprobs {tuple(policy_logprobs.shape)} and reference_logprobs "
            f"{tuple(reference_logprobs.shape)} must have the same shape; gather both for the same tokens"
        )
    return policy_logprobs - reference_logprobs.detach()
