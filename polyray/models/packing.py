"""Inputs of the backbone: prefix trees of completions side by side, or rows of similar length.

    separate rows    prompt | a b c          packed    prompt | a b | e f     each distinct prefix once; the
                     prompt | a b d                    0 1 2    3 4   3 4     last token predicts nothing
                     prompt | a b d                                           <- position ids
                     prompt | e f g

A completion attends to the prompt and to its own tokens, so the values are those of separate rows. How trees are
built: prefix_trees.py; how they attend: tree_attention.py. Attention over a tree grows with the square of its size,
so a tree has a largest width; longer rows, and those of models that cannot be packed, run beside others of about
their length. Called by `completion_logprobs`.

`isolated_rows` is the simpler case of SFT: whole rows side by side that share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polyray.models.prefix_trees import pack_trees
from polyray.models.tree_attention import TREE_ATTENTION

MIN_WIDTH, MAX_WIDTH = 512, 4096
"""Bounds of `packed_width`."""
ATTENTION_COST = 3
"""Time of an operation of attention under a mask, forward and backward, relative to one of the linear maps. Its
backward pass is 2.5 times its forward pass; that of linear maps with a frozen base is one. On a CPU its kernels also
run at two thirds of the speed of products."""
LENGTH_RATIO = 0.8
"""Rows shorter than this share of the longest beside them run apart from it where that saves as much padding as
a forward pass costs anyway."""
PASS_POSITIONS = 512
"""Fixed cost of a forward pass, in positions."""

PACKABLE_MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3"})
"""Every layer is full attention and takes a mask and position ids as they are. A layer with a window or a
recurrent state would let completions see each other, so a type is added here only after the test."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """Input of the backbone, and its positions that predict completion tokens.

    Example:
        ModelInput({"input_ids": tensor([[1, 9, 4, 23]])}, position_M=tensor([2, 3]), node_N=tensor([0, 1]),
                   token_N=tensor([0, 1]))
    """

    arguments: dict[str, Any]
    """Of the model's forward pass."""
    position_M: torch.Tensor
    """Places that predict a completion token, ascending, of the input as one flat sequence."""
    node_N: torch.Tensor
    """Position that predicts each of its tokens, as an index into `position_M`."""
    token_N: torch.Tensor
    """Index of each of its tokens among all tokens (row by row)."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a batch as arrays.

    Example:
        _Rows(ids_BL=array([[1, 9, 4, 23, 2]]), prompt_lengths_B=array([3]), completion_lengths_B=array([2]),
              first_token_B=array([0]))
    """

    ids_BL: np.ndarray
    prompt_lengths_B: np.ndarray
    completion_lengths_B: np.ndarray
    first_token_B: np.ndarray
    """Number of tokens of the completions before each row."""

    @property
    def lengths_B(self) -> np.ndarray:
        """Lengths that the backbone sees: the last token predicts nothing."""
        return self.prompt_lengths_B + self.completion_lengths_B - 1

    def take(self, rows: np.ndarray) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in self.__slots__))

    @property
    def token_N(self) -> np.ndarray:
        return _ranges(self.first_token_B, self.completion_lengths_B)


def is_packable(config: Any) -> bool:
    """Whether a model of this configuration computes packed completions exactly."""
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        config.model_type in PACKABLE_MODEL_TYPES
        and config._attn_implementation == TREE_ATTENTION
        and set(layers) == {"full_attention"}
    )


