"""Which tokens make a policy collapse, by the covariance of advantage and log-probability: Clip-Cov and KL-Cov.

The entropy of a policy falls with the covariance of log pi and A over tokens; a few tokens carry nearly all of
it. Clip-Cov takes a random few of them out of the loss, KL-Cov keeps the largest near the old policy
(arXiv 2505.22617). Called by the learner step. Suffix _B = sequences, _T = tokens.
"""

from __future__ import annotations

import torch


def token_covariances(
    policy_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """(A_t - mean A) (log pi_t - mean log pi) per token, means over the tokens of `mask`; 0 outside it. [B, T]

    Raises:
        ValueError: shapes that do not fit.
    """
    if advantages.ndim == 1:
        advantages = advantages.unsqueeze(-1).expand_as(policy_logprobs)
    if advantages.shape != policy_logprobs.shape or mask.shape != policy_logprobs.shape:
        raise ValueError(
            f"advantages {tuple(advantages.shape)}, mask {tuple(mask.shape)} and policy_logprobs "
            f"{tuple(policy_logprobs.shape)} must fit; give one advantage per sequence or per token"
        )
    chosen = mask.bool()
    logprobs = policy_logprobs.detach()
    if not chosen.any():
        return torch.zeros_like(logprobs)
    product = (advantages - advantages[chosen].mean()) * (logprobs - logprobs[chosen].mean())
    return torch.where(chosen, product, torch.zeros_like(product))


def clip_cov_mask(
    covariances: torch.Tensor,
    mask: torch.Tensor,
    generator: torch.Generator,
    *,
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
) -> torch.Tensor:
    """The tokens that stay in the loss: all but a random `share` of them with a covariance in (low, high). [B, T]

    At least one token goes where any lies in the band. The draw depends on `generator` only.
    """
    _check_share(share)
    candidates = torch.nonzero((mask.bool() & (covariances > low) & (covariances < high)).flatten()).flatten()
    count = min(len(candidates), max(int(share * int(mask.sum())), 1))
    order = torch.randperm(len(candidates), generator=generator)[:count].to(candidates.device)
    kept = torch.ones(mask.numel(), dtype=torch.bool, device=mask.device)
    kept[candidates[order]] = False
    return kept.view_as(mask)


def kl_cov_mask(covariances: torch.Tensor, mask: torch.Tensor, *, share: float = 2e-4) -> torch.Tensor:
    """The `share` of tokens with the largest covariance, at least one: their loss gets |log ratio| added. [B, T]"""
    _check_share(share)
    num_tokens = int(mask.sum())
    chosen = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    if num_tokens:
        ranked = covariances.masked_fill(~mask.bool(), -torch.inf).flatten()
        chosen[ranked.topk(max(int(share * num_tokens), 1)).indices] = True
    return chosen.view_as(mask)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must lie in (0, 1]; the paper uses 2e-4")
