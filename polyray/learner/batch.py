"""Scored groups -> right-padded rows a model can run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polyray.models.logprobs import Rows
from polyray.types import Completion, ScoredGroup


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some completions of a batch, ready for a forward pass.

    Example:
        RowBatch(rows=Rows(...), rollout_logprobs_BT=tensor([[-.1, -.3]]), advantages_B=tensor([.5]),
                 watched_B=tensor([True]))
    """

    rows: Rows
    rollout_logprobs_BT: torch.Tensor
    """[B, T] float32, 0 where padded."""
    advantages_B: torch.Tensor
    """[B] float32."""
    watched_B: torch.Tensor
    """[B] bool: rows on which the KL to the warm start is measured, also where it is not in the loss."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion with its prompt and advantage."""

    prompt_token_ids: np.ndarray
    completion: Completion
    advantage: float
    watched: bool


def rows_of(group: ScoredGroup, advantages_G: np.ndarray) -> list[Row]:
    """The scored, non-empty completions of a group; the first of them is watched."""
    rows: list[Row] = []
    for completion, advantage, scored in zip(
        group.group.completions, advantages_G, group.scored_mask_G, strict=True
    ):
        if scored and len(completion.token_ids):
            rows.append(Row(group.group.prompt_token_ids, completion, float(advantage), watched=not rows))
    return rows


def build_row_batch(rows: Sequence[Row], device: torch.device) -> RowBatch:
    """Right-pads `rows`; their order is kept (it decides the bytes of the next adapter)."""
    prompt_lengths = [len(row.prompt_token_ids) for row in rows]
    completion_lengths = [len(row.completion.token_ids) for row in rows]
    width = max(p + c for p, c in zip(prompt_lengths, completion_lengths, strict=True))
    input_ids = np.zeros((len(rows), width), np.int64)
    rollout_logprobs = np.zeros((len(rows), max(completion_lengths)), np.float32)
    groups: list[int] = []
    for i, row in enumerate(rows):
        same_prompt = i > 0 and row.prompt_token_ids is rows[i - 1].prompt_token_ids
        groups.append(groups[-1] + (not same_prompt) if groups else 0)
        start, end = prompt_lengths[i], prompt_lengths[i] + completion_lengths[i]
        input_ids[i, :start] = row.prompt_token_ids
        input_ids[i, start:end] = row.completion.token_ids
        rollout_logprobs[i, : completion_lengths[i]] = row.completion.rollout_logprobs
    return RowBatch(
        rows=Rows(
            torch.from_numpy(input_ids).to(device),
            torch.tensor(prompt_lengths, device=device),
            torch.tensor(completion_lengths, device=device),
            torch.tensor(groups, device=device),
        ),
        rollout_logprobs_BT=torch.from_numpy(rollout_logprobs).to(device),
        advantages_B=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
        watched_B=torch.tensor([row.watched for row in rows], device=device),
    )
