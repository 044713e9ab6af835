"""Attention of transformers' models over prefix trees that lie side by side in one sequence (packing.py).

    tree 1         tree 2              each tree attends to itself alone, so pairs of positions of two trees
    prompt a b e   prompt c d          are not computed, and linear maps see one sequence without padding

It computes what torch's `sdpa` computes, and is `sdpa` itself where no trees are given. In bfloat16 on a CPU its
backward pass is made of products: that of torch's kernel takes 10 times as long as its forward pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
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
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and not others.get("dropout"):
        trees = [_CpuAttention.apply(*part, others["scaling"]) for part in parts]
    else:
        trees = [sdpa_attention_forward(module, *part, **others)[0] for part in parts]
    return torch.cat(trees, dim=1), None


class _CpuAttention(torch.autograd.Function):
    """torch's attention within one tree. Scores and shares are float32 in the backward pass, as in its kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """[1, W, heads, head size] from the shapes of `attend_within_trees` and a mask [1, 1, W, W]."""
        output = scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=True)
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scale = scale
        return output.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """dV = P^T dO, dS = P (dO V^T - sum(dO O)), dQ = scale dS K and dK = scale dS^T Q.

        P = softmax(scale Q K^T) is computed again, and O = P V is kept.
        """
        query, key, value, mask, output = ctx.saved_tensors
        (_, heads, width, size), groups = query.shape, key.shape[1]
        gradient = gradient.transpose(1, 2)
        # Heads that share their keys are rows of one product.
        query_KMD = (query * ctx.scale).reshape(groups, -1, size)
        gradient_KMD = gradient.reshape(groups, -1, size)
        scores = (query_KMD.float() @ key[0].float().mT).view(heads, width, width)
        shares = scores.masked_fill_(~mask[0], -math.inf).softmax(-1)
        mean = (gradient.float() * output.float()).sum(-1)[0, :, :, None]
        slope = (gradient_KMD @ value[0].mT).view_as(shares).float().sub_(mean).mul_(shares)
        slope_KMW, shares_KMW = (each.to(query.dtype).view(groups, -1, width) for each in (slope, shares))
        of_query = (slope_KMW @ key[0]).view_as(query) * ctx.scale
        return of_query, (slope_KMW.mT @ query_KMD)[None], (shares_KMW.mT @ gradient_KMD)[None], None, None


AttentionInterface.register(TREE_ATTENTION, attend_within_trees)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)


def use_tree_attention(model: PreTrainedModel) -> None:
    """Replace a model's `sdpa` attention."""
    model.set_attn_implementation(TREE_ATTENTION)
