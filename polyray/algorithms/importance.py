"""Correcting, and measuring, the mismatch between the policy that is trained and the one that sampled.

Engines and learners compute slightly different log-probabilities for the same weights, and groups may be
stale by a few versions. Token weights are truncated (biased, low variance); sequences that drifted too far
leave the loss. This is a correction of small mismatches: a set objective is biased on stale groups for any
weights of single samples. Called by the learner step.

w = pi_policy / pi_rollout; suffix _B = sequences, _T = tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

LOG_WEIGHT_LIMIT = 300.0
"""Measured log weights count at most this much, so that squared weights stay finite in float64."""


def truncated_token_weights(
    policy_logprobs: torch.Tensor, rollout_logprobs: torch.Tensor, cap: float
) -> torch.Tensor:
    """min(w, cap) per token, detached: truncated importance sampling (TIS).

    Args:
        policy_logprobs: any shape, e.g. [B, T].
        rollout_logprobs: the same shape, log-probabilities of the distribution that was sampled from.
        cap: largest weight, above 0; 2 is usual.

    Raises:
        ValueError: shapes differ, cap not above 0.
    """
    if not cap > 0:
        raise ValueError(f"cap={cap} must be above 0; 2.0 is usual")
    log_ratio = _log_ratio(policy_logprobs, rollout_logprobs)
    return log_ratio.clamp(max=math.log(cap)).exp()


def masked_token_weights(
    policy_logprobs: torch.Tensor, rollout_logprobs: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """w where low <= w <= high, else 0, detached. low = 0: masked importance sampling (MIS); else two-sided (IcePop).

    Tokens of weight 0 must leave the loss *and* its denominators.

    Args:
        policy_logprobs: any shape, e.g. [B, T].
        rollout_logprobs: the same shape.
        low: at least 0 and below 1, e.g. 0.5.
        high: above 1, e.g. 2 or 5.

    Raises:
        ValueError: shapes differ, bounds out of range.
    """
    if not 0 <= low < 1 < high:
        raise ValueError(f"low={low} must lie in [0, 1) and high={high} above 1, e.g. 0.5 and 5")
    weights = _log_ratio(policy_logprobs, rollout_logprobs).exp()
    return torch.where((weights >= low) & (weights <= high), weights, torch.zeros_like(weights))


def sequence_mask(
    policy_logprobs: torch.Tensor, rollout_logprobs: torch.Tensor, mask: torch.Tensor, band: float
) -> torch.Tensor:
    """Mask of sequences that stay: |mean over tokens of log w| <= band, around the geometric mean of w.

    A sequence with a NaN log-probability does not stay; one without trained tokens does. Removed sequences must
    leave the loss *and* its denominators.

    Args:
        policy_logprobs: [B, T].
        rollout_logprobs: [B, T].
        mask: [B, T] bool, True = trained token.
        band: in nats, above 0.

    Returns:
        [B] bool.

    Raises:
        ValueError: shapes differ, band not above 0.
    """
    if not band > 0:
        raise ValueError(f"band={band} must be above 0 nats; 0.5 is usual")
    _check_mask(mask, policy_logprobs)
    log_ratio = _log_ratio(policy_logprobs, rollout_logprobs)
    log_ratio = torch.where(mask.bool(), log_ratio, torch.zeros_like(log_ratio))
    mean_B = log_ratio.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
    return mean_B.abs() <= band


@dataclass(frozen=True, slots=True)
class MismatchSums:
    """Mismatch of a micro batch as sums over its tokens, which add up over micro batches and ranks.

    Example:
        MismatchSums(totals={"kl_rollout": .02, "weights": 2.1, "weights_squared": 2.3, "logprob_difference": .2},
                     num_tokens=2, largest_difference=.15)
    """

    totals: Mapping[str, float]
    """kl_rollout: of w - 1 - log w, in nats; weights: of w; weights_squared: of w^2; logprob_difference: of |log w|,
    in nats."""
    num_tokens: int
    largest_difference: float
    """|log w| of the token where it is largest, in nats."""


def mismatch_sums(
    policy_logprobs: torch.Tensor, rollout_logprobs: torch.Tensor, mask: torch.Tensor
) -> MismatchSums:
    """Sums of the untruncated token weights w over the tokens of `mask`, in float64.

    The mean of kl_rollout is an unbiased, never negative estimate of KL(rollout || policy), because the tokens were
    sampled from the rollout policy. A token without a finite log ratio is left out: it would make every sum NaN.

    Raises:
        ValueError: shapes differ.
    """
    _check_mask(mask, policy_logprobs)
    log_ratio = _log_ratio(policy_logprobs, rollout_logprobs)
    log_ratio = log_ratio[mask.bool() & torch.isfinite(log_ratio)].double()
    weights = log_ratio.clamp(max=LOG_WEIGHT_LIMIT).exp()
    totals = {
        "kl_rollout": float((weights - 1 - log_ratio).sum()),
        "weights": float(weights.sum()),
        "weights_squared": float((weights**2).sum()),
        "logprob_difference": float(log_ratio.abs().sum()),
    }
    largest = float(log_ratio.abs().max()) if log_ratio.numel() else 0.0
    return MismatchSums(totals, log_ratio.numel(), largest)


def effective_sample_size(mean_weight: float, mean_squared_weight: float) -> float:
    """(sum w)^2 / (n sum w^2), in (0, 1], from the means of w and w^2; 1 where there is no weight."""
    return mean_weight**2 / mean_squared_weight if mean_squared_weight else 1.0


def _log_ratio(policy_logprobs: torch.Tensor, rollout_logprobs: torch.Tensor) -> torch.Tensor:
    if policy_logprobs.shape != rollout_logprobs.shape:
        raise ValueError(
            f"policy_logprobs {tuple(policy_logprobs.shape)} and rollout_logprobs "
            f"{tuple(rollout_logprobs.shape)} must have the same shape; gather both for the same tokens"
        )
    return policy_logprobs.detach() - rollout_logprobs.detach()


def _check_mask(mask: torch.Tensor, policy_logprobs: torch.Tensor) -> None:
    if mask.shape != policy_logprobs.shape:
        raise ValueError(
            f"mask {tuple(mask.shape)} and policy_logprobs {tuple(policy_logprobs.shape)} must have the same "
            "shape; pad both to the same length"
        )