def packed_width(config: Any) -> int:
    """The widest tree: where attention takes a layer as long as its linear maps, within bounds."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    linear = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    return min(MAX_WIDTH, max(MIN_WIDTH, linear // (2 * ATTENTION_COST * queries)))


def model_inputs(
    config: Any,
    input_ids_BL: torch.Tensor,
    prompt_lengths_B: torch.Tensor,
    completion_lengths_B: torch.Tensor,
    group_B: torch.Tensor | None,
    *,
    one_pass: bool = False,
) -> list[ModelInput]:
    """Inputs that together predict every completion token, the cheapest that the model allows.

    Args:
        config: the model's.
        input_ids_BL: [B, L] prompt + completion, right-padded.
        prompt_lengths_B: [B].
        completion_lengths_B: [B], all > 0.
        group_B: [B] rows with the same number have the same prompt. None: unknown.
        one_pass: exactly one input, even if more are cheaper.
    """
    arrays = [tensor.cpu().numpy() for tensor in (input_ids_BL, prompt_lengths_B, completion_lengths_B)]
    rows, device = _Rows(*arrays, first_token_B=arrays[2].cumsum() - arrays[2]), input_ids_BL.device
    padded = np.arange(len(arrays[0]))
    inputs: list[ModelInput] = []
    if group_B is not None and is_packable(config):
        width = packed_width(config)
        short = np.flatnonzero(rows.lengths_B <= width)
        if one_pass and len(short) < len(padded):
            short = short[:0]
        packed = _packed(rows.take(short), group_B.cpu().numpy()[short], width, device)
        if packed is not None:
            inputs, padded = [packed], np.flatnonzero(rows.lengths_B > width)
    if one_pass:
        return inputs or [_padded(rows, device)]
    return inputs + [_padded(rows.take(part), device) for part in _of_one_length(rows.lengths_B, padded)]


def _packed(rows: _Rows, group_B: np.ndarray, width: int, device: torch.device) -> ModelInput | None:
    """Every distinct prefix of a group's completions once; None where rows of about one length are cheaper."""
    if not len(group_B):
        return None
    trees = pack_trees(rows.ids_BL, rows.prompt_lengths_B, rows.completion_lengths_B, group_B, width)
    sizes_U, longest = trees.sizes_U, int(trees.sizes_U.max())
    # A mask computes every pair of positions, plain causality half of them.
    cost = PASS_POSITIONS + (sizes_U * (1 + sizes_U / width)).sum()
    parts = [rows.lengths_B[part] for part in _of_one_length(rows.lengths_B, np.arange(len(group_B)))]
    if cost >= sum(PASS_POSITIONS + len(of) * of.max() * (1 + of.max() / (2 * width)) for of in parts):
        return None
    ends_UW = np.zeros((len(sizes_U), longest), np.int64)
    ends_UW[np.arange(longest) < sizes_U[:, None]] = trees.ends_W
    place_W = torch.arange(longest, device=device)
    ends_UW = torch.from_numpy(ends_UW).to(device)
    seen_UWW = (place_W[:, None] >= place_W) & (place_W[:, None] < ends_UW[:, None])
    arguments = {
        "input_ids": torch.from_numpy(trees.input_ids_W[None]).to(device),
        "position_ids": torch.from_numpy(trees.position_ids_W[None]).to(device),
        "attention_mask": seen_UWW[:, None],
        "tree_lengths": tuple(sizes_U.tolist()),
    }
    nodes = np.unique(trees.predictor_N, return_inverse=True)
    return ModelInput(arguments, *(torch.from_numpy(array).to(device) for array in (*nodes, rows.token_N)))


def _padded(rows: _Rows, device: torch.device) -> ModelInput:
    """Each row as it is: right padding needs no mask, because real tokens never see what comes after them."""
    width = int(rows.lengths_B.max())
    first_B = np.arange(len(rows.ids_BL)) * width + rows.prompt_lengths_B - 1
    position_M = _ranges(first_B, rows.completion_lengths_B)
    arrays = rows.ids_BL[:, :width].copy(), position_M, np.arange(len(position_M)), rows.token_N
    input_ids_BW, *where = (torch.from_numpy(array).to(device) for array in arrays)
    return ModelInput({"input_ids": input_ids_BW}, *where)


def _of_one_length(lengths_B: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """The chosen rows in parts of about one length, longest first; in each part in their order."""
    order = chosen[np.argsort(-lengths_B[chosen], kind="stable")]
    parts: list[np.ndarray] = []
    start = 0
    for end in range(1, len(order) + 1):
        longest = lengths_B[order[start]]
        last = end == len(order)
        if last or (
            lengths_B[order[end]] < LENGTH_RATIO * longest
            and (longest - lengths_B[order[end]]) * (len(order) - end) > PASS_POSITIONS
        ):
            parts.append(np.sort(order[start:end]))
            start = end
    return parts


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... for every start, as many as its length, in one array."""
    before = lengths.cumsum() - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


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
