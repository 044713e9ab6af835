"""From token rows to padded tensors for supervised training. No tokeniser, no model.

Rows are padded on the right: under causal attention no real token sees the padding, so no attention mask is
needed and the fast attention path stays available. Padding is never a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Prompt and response as one sequence, e.g. TokenRow(token_ids=(1, 9, 4, 23, 2), response_start=3)."""

    token_ids: tuple[int, ...]
    response_start: int
    """Index of the first response token; all from there on are trained, the end of sequence too."""

    @property
    def num_targets(self) -> int:
        """Trained tokens."""
        return len(self.token_ids) - self.response_start


@dataclass(frozen=True, slots=True)
class SupervisedBatch:
    """Padded rows, e.g. collate([TokenRow((1, 9, 4, 23, 2), 3)], pad_id=0)."""

    token_ids_BT: Tensor
    """[B, T] int64, padded on the right."""
    response_mask_BT: Tensor
    """[B, T] bool, True on response tokens."""
    first_target: int
    """The smallest index that any row trains: logits before `first_target - 1` are not needed."""


def collate(rows: Sequence[TokenRow], pad_id: int) -> SupervisedBatch:
    """Pads at least one row to the longest of them."""
    longest = max(len(row.token_ids) for row in rows)
    token_ids_BT = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    response_mask_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for index, row in enumerate(rows):
        token_ids_BT[index, : len(row.token_ids)] = torch.tensor(row.token_ids, dtype=torch.int64)
        response_mask_BT[index, row.response_start : len(row.token_ids)] = True
    return SupervisedBatch(token_ids_BT, response_mask_BT, min(row.response_start for row in rows))
