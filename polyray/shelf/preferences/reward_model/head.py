"""The head over text features, as it is trained: standardise, one hidden layer, one number. Scoring is model.py.

Dropout comes as a mask from outside, so that it does not depend on how rows are shared among ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_STD = 1e-6


class EngagementHead(nn.Module):
    """[N, F] features -> [N] raw scores; with width 0 it is linear."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.hidden = nn.Linear(num_features, width) if width else None
        self.output = nn.Linear(width or num_features, 1)
        nn.init.zeros_(self.output.bias)
        if not width:
            nn.init.zeros_(self.output.weight)

    def standardise_by(self, features_NF: Tensor) -> None:
        """Takes mean and standard deviation of the training features; constant ones stay as they are."""
        wide = features_NF.double()
        self.mean.copy_(wide.mean(dim=0))
        std = wide.std(dim=0, correction=0)
        self.std.copy_(torch.where(std > MIN_STD, std, torch.ones_like(std)))

    def forward(
        self, features_NF: Tensor, keep_inputs_NF: Tensor | None = None, keep_hidden_NW: Tensor | None = None
    ) -> Tensor:
        """`keep_...`: 0 for a dropped unit, 1 / (1 - dropout) for a kept one."""
        x = (features_NF - self.mean) / self.std
        if keep_inputs_NF is not None:
            x = x * keep_inputs_NF
        if self.hidden is not None:
            x = torch.relu(self.hidden(x))
            if keep_hidden_NW is not None:
                x = x * keep_hidden_NW
        return self.output(x).squeeze(-1)
