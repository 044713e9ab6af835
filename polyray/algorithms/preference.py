"""Losses of learning what people prefer, over raw scores. Suffix _P = pairs, _N = completions.

Not here: weights of pairs and targets (metrics/preference.py). Called by the engagement reward model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional


def bradley_terry_loss(difference_P: torch.Tensor, weight_P: torch.Tensor) -> torch.Tensor:
    """sum_P w_P * -log sigmoid(d_P), d_P = raw score of the better minus that of the worse completion.

    Bradley and Terry (1952): P(a beats b) = sigmoid(r_a - r_b). The sum, not the mean: divide by the weight of the
    whole batch, over all ranks and micro batches.
    """
    return (weight_P * functional.softplus(-difference_P)).sum()


def squared_loss(predicted_N: torch.Tensor, target_N: torch.Tensor, weight_N: torch.Tensor) -> torch.Tensor:
    """sum_N w_N * (predicted_N - target_N)^2 / 2; the sum, as above."""
    return (weight_N * (predicted_N - target_N) ** 2).sum() / 2
