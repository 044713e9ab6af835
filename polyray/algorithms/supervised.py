"""Supervised losses: cross-entropy and GEM.

Not here: shifting targets against logits and building masks (learner, data). Called by the SFT loop.
Suffix _B = sequences, _T = positions, _V = vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as functional


def masked_cross_entropy(
    logits_BTV: torch.Tensor, targets_BT: torch.Tensor, mask_BT: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Sum of -log softmax(logits)[target] over the masked positions, in float32 or better, and their number.

    The sum, not the mean: divide by the tokens of the whole batch, over all ranks and micro batches.

    Args:
        logits_BTV: [B, T, V]; position t predicts targets_BT[:, t] (already shifted).
        targets_BT: [B, T] int64; ignored where the mask is False (any value is allowed there).
        mask_BT: [B, T] bool, True = trained token.

    Returns:
        The differentiable sum (0 for an empty mask) and the number of trained tokens.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_shapes(logits_BTV, targets_BT, mask_BT)
    mask = mask_BT.bool()
    logits = logits_BTV[mask]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss_sum = functional.cross_entropy(logits, targets_BT[mask], reduction="sum")
    return loss_sum, logits.shape[0]


def gem_loss(
    logits_BTV: torch.Tensor,
    targets_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    beta: float = 0.7,
    link: Literal["linear", "logsigmoid"] = "linear",
) -> tuple[torch.Tensor, int]:
    """Sum of the GEM loss (arXiv 2408.16673) over the masked positions, and their number.

    Per position, with q = softmax(z / beta) held constant: -sum_v q_v w_v (log p_target - log p_v); w = 1
    (linear) or sigmoid(0.01 (z_v - z_target)) (logsigmoid). The linear gradient with respect to the logits is
    q - e_target: cross-entropy's at beta = 1, smaller on tokens that are likely already at beta < 1, so the
    model keeps more of its spread.

    Args:
        logits_BTV: [B, T, V]; position t predicts targets_BT[:, t].
        targets_BT: [B, T] int64; ignored where the mask is False.
        mask_BT: [B, T] bool, True = trained token.
        beta: temperature of q, above 0; 0.7 is the paper's.
        link: as above.

    Returns:
        The differentiable sum (0 for an empty mask) and the number of trained tokens.

    Raises:
        ValueError: shapes that do not fit, beta not above 0, unknown link.
    """
    _check_shapes(logits_BTV, targets_BT, mask_BT)
    if not beta > 0:
        raise ValueError(f"beta={beta} must be above 0; the paper uses 0.7")
    if link not in ("linear", "logsigmoid"):
        raise ValueError(f"link={link!r} must be 'linear' or 'logsigmoid'")
    mask = mask_BT.bool()
    logits = logits_BTV[mask]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets_BT[mask].unsqueeze(-1)
    logprobs = functional.log_softmax(logits, dim=-1)
    with torch.no_grad():
        weights = functional.softmax(logits / beta, dim=-1)
        if link == "logsigmoid":
            weights = weights * torch.sigmoid(0.01 * (logits - logits.gather(-1, targets)))
    loss = -(weights * (logprobs.gather(-1, targets) - logprobs)).sum()
    return loss, logits.shape[0]


def _check_shapes(logits_BTV: torch.Tensor, targets_BT: torch.Tensor, mask_BT: torch.Tensor) -> None:
    if logits_BTV.shape[:-1] != targets_BT.shape or mask_BT.shape != targets_BT.shape:
        raise ValueError(
            f"logits_BTV {tuple(logits_BTV.shape)}, targets_BT {tuple(targets_BT.shape)} and mask_BT "
            f"{tuple(mask_BT.shape)} must agree in [B, T]; shift and pad all three alike"
        )
