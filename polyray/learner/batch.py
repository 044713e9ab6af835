"""Scored groups -> right-padded rows a model can run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polyray.config.algorithm import AlgorithmSpec
from polyray.config.learner import LearnerSpec
from polyray.learner.advantages import truncated_mask, valid_mask
from polyray.models.logprobs import Rows
from polyray.types import Completion, ScoredGroup


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Completions of a batch, ready for a forward pass.

    Example:
        RowBatch(rows=Rows(...), rollout_logprobs_BT=tensor([[-.1, -.3]]), advantages_B=tensor([.5]),
                 trained_B=tensor([True]), reference_logprobs_BT=tensor([[0., 0.]]), referenced_B=tensor([False]),
                 proximal_logprobs_BT=None)
    """

    rows: Rows
    rollout_logprobs_BT: torch.Tensor
    """[B, T] float32, 0 where padded."""
    advantages_B: torch.Tensor
    """[B] float32."""
    trained_B: torch.Tensor
    """[B] bool: rows in the loss and its denominator."""
    reference_logprobs_BT: torch.Tensor
    """[B, T] float32 under the warm start, 0 where padded or not asked for."""
    referenced_B: torch.Tensor
    """[B] bool: rows whose reference log-probs are known."""
    proximal_logprobs_BT: torch.Tensor | None
    """[B, T] float32 under the policy before the first update on this batch; None: not requested."""
    sample_ids: tuple[tuple[int, int], ...] = ()
    """(group_id, place in the group) of every row."""
    chosen_BT: torch.Tensor | None = None
    """[B, T] bool: tokens that `covariance` clips or holds back in the next update; None: not asked for."""


@dataclass(slots=True)
class Row:
    """One completion on its way into a batch: the learner fills in what it finds out.

    Example:
        Row(prompt_token_ids=np.array([1, 9]), completion=Completion(...), group_id=40, index=0, trained=True)
    """

    prompt_token_ids: np.ndarray
    completion: Completion
    group_id: int
    index: int
    """Place in the group."""
    trained: bool
    """False: measured, but in neither the loss nor its denominator."""
    advantage: float = 0.0
    reference_T: torch.Tensor | None = None
    """[T] log-probs under the warm start, where asked for."""
    proximal_T: torch.Tensor | None = None
    """[T] log-probs under the policy before the first update on this batch, where asked for."""
    quality_part: float = 0.0
    """The part of the advantage that comes from quality."""
    diversity_part: float = 0.0
    """The part of the advantage that comes from diversity."""


def rows_of(group: ScoredGroup, algorithm: AlgorithmSpec) -> list[Row]:
    """The non-empty completions of a group that take part."""
    rows: list[Row] = []
    masked_G = truncated_mask(group) & (algorithm.truncated == "mask")
    for index, taken in enumerate(valid_mask(group, algorithm)):
        completion = group.group.completions[index]
        if taken and len(completion.token_ids):
            row = Row(
                group.group.prompt_token_ids,
                completion,
                group.group.group_id,
                index,
                trained=not masked_G[index],
            )
            rows.append(row)
    return rows


def micro_batches(rows: Sequence[Row], spec: LearnerSpec) -> list[Sequence[Row]]:
    """`rows` in their order, cut by `micro_batch_tokens` where that is set, else by `micro_batch_rows`, if at all."""
    if spec.micro_batch_tokens is None:
        size = spec.micro_batch_rows or max(1, len(rows))
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    starts: list[int] = []
    tokens = 0
    for i, row in enumerate(rows):
        shared = i > 0 and row.prompt_token_ids is rows[i - 1].prompt_token_ids
        tokens += len(row.completion.token_ids) + (0 if shared else len(row.prompt_token_ids))
        if not starts or tokens > spec.micro_batch_tokens:
            starts.append(i)
            tokens = len(row.completion.token_ids) + len(row.prompt_token_ids)
    return [rows[start:end] for start, end in zip(starts, [*starts[1:], len(rows)], strict=False)]


def build_row_batch(rows: Sequence[Row], device: torch.device) -> RowBatch:
    """Right-pads `rows`; their order is kept (it decides the bytes of the next adapter)."""
    prompt_lengths = [len(row.prompt_token_ids) for row in rows]
    completion_lengths = [len(row.completion.token_ids) for row in rows]
    width = max(p + c for p, c in zip(prompt_lengths, completion_lengths, strict=True))
    input_ids = np.zeros((len(rows), width), np.int64)
    width_T = max(completion_lengths)
    rollout_logprobs = np.zeros((len(rows), width_T), np.float32)
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
        trained_B=torch.tensor([row.trained for row in rows], device=device),
        reference_logprobs_BT=_padded([row.reference_T for row in rows], width_T, device),
        referenced_B=torch.tensor([row.reference_T is not None for row in rows], device=device),
        proximal_logprobs_BT=None
        if rows[0].proximal_T is None
        else _padded([row.proximal_T for row in rows], width_T, device),
        sample_ids=tuple((row.group_id, row.index) for row in rows),
    )


def _padded(values: Sequence[torch.Tensor | None], width: int, device: torch.device) -> torch.Tensor:
    """[B, width] float32 with zeros behind each row, and in rows that have nothing."""
    padded = torch.zeros((len(values), width), dtype=torch.float32, device=device)
    for i, row_T in enumerate(values):
        if row_T is not None:
            padded[i, : len(row_T)] = row_T
    return padded
