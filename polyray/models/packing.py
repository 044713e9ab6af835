"""What the backbone runs on: the prefix trees of the completions side by side, or each row as it is.

    separate rows    prompt | a b c          packed    prompt | a b | e f     each distinct prefix once; the
                     prompt | a b d                    0 1 2    3 4   3 4     last token predicts nothing
                     prompt | a b d                                           <- position ids
                     prompt | e f g

A completion attends to the prompt and to its own tokens, so the values are those of separate rows. How trees are
built and placed: prefix_trees.py. Attention over a whole sequence grows with its square, so a tree has a largest
width. Called by `completion_logprobs`.

`isolated_rows` is the simpler case of SFT: whole rows side by side that share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from polyray.models.prefix_trees import pack_trees

MAX_PACKED_WIDTH = 1024
"""Positions of a packed sequence; here attention costs a small model as much as everything else."""

PACKABLE_MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3"})
"""Every layer is full attention and takes a mask and position ids as they are. A layer with a window or a
recurrent state would let completions see each other, so a type is added here only after the test."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the backbone runs on, and where in it the completions' tokens are predicted.

    Example:
        ModelInput({"input_ids": tensor([[1, 9, 4, 23, 2]])}, position_M=tensor([2, 3]), node_N=tensor([0, 1]))
    """

    arguments: dict[str, torch.Tensor]
    position_M: torch.Tensor
    """Places that predict a completion token, ascending, of the input as one flat sequence."""
    node_N: torch.Tensor
    """Which of them predicts each completion token; tokens row by row."""


def is_packable(config: Any) -> bool:
    """Whether a model of this configuration computes packed completions exactly."""
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        config.model_type in PACKABLE_MODEL_TYPES
        and config._attn_implementation == "sdpa"
        and set(layers) == {"full_attention"}
    )


def separate_rows(
    input_ids_BL: torch.Tensor, prompt_lengths_B: torch.Tensor, completion_lengths_B: torch.Tensor
) -> ModelInput:
    """Each row as it is but for the last column, which predicts nothing.

    Right padding needs no mask, because real tokens never see what comes after them.
    """
    inner_BL = input_ids_BL[:, :-1]
    column_L = torch.arange(inner_BL.shape[1], device=inner_BL.device)[None]
    first_B1 = prompt_lengths_B[:, None] - 1
    predicts_BL = (column_L >= first_B1) & (column_L < first_B1 + completion_lengths_B[:, None])
    position_M = predicts_BL.flatten().nonzero()[:, 0]
    return ModelInput(
        {"input_ids": inner_BL}, position_M, torch.arange(len(position_M), device=position_M.device)
    )


def packed_groups(
    input_ids_BL: torch.Tensor,
    prompt_lengths_B: torch.Tensor,
    completion_lengths_B: torch.Tensor,
    group_B: torch.Tensor,
) -> ModelInput | None:
    """Every distinct prefix of a group's completions once; None where that is no gain.

    Args:
        input_ids_BL: [B, L] prompt + completion, right-padded.
        prompt_lengths_B: [B].
        completion_lengths_B: [B].
        group_B: [B] rows with the same number have the same prompt.
    """
    device = input_ids_BL.device
    tensors = input_ids_BL, prompt_lengths_B, completion_lengths_B, group_B
    packed = pack_trees(*(tensor.cpu().numpy() for tensor in tensors), max_width=MAX_PACKED_WIDTH)
    if packed is None or not _is_cheaper(packed.input_ids_RW.shape, input_ids_BL[:, :-1].shape):
        return None
    input_ids_RW, position_ids_RW, ends_RW, predictor_N = (
        torch.from_numpy(array).to(device)
        for array in (packed.input_ids_RW, packed.position_ids_RW, packed.ends_RW, packed.predictor_N)
    )
    place_W = torch.arange(ends_RW.shape[1], device=device)
    seen_RWW = (place_W[:, None] >= place_W) & (place_W[:, None] < ends_RW[:, None])
    arguments = {
        "input_ids": input_ids_RW,
        "position_ids": position_ids_RW,
        "attention_mask": seen_RWW[:, None],
    }
    position_M, node_N = predictor_N.unique(return_inverse=True)
    return ModelInput(arguments, position_M, node_N)


def _is_cheaper(packed: tuple[int, ...], separate: tuple[int, ...]) -> bool:
    """Of two shapes [sequences, width]; a mask computes every pair of positions, plain causality half of them."""
    packed_cost = packed[0] * packed[1] * (1 + packed[1] / MAX_PACKED_WIDTH)
    return packed_cost < separate[0] * separate[1] * (1 + separate[1] / (2 * MAX_PACKED_WIDTH))


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
