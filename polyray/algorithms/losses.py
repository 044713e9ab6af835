"""From advantages to a scalar: the surrogates per token (clipped, GSPO, CISPO, SAPO), and their aggregation.

Not here: advantages (advantages.py, set_credits.py), the KL term (kl.py), correction of the mismatch between
learner and engine (importance.py), SFT (supervised.py). Called by the learner step.
Suffix _B = sequences, _T = tokens.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

Normalisation = Literal["constant", "token", "sequence", "sum"]

LOG_RATIO_LIMIT = 20.0
"""Log ratios are clamped to +- this: an infinite ratio would make the gradient of a clipped token NaN."""


def clipped_surrogate(
    policy_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    sequence_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) with ratio = pi_policy / pi_old.

    PPO (arXiv 1707.06347); unequal bounds as in DAPO (arXiv 2503.14476). At ratio 1 the gradient is
    -A grad log pi. With `dual_clip` the loss is at most -dual_clip x A where A < 0 (arXiv 1912.09729). With
    `sequence_mask` every token has the ratio of its whole sequence, the geometric mean over its tokens: GSPO
    (arXiv 2507.18071), with bounds like 3e-4 and 4e-4. Positions that the caller masks later must hold finite
    numbers.

    Args:
        policy_logprobs: [B, T], differentiable.
        old_logprobs: [B, T], treated as constant; for the first update on a batch the policy itself.
        advantages: [B] (one per sequence) or [B, T].
        clip_low: lower half-width, in [0, 1).
        clip_high: upper half-width, at least 0.
        dual_clip: c, above 1; 3 is usual.
        sequence_mask: [B, T] bool, True = trained token.

    Returns:
        loss per token [B, T], and a bool mask [B, T] of the tokens without gradient because of a clip.

    Raises:
        ValueError: shapes that do not fit, clip bounds out of range.
    """
    if not 0 <= clip_low < 1 or clip_high < 0:
        raise ValueError(
            f"clip_low={clip_low} must lie in [0, 1) and clip_high={clip_high} must not be negative, "
            "e.g. 0.2 and 0.28"
        )
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip={dual_clip} must be above 1; 3 is usual")
    advantages = _fitting_advantages(policy_logprobs, old_logprobs, advantages)
    log_ratio = policy_logprobs - old_logprobs.detach()
    if sequence_mask is not None:
        log_ratio = sequence_log_ratio(log_ratio, sequence_mask)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    low, high = 1 - clip_low, 1 + clip_high
    loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    clipped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    if dual_clip is not None:
        limited = torch.minimum(loss, -dual_clip * advantages)
        loss = torch.where(advantages < 0, limited, loss)
        clipped = clipped | ((advantages < 0) & (ratio > dual_clip))
    return loss, clipped


