"""Log-probabilities of completions under a causal language model, without a [batch, time, vocabulary] tensor.

The backbone runs on prompt + completion (a prefix that several completions share only once, where that is exact and
pays: packing.py), the head only on the positions that predict completion tokens, in chunks that are
recomputed in the backward pass. Called by the learner's step, and by a delivery's probe for whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

from polyray.models.limits import LOGITS_PER_CHUNK
from polyray.models.packing import ModelInput, model_inputs
from polyray.models.sharding import is_sharded

LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Configuration keys of models with logits beyond head(hidden); they take the plain forward."""

Chosen = tuple[torch.Tensor, ...]
"""Values that are computed for every token: [N] each."""
Choose = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Chosen]
"""From (logits_MV, node_N, targets_N), row `node_N` of the logits predicting token `targets_N`."""


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
    """(log pi(token) [B, T], entropy of the predicting distribution [B, T]); 0 where padded.

    In float32, or float64 where the model is.
    The distribution is softmax(logits / temperature), the one the rollout sampled from. The entropy has a gradient
    only where asked for. One forward pass where the base is sharded, because ranks must make equally many.
    """
    mask_BT = rows.mask_BT
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    row_N, token_N = mask_BT.nonzero(as_tuple=True)
    targets_N = rows.input_ids_BL[row_N, rows.prompt_lengths_B[row_N] + token_N]
    choose = _ChooseWithEntropy(temperature, entropy_gradient)
    inputs = model_inputs(
        base.config,
        rows.input_ids_BL,
        rows.prompt_lengths_B,
        rows.completion_lengths_B,
        rows.group_B,
        one_pass=is_sharded(model),
    )
    logprobs_N, entropy_N = _token_logprobs(base, inputs, targets_N, choose)
    zeros = torch.zeros(mask_BT.shape, dtype=logprobs_N.dtype, device=mask_BT.device)
    return zeros.masked_scatter(mask_BT, logprobs_N), zeros.masked_scatter(mask_BT, entropy_N)


def sequence_logprobs(
    model: torch.nn.Module, input_ids_BL: torch.Tensor, lengths_B: torch.Tensor
) -> torch.Tensor:
    """[sum(lengths - 1)] log pi(token) of every token from the second on, row by row, at temperature 1.

    `input_ids_BL` is right-padded. In float32, or float64 where the model is. Always one forward pass.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    place_L = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
    position_M = (place_L < lengths_B[:, None] - 1).flatten().nonzero()[:, 0]
    order_M = torch.arange(len(position_M), device=position_M.device)
    inputs = ModelInput({"input_ids": input_ids_BL}, position_M, order_M, order_M)
    (logprobs_M,) = _token_logprobs(base, [inputs], input_ids_BL.flatten()[position_M + 1], _choose_logprobs)
    return logprobs_M


def _choose_logprobs(logits_MV: torch.Tensor, node_N: torch.Tensor, targets_N: torch.Tensor) -> Chosen:
    """The log-prob of every token; entropies would take as long again."""
    return (_exact(logits_MV).log_softmax(-1)[node_N, targets_N],)


def _exact(logits_MV: torch.Tensor) -> torch.Tensor:
    return logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()


@dataclass(frozen=True, slots=True)
class _ChooseWithEntropy:
    """The log-prob of every token, and the entropy of the distribution that predicts it."""

    temperature: float
    entropy_gradient: bool

    def __call__(self, logits_MV: torch.Tensor, node_N: torch.Tensor, targets_N: torch.Tensor) -> Chosen:
        exact_MV = _exact(logits_MV)
        scaled_MV = exact_MV if self.temperature == 1 else exact_MV / self.temperature
        logprobs_MV = scaled_MV.log_softmax(-1)
        with torch.set_grad_enabled(self.entropy_gradient and torch.is_grad_enabled()):
            entropy_M = -(logprobs_MV.exp() * logprobs_MV).sum(-1)
        return logprobs_MV[node_N, targets_N], entropy_M[node_N]


def _token_logprobs(
    base: Any, inputs: Sequence[ModelInput], targets_N: torch.Tensor, choose: Choose
) -> Chosen:
    """Values of all tokens, row by row."""
    chunk = max(1, LOGITS_PER_CHUNK // base.get_output_embeddings().weight.shape[0])
    at_once = sum(len(part.position_M) for part in inputs) <= chunk
    found = [
        _of_input(base, part, targets_N[part.token_N], choose, None if at_once else chunk) for part in inputs
    ]
    if len(found) == 1:
        return found[0]
    return _in_order(found, torch.cat([part.token_N for part in inputs]))


def _in_order(parts: Sequence[Chosen], token_N: torch.Tensor) -> Chosen:
    """The parts as one, where they hold the tokens `token_N`."""
    back_N = token_N.argsort()
    return tuple(torch.cat(values)[back_N] for values in zip(*parts, strict=True))


def _of_input(
    base: Any, inputs: ModelInput, targets_N: torch.Tensor, choose: Choose, chunk: int | None
) -> Chosen:
    """Values of the tokens that one input predicts, in its order.

    `chunk` positions at a time; their logits are not kept for the backward pass. None: all at once, and kept.
    """
    if any(getattr(base.config, key, None) for key in LOGIT_TRANSFORMS):
        # Logits of all positions are held as the model gives them; later values are computed by the chunk.
        hidden, head = base(**inputs.arguments, use_cache=False).logits, torch.nn.Identity()
    else:
        hidden = base.base_model(**inputs.arguments, use_cache=False).last_hidden_state
        head = base.get_output_embeddings()
    hidden_MD = hidden.flatten(0, 1)[inputs.position_M]
    if chunk is None:
        return choose(head(hidden_MD), inputs.node_N, targets_N)
    order_N = inputs.node_N.argsort(stable=True)
    starts = range(0, len(hidden_MD), chunk)
    counts = torch.bincount(inputs.node_N // chunk, minlength=len(starts)).tolist()
    tokens = zip(inputs.node_N[order_N].split(counts), targets_N[order_N].split(counts), strict=True)
    parts = [
        checkpoint(_head_chunk, head, hidden_CD, node_N - start, targets, choose, use_reentrant=False)
        for start, hidden_CD, (node_N, targets) in zip(starts, hidden_MD.split(chunk), tokens, strict=True)
    ]
    return _in_order(parts, order_N)


def _head_chunk(
    head: torch.nn.Module,
    hidden_CD: torch.Tensor,
    node_N: torch.Tensor,
    targets_N: torch.Tensor,
    choose: Choose,
) -> Chosen:
    return choose(head(hidden_CD), node_N, targets_N)
