"""The SFT loss: cross-entropy on the tokens of the response.

Not here: shifting targets against logits and building masks (learner, data). Called by the SFT loop.
Suffix _B = sequences, _T = positions, _V = vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional


def masked_cross_entropy(
    logits_BTV: torch.Tensor, targets_BT: torch.Tensor, mask_BT: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Sum of -log softmax(logits)[target] over the masked positions, in float32 or better, and their number.

    The sum, not the mean: divide by the tokens of the whole batch, over all ranks and micro batches.

    Args:
        logits_BTV: [B, T, V]; position t predicts targets_BT[:, t] (already shifted).
        targets_BT: [B, T] int64; ignored where the mask is False (any value may stand there).
        mask_BT: [B, T] bool, True = trained token.

    Returns:
        The differentiable sum (0 for an empty mask) and the number of trained tokens.

    Raises:
        ValueError: shapes that do not fit.
    """
    if logits_BTV.shape[:-1] != targets_BT.shape or mask_BT.shape != targets_BT.shape:
        raise ValueError(
            f"logits_BTV {tuple(logits_BTV.shape)}, targets_BT {tuple(targets_BT.shape)} and mask_BT "
            f"{tuple(mask_BT.shape)} must agree in [B, T]; shift and pad all three alike"
        )
    mask = mask_BT.bool()
    logits = logits_BTV[mask]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss_sum = functional.cross_entropy(logits, targets_BT[mask], reduction="sum")
    return loss_sum, logits.shape[0]
