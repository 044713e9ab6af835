"""From token rows to padded tensors for supervised training. No tokeniser, no model.

Rows are padded on the right: under causal attention no real token sees the padding, so no attention mask is
needed and the fast attention path stays available. Packed sequences hold several rows and say which token
belongs to which; models/packing.py makes the attention mask of that. Padding is never a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyray.data.token_rows import TokenRow


@dataclass(frozen=True, slots=True)
class SupervisedBatch:
    """Padded rows, e.g. collate([TokenRow((1, 9, 4, 23, 2), 3)], pad_id=0)."""

    token_ids_BT: Tensor
    """[B, T] int64, padded on the right."""
    response_mask_BT: Tensor
    """[B, T] bool, True on trained tokens."""
    first_target: int
    """The smallest index that any row trains: logits before `first_target - 1` are not needed."""
    segments_BT: Tensor | None = None
    """[B, T] int64 in a packed batch: the number of the row within its sequence, -1 for padding."""
    position_ids_BT: Tensor | None = None
    """[B, T] int64 in a packed batch: counted from 0 in each row."""


def collate(rows: Sequence[TokenRow], pad_id: int) -> SupervisedBatch:
    """One row per sequence; pads at least one row to the longest of them."""
    batch = collate_packed([[row] for row in rows], pad_id)
    return SupervisedBatch(batch.token_ids_BT, batch.response_mask_BT, batch.first_target)


def collate_packed(sequences: Sequence[Sequence[TokenRow]], pad_id: int) -> SupervisedBatch:
    """Several rows per sequence, one after the other."""
    shape = len(sequences), max(sum(len(row.token_ids) for row in rows) for rows in sequences)
    token_ids_BT = torch.full(shape, pad_id, dtype=torch.int64)
    response_mask_BT = torch.zeros(shape, dtype=torch.bool)
    segments_BT = torch.full(shape, -1, dtype=torch.int64)
    position_ids_BT = torch.zeros(shape, dtype=torch.int64)
    first_target = shape[1]
    for index, rows in enumerate(sequences):
        start = 0
        for segment, row in enumerate(rows):
            end = start + len(row.token_ids)
            token_ids_BT[index, start:end] = torch.tensor(row.token_ids, dtype=torch.int64)
            response_mask_BT[index, start + row.response_start : end] = True
            for hole_start, hole_end in row.untrained:
                response_mask_BT[index, start + hole_start : start + hole_end] = False
            segments_BT[index, start:end] = segment
            position_ids_BT[index, start:end] = torch.arange(end - start)
            first_target = min(first_target, start + row.response_start)
            start = end
    return SupervisedBatch(token_ids_BT, response_mask_BT, first_target, segments_BT, position_ids_BT)


def pack(rows: Sequence[TokenRow], width: int) -> list[list[TokenRow]]:
    """The rows in sequences of at most `width` tokens, longest first, each where it first fits."""
    sequences: list[list[TokenRow]] = []
    free: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):
        size = len(row.token_ids)
        at = next((index for index, space in enumerate(free) if space >= size), len(free))
        if at == len(free):
            sequences.append([])
            free.append(width)
        sequences[at].append(row)
        free[at] -= size
    return sequences
