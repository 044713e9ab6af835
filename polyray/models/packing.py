"""Completions of one prompt in one sequence: the prompt is computed once instead of once for each of them.

    separate rows    prompt | a a a          packed    prompt | a a a | b b | c c c c
                     prompt | b b                      0 1 2    3 4 5   3 4   3 4 5 6    <- position ids
                     prompt | c c c c

A completion attends to the prompt and to itself. The values are those of separate rows; for short completions
of a group of 16 there are about half the tokens. Attention over the whole sequence grows with its square, so
long groups stay separate. Called by `completion_logprobs`.

`isolated_rows` is the simpler case of SFT: whole rows side by side that share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

MAX_PACKED_WIDTH = 1024
"""Tokens; up to here attention is a small part of what a token costs, also in small models."""

PACKABLE_MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3"})
"""Every layer is full attention and takes a mask and position ids as they are. A layer with a window or a
recurrent state would let completions see each other, so a type is added here only after the test."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the backbone runs on, and where in it the completions' tokens are predicted.

    Example:
        ModelInput({"input_ids": tensor([[1, 9, 4, 23, 2]])}, sequence_BT=tensor([[0, 0]]),
                   position_BT=tensor([[2, 3]]))
    """

    arguments: dict[str, torch.Tensor]
    sequence_BT: torch.Tensor
    """Which sequence of the input predicts token t of completion b."""
    position_BT: torch.Tensor
    """At which of its positions."""


def is_packable(config: Any) -> bool:
    """Whether a model of this configuration computes packed completions exactly."""
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        config.model_type in PACKABLE_MODEL_TYPES
        and config._attn_implementation == "sdpa"
        and set(layers) == {"full_attention"}
    )


def separate_rows(input_ids_BL: torch.Tensor, prompt_lengths_B: torch.Tensor, num_tokens: int) -> ModelInput:
    """Each row as it is: right padding needs no mask, because real tokens never see what comes after them."""
    device = input_ids_BL.device
    position_BT = prompt_lengths_B[:, None] - 1 + torch.arange(num_tokens, device=device)[None]
    sequence_BT = torch.arange(len(input_ids_BL), device=device)[:, None].expand_as(position_BT)
    return ModelInput({"input_ids": input_ids_BL}, sequence_BT, position_BT)


def packed_groups(
    input_ids_BL: torch.Tensor,
    prompt_lengths_B: torch.Tensor,
    completion_lengths_B: torch.Tensor,
    group_B: torch.Tensor,
) -> ModelInput | None:
    """One sequence per group of rows with the same prompt; None where that is no gain.

    Args:
        input_ids_BL: [B, L] prompt + completion, right-padded.
        prompt_lengths_B: [B].
        completion_lengths_B: [B].
        group_B: [B] 0, 1, ... ascending without gaps: rows with the same number have the same prompt.
    """
    device, num_groups = input_ids_BL.device, int(group_B[-1]) + 1
    if num_groups == len(group_B):
        return None
    firsts_P = torch.searchsorted(group_B, torch.arange(num_groups, device=device))
    before_B = completion_lengths_B.cumsum(0) - completion_lengths_B
    start_B = prompt_lengths_B + before_B - before_B[firsts_P][group_B]
    width = int((start_B + completion_lengths_B).max())
    if width > MAX_PACKED_WIDTH:
        return None
    ids_PW = input_ids_BL.new_zeros(num_groups, width)
    positions_PW = torch.zeros_like(ids_PW)
    segments_PW = torch.full_like(ids_PW, -1)  # padding attends to padding, so that no softmax is empty

    prompt_width = int(prompt_lengths_B.max())
    column = torch.arange(max(prompt_width, int(completion_lengths_B.max())), device=device)
    prompts_PT = column[None, :prompt_width] < prompt_lengths_B[firsts_P][:, None]
    group_N, at_N = prompts_PT.nonzero(as_tuple=True)
    ids_PW[group_N, at_N] = input_ids_BL[firsts_P[group_N], at_N]
    positions_PW[group_N, at_N] = at_N
    segments_PW[group_N, at_N] = 0

    row_N, token_N = (column[None] < completion_lengths_B[:, None]).nonzero(as_tuple=True)
    group_N, at_N = group_B[row_N], start_B[row_N] + token_N
    ids_PW[group_N, at_N] = input_ids_BL[row_N, prompt_lengths_B[row_N] + token_N]
    positions_PW[group_N, at_N] = prompt_lengths_B[row_N] + token_N
    segments_PW[group_N, at_N] = 1 + row_N

    seen_PWW = (segments_PW[:, :, None] == segments_PW[:, None]) | (segments_PW[:, None] == 0)
    causal_WW = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    arguments = {
        "input_ids": ids_PW,
        "position_ids": positions_PW,
        "attention_mask": (seen_PWW & causal_WW)[:, None],
    }
    token_T = torch.arange(int(completion_lengths_B.max()), device=device)
    position_BT = start_B[:, None] - 1 + token_T[None]
    position_BT[:, 0] = prompt_lengths_B - 1  # the prompt's last token predicts the first of every completion
    return ModelInput(arguments, group_B[:, None].expand_as(position_BT), position_BT)


def isolated_rows(
    input_ids_BT: torch.Tensor, segments_BT: torch.Tensor, position_ids_BT: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The model's arguments for sequences of several rows that must not see each other.

    Args:
        input_ids_BT: [B, T].
        segments_BT: [B, T] the number of the row a token belongs to, -1 for padding (which sees itself).
        position_ids_BT: [B, T] counted from 0 in each row.
    """
    width = input_ids_BT.shape[1]
    causal_TT = torch.ones(width, width, dtype=torch.bool, device=input_ids_BT.device).tril()
    seen_BTT = (segments_BT[:, :, None] == segments_BT[:, None]) & causal_TT
    return {
        "input_ids": input_ids_BT,
        "position_ids": position_ids_BT,
        "attention_mask": seen_BTT[:, None],
    }
