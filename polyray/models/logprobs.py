"""Log-probabilities of completions under a causal language model, without a [batch, time, vocabulary] tensor.

The backbone runs on prompt + completion (the prompt once for all its completions where that is exact and
pays, packing.py), the head only on the positions that predict completion tokens, in chunks that are
recomputed in the backward pass. Called by the learner's step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

from polyray.models.packing import ModelInput, is_packable, packed_groups, separate_rows

LOGITS_PER_CHUNK = 2**25
"""Logits held at once (float32): 128 MiB."""
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Configuration keys of models whose logits are more than head(hidden); they take the plain forward."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Right-padded prompt + completion token ids.

    Example:
        Rows(input_ids_BL=tensor([[1, 9, 4, 23, 2]]), prompt_lengths_B=tensor([3]),
        completion_lengths_B=tensor([2]))
    """

    input_ids_BL: torch.Tensor
    prompt_lengths_B: torch.Tensor
    completion_lengths_B: torch.Tensor
    group_B: torch.Tensor | None = None
    """[B] 0, 1, ... ascending without gaps: rows with the same number share their prompt. None: unknown."""

    @property
    def mask_BT(self) -> torch.Tensor:
        """[B, T] bool, T the longest completion: True for completion tokens."""
        width = int(self.completion_lengths_B.max())
        return torch.arange(width, device=self.input_ids_BL.device)[None] < self.completion_lengths_B[:, None]

    def select(self, keep_B: torch.Tensor) -> Rows:
        """The rows where `keep_B` [B] is True, in the same order."""
        group_B = self.group_B
        if group_B is not None:
            _, group_B = torch.unique_consecutive(group_B[keep_B], return_inverse=True)
        return Rows(
            self.input_ids_BL[keep_B],
            self.prompt_lengths_B[keep_B],
            self.completion_lengths_B[keep_B],
            group_B,
        )


def completion_logprobs(
    model: torch.nn.Module, rows: Rows, temperature: float = 1.0, *, entropy_gradient: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log pi(token) [B, T], entropy of the predicting distribution [B, T]) in float32; 0 where padded.

    The distribution is softmax(logits / temperature), the one the rollout sampled from. The entropy has a gradient
    only where asked for.
    """
    mask_BT = rows.mask_BT
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inputs = _model_input(base.config, rows)
    row_N, token_N = mask_BT.nonzero(as_tuple=True)
    targets_N = rows.input_ids_BL[row_N, rows.prompt_lengths_B[row_N] + token_N]
    choose = _Choose(temperature, entropy_gradient)
    logprobs_N, entropy_N = _token_logprobs(base, inputs, mask_BT, targets_N, choose)
    zeros = torch.zeros(mask_BT.shape, dtype=torch.float32, device=mask_BT.device)
    return zeros.masked_scatter(mask_BT, logprobs_N), zeros.masked_scatter(mask_BT, entropy_N)


@dataclass(frozen=True, slots=True)
class _Choose:
    """From logits to the log-prob of the chosen token and the entropy."""

    temperature: float
    entropy_gradient: bool

    def __call__(self, logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_NV = (logits_NV.float() / self.temperature).log_softmax(-1)
        with torch.set_grad_enabled(self.entropy_gradient and torch.is_grad_enabled()):
            entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
        return logprobs_NV.gather(1, targets_N[:, None])[:, 0], entropy_N


def _model_input(config: Any, rows: Rows) -> ModelInput:
    packed = None
    if rows.group_B is not None and is_packable(config):
        packed = packed_groups(
            rows.input_ids_BL, rows.prompt_lengths_B, rows.completion_lengths_B, rows.group_B
        )
    return packed or separate_rows(
        rows.input_ids_BL, rows.prompt_lengths_B, int(rows.completion_lengths_B.max())
    )


def _token_logprobs(
    base: Any, inputs: ModelInput, mask_BT: torch.Tensor, targets_N: torch.Tensor, choose: _Choose
) -> tuple[torch.Tensor, torch.Tensor]:
    where_N = inputs.sequence_BT[mask_BT], inputs.position_BT[mask_BT]
    if any(getattr(base.config, key, None) for key in LOGIT_TRANSFORMS):
        logits_NV = base(**inputs.arguments, use_cache=False).logits[where_N]
        return choose(logits_NV, targets_N)
    hidden_ND = base.base_model(**inputs.arguments, use_cache=False).last_hidden_state[where_N]
    head = base.get_output_embeddings()
    chunk = max(1, LOGITS_PER_CHUNK // head.weight.shape[0])
    if len(targets_N) <= chunk:
        return choose(head(hidden_ND), targets_N)
    parts = [
        checkpoint(_head_chunk, head, hidden, targets, choose, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _head_chunk(
    head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor, choose: _Choose
) -> tuple[torch.Tensor, torch.Tensor]:
    return choose(head(hidden_ND), targets_N)
