"""From advantages to a scalar: the clipped surrogate per token, and its aggregation over a global batch.

Not here: advantages (advantages.py, set_credits.py), the KL term (kl.py), correction of the mismatch between
learner and engine (importance.py), SFT (supervised.py). Called by the learner step.
Suffix _B = sequences, _T = tokens.
"""

from __future__ import annotations

from typing import Literal

import torch

Normalisation = Literal["constant", "token", "sequence"]

LOG_RATIO_LIMIT = 20.0
"""Log ratios are clamped to +- this: an infinite ratio would make the gradient of a clipped token NaN."""


def clipped_surrogate(
    policy_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) with ratio = pi_policy / pi_old.

    PPO (arXiv 1707.06347); unequal bounds as in DAPO (arXiv 2503.14476). At ratio 1 the gradient is
    -A grad log pi. Positions that the caller masks later must hold finite numbers.

    Args:
        policy_logprobs: [B, T], differentiable.
        old_logprobs: [B, T], treated as constant; for the first update on a batch the policy itself.
        advantages: [B] (one per sequence) or [B, T].
        clip_low: lower half-width, in [0, 1).
        clip_high: upper half-width, at least 0.

    Returns:
        loss per token [B, T], and a bool mask [B, T] of the tokens whose gradient the clip removed.

    Raises:
        ValueError: shapes that do not fit, clip bounds out of range.
    """
    if not 0 <= clip_low < 1 or clip_high < 0:
        raise ValueError(
            f"clip_low={clip_low} must lie in [0, 1) and clip_high={clip_high} must not be negative, "
            "e.g. 0.2 and 0.28"
        )
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
    log_ratio = policy_logprobs - old_logprobs.detach()
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    low, high = 1 - clip_low, 1 + clip_high
    loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    clipped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    return loss, clipped


def aggregate(
    loss_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    normalisation: Normalisation,
    *,
    max_tokens: int,
    num_sequences: int,
    num_tokens: int,
) -> torch.Tensor:
    """Token losses of a micro batch as its share of the loss of the whole batch.

    constant: sum / (num_sequences x max_tokens): the exact gradient, scaled (Dr.GRPO, arXiv 2503.20783).
    token: sum / num_tokens (DAPO, arXiv 2503.14476).
    sequence: sum over rows of the row's mean / num_sequences (GRPO, arXiv 2402.03300).

    The counts are those of the WHOLE batch, over all ranks and micro batches, of what stays in the loss; so
    the shares add up to its loss. (Where DDP averages over ranks, multiply by the world size.)

    Args:
        loss_BT: [B, T]; values outside the mask are ignored, NaN included.
        mask_BT: [B, T] bool, True = trained token. A row without any adds nothing.
        normalisation: as above.
        max_tokens: the longest completion that can be sampled; used by constant.
        num_sequences: sequences in the whole batch; used by constant and sequence.
        num_tokens: trained tokens in the whole batch; used by token.

    Returns:
        A scalar; 0 where the whole batch is masked.

    Raises:
        ValueError: shapes differ, unknown normalisation, or a count of 0 beside trained tokens.
    """
    if loss_BT.shape != mask_BT.shape:
        raise ValueError(
            f"loss_BT {tuple(loss_BT.shape)} and mask_BT {tuple(mask_BT.shape)} must have the same shape; "
            "pad both to the same length"
        )
    mask = mask_BT.bool()
    masked_loss = torch.where(mask, loss_BT, torch.zeros_like(loss_BT))
    if normalisation == "constant":
        total, denominator = masked_loss.sum(), num_sequences * max_tokens
    elif normalisation == "token":
        total, denominator = masked_loss.sum(), num_tokens
    elif normalisation == "sequence":
        lengths_B = mask.sum(dim=-1).clamp(min=1)
        total, denominator = (masked_loss.sum(dim=-1) / lengths_B).sum(), num_sequences
    else:
        raise ValueError(f"normalisation={normalisation!r} must be 'constant', 'token' or 'sequence'")
    if denominator < 0 or (denominator == 0 and bool(mask.any())):
        raise ValueError(
            f"{normalisation!r} would divide by {denominator} (max_tokens={max_tokens}, num_sequences="
            f"{num_sequences}, num_tokens={num_tokens}) although {int(mask.sum())} tokens are trained here; "
            "pass the counts of the whole batch"
        )
    return total / max(denominator, 1)
