"""Log-probabilities of completions under a causal language model, without a [batch, time, vocabulary] tensor.

The backbone runs on prompt + completion, the head only on the positions that predict completion tokens, in
chunks that are recomputed in the backward pass. Called by the learner's step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

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

    @property
    def mask_BT(self) -> torch.Tensor:
        """[B, T] bool, T the longest completion: True for completion tokens."""
        width = int(self.completion_lengths_B.max())
        return torch.arange(width, device=self.input_ids_BL.device)[None] < self.completion_lengths_B[:, None]


def completion_logprobs(
    model: torch.nn.Module, rows: Rows, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log pi(token) [B, T], entropy of the predicting distribution [B, T]) in float32; 0 where padded.

    The distribution is softmax(logits / temperature), the one the rollout sampled from. The entropy has no
    gradient.
    """
    mask_BT = rows.mask_BT
    # Right padding needs no attention mask: in a causal model real tokens never see what comes after them.
    predicting_BT = (
        rows.prompt_lengths_B[:, None] - 1 + torch.arange(mask_BT.shape[1], device=mask_BT.device)[None]
    )
    row_N, _ = mask_BT.nonzero(as_tuple=True)
    position_N = predicting_BT[mask_BT]
    targets_N = rows.input_ids_BL[row_N, position_N + 1]
    logprobs_N, entropy_N = _token_logprobs(
        model, rows.input_ids_BL, row_N, position_N, targets_N, temperature
    )
    zeros = torch.zeros(mask_BT.shape, dtype=torch.float32, device=mask_BT.device)
    return zeros.masked_scatter(mask_BT, logprobs_N), zeros.masked_scatter(mask_BT, entropy_N)


def _token_logprobs(
    model: torch.nn.Module,
    input_ids_BL: torch.Tensor,
    row_N: torch.Tensor,
    position_N: torch.Tensor,
    targets_N: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if any(getattr(base.config, key, None) for key in LOGIT_TRANSFORMS):
        logits_NV = base(input_ids=input_ids_BL, use_cache=False).logits[row_N, position_N]
        return _chosen(logits_NV, targets_N, temperature)
    hidden_ND = base.base_model(input_ids=input_ids_BL, use_cache=False).last_hidden_state[row_N, position_N]
    head = base.get_output_embeddings()
    chunk = max(1, LOGITS_PER_CHUNK // head.weight.shape[0])
    if len(targets_N) <= chunk:
        return _chosen(head(hidden_ND), targets_N, temperature)
    parts = [
        checkpoint(_head_chunk, head, hidden, targets, temperature, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _head_chunk(
    head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _chosen(head(hidden_ND), targets_N, temperature)


def _chosen(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs_NV = (logits_NV.float() / temperature).log_softmax(-1)
    with torch.no_grad():
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return logprobs_NV.gather(1, targets_N[:, None])[:, 0], entropy_N
