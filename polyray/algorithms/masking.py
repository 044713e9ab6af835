"""Masks of padded completions. Called by the learner; rows are padded on the right."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def completion_mask(lengths: Sequence[int] | torch.Tensor, max_length: int) -> torch.Tensor:
    """True for the first lengths[b] of `max_length` positions.

    Args:
        lengths: [B] whole numbers in 0..max_length.
        max_length: T.

    Returns:
        [B, T] bool, on the device of `lengths`.

    Raises:
        ValueError: a length below 0 or above max_length, or lengths that are not one-dimensional.
    """
    lengths_B = torch.as_tensor(lengths, dtype=torch.int64)
    if lengths_B.ndim != 1:
        raise ValueError(f"lengths has shape {tuple(lengths_B.shape)}; give one length per sequence")
    if lengths_B.numel() and (int(lengths_B.min()) < 0 or int(lengths_B.max()) > max_length):
        raise ValueError(
            f"lengths run from {int(lengths_B.min())} to {int(lengths_B.max())}, allowed is 0..{max_length}; "
            "raise max_length or truncate the completions"
        )
    return torch.arange(max_length, device=lengths_B.device) < lengths_B[:, None]
