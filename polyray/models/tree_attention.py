"""Attention of transformers' models over prefix trees that lie side by side in one sequence (packing.py).

    tree 1         tree 2              each tree attends to itself alone, so pairs of positions of two trees
    prompt a b e   prompt c d          are not computed, and linear maps see one sequence without padding

It computes what torch's `sdpa` computes, and is `sdpa` itself where no trees are given.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TREE_ATTENTION = "sdpa_trees"
"""Its name among transformers' attention functions."""


def attend_within_trees(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree_lengths: tuple[int, ...] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it; [1, W, heads, head size] for trees of W positions together.

    Args:
        module: the attention layer.
        query: [1, heads, W, head size]; `key` and `value` with their own number of heads.
        attention_mask: [trees, 1, longest, longest] bool, True where a position of a tree sees another one.
        tree_lengths: positions of each tree; None: any other input, which goes to `sdpa` as it is.
    """
    if tree_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    assert attention_mask is not None
    masks = [
        mask[None, :, :length, :length] for mask, length in zip(attention_mask, tree_lengths, strict=True)
    ]
    parts = zip(*(states.split(tree_lengths, dim=2) for states in (query, key, value)), masks, strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, **others)[0] for part in parts], dim=1), None


AttentionInterface.register(TREE_ATTENTION, attend_within_trees)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)


def use_tree_attention(model: PreTrainedModel) -> None:
    """Replace a model's `sdpa` attention."""
    model.set_attn_implementation(TREE_ATTENTION)