def cispo_loss(
    policy_logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, *, cap: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """-min(ratio, cap) A log pi with the weight held constant: CISPO (arXiv 2506.13585). No token is dropped.

    Args:
        policy_logprobs: [B, T], differentiable.
        old_logprobs: [B, T], treated as constant.
        advantages: [B] or [B, T].
        cap: largest weight (1 + epsilon_high of the paper), above 0; 5 is usual.

    Returns:
        loss per token [B, T], and a bool mask [B, T] of the tokens with a capped weight.

    Raises:
        ValueError: shapes that do not fit, cap not above 0.
    """
    if not cap > 0:
        raise ValueError(f"cap={cap} must be above 0; 5 is usual")
    advantages = _fitting_advantages(policy_logprobs, old_logprobs, advantages)
    log_ratio = (policy_logprobs - old_logprobs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    return -ratio.clamp(max=cap) * advantages * policy_logprobs, (ratio > cap) & (advantages != 0)


def soft_gated_loss(
    policy_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    temperature_positive: float = 1.0,
    temperature_negative: float = 1.05,
) -> torch.Tensor:
    """-(4 / tau) sigmoid(tau (ratio - 1)) A: SAPO (arXiv 2511.20347). At ratio 1 the gradient is -A grad log pi.

    The gate falls off smoothly on both sides, faster for the larger tau, which the paper gives to A <= 0.

    Args:
        policy_logprobs: [B, T], differentiable.
        old_logprobs: [B, T], treated as constant.
        advantages: [B] or [B, T].
        temperature_positive: tau where A > 0, above 0.
        temperature_negative: tau elsewhere, above 0.

    Returns:
        loss per token [B, T].

    Raises:
        ValueError: shapes that do not fit, temperatures not above 0.
    """
    if not (temperature_positive > 0 and temperature_negative > 0):
        raise ValueError(
            f"temperature_positive={temperature_positive} and temperature_negative={temperature_negative} "
            "must be above 0; 1.0 and 1.05 are usual"
        )
    advantages = _fitting_advantages(policy_logprobs, old_logprobs, advantages)
    log_ratio = policy_logprobs - old_logprobs.detach()
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    tau = torch.where(advantages > 0, temperature_positive, temperature_negative).to(ratio.dtype)
    return -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * advantages


def sequence_log_ratio(log_ratio_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """[B, T]: the mean log ratio over each row's trained tokens, at every position (GSPO's log s_i)."""
    masked_BT = torch.where(mask_BT.bool(), log_ratio_BT, torch.zeros_like(log_ratio_BT))
    mean_B1 = masked_BT.sum(dim=-1, keepdim=True) / mask_BT.sum(dim=-1, keepdim=True).clamp(min=1)
    return mean_B1.expand_as(log_ratio_BT)


def loss_numerator(
    loss_BT: torch.Tensor, mask_BT: torch.Tensor, normalisation: Normalisation
) -> torch.Tensor:
    """Token losses of a micro batch as its share of the loss before division by `loss_denominator`.

    constant, sum, token: the sum over tokens. sequence: the sum over rows of the row's mean. Shares of micro batches
    and ranks add up.

    Args:
        loss_BT: [B, T]; values outside the mask are ignored, NaN included.
        mask_BT: [B, T] bool, True = trained token. A row without any adds nothing.
        normalisation: as above.

    Returns:
        A scalar; 0 where everything is masked.

    Raises:
        ValueError: shapes differ, unknown normalisation.
    """
    if loss_BT.shape != mask_BT.shape:
        raise ValueError(
            f"loss_BT {tuple(loss_BT.shape)} and mask_BT {tuple(mask_BT.shape)} must have the same shape; "
            "pad both to the same length"
        )
    _check_normalisation(normalisation)
    mask = mask_BT.bool()
    masked_loss = torch.where(mask, loss_BT, torch.zeros_like(loss_BT))
    if normalisation == "sequence":
        return (masked_loss.sum(1) / mask.sum(1).clamp(min=1)).sum()
    return masked_loss.sum()


def loss_denominator(
    normalisation: Normalisation, *, num_sequences: float, num_tokens: float, max_tokens: int
) -> float:
    """Divisor of the summed `loss_numerator` of all micro batches and ranks; at least 1.

    constant: num_sequences x max_tokens: the exact gradient, scaled (Dr.GRPO, arXiv 2503.20783).
    sum: num_sequences: the exact gradient.
    token: num_tokens (DAPO, arXiv 2503.14476).
    sequence: num_sequences (GRPO, arXiv 2402.03300).

    Args:
        normalisation: as above.
        num_sequences: sequences in the loss, over all micro batches and ranks.
        num_tokens: tokens in the loss, over all micro batches and ranks.
        max_tokens: the longest completion that can be sampled.

    Raises:
        ValueError: unknown normalisation.
    """
    _check_normalisation(normalisation)
    if normalisation == "token":
        return max(num_tokens, 1.0)
    return max(num_sequences * (max_tokens if normalisation == "constant" else 1), 1.0)


def _check_normalisation(normalisation: str) -> None:
    if normalisation not in get_args(Normalisation):
        raise ValueError(
            f"normalisation={normalisation!r} must be one of {', '.join(get_args(Normalisation))}"
        )


def _fitting_advantages(
    policy_logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:
    """[B, 1] or [B, T]; ValueError where the three do not fit together."""
    if policy_logprobs.shape != old_logprobs.shape:
        raise ValueError(
            f"policy_logprobs {tuple(policy_logprobs.shape)} and old_logprobs {tuple(old_logprobs.shape)} "
            "must have the same shape; gather both for the same tokens"
        )
    if advantages.ndim == policy_logprobs.ndim - 1:
        advantages = advantages.unsqueeze(-1)
    if advantages.ndim != policy_logprobs.ndim or advantages.shape[0] != policy_logprobs.shape[0]:
        raise ValueError(
            f"advantages {tuple(advantages.shape)} do not fit log-probs {tuple(policy_logprobs.shape)}; "
            "give one per sequence or one per token"
        )
    return advantages
