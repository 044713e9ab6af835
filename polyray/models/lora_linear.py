"""LoRA layers that compute in the dtype of the base: y = x W^T + s (x A^T) B^T.

PEFT's layer copies x to the adapter's float32, and multiplies, scales and adds outputs of full width one after the
other. Here x is not copied, and the adapter is added to the base's output by the product itself. The adapter is
rounded to the dtype of the base, as engines hold it; its own weights, and its gradients, stay in float32.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from polyray.models.products import added_product, product


class _AddAdapter(torch.autograd.Function):
    """`output` + scale * (x A^T) B^T."""

    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Shapes: output [..., out], x [..., in], a [r, in], b [out, r]."""
        x_MI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = a.to(x.dtype), b.to(x.dtype)
        inner_MR = product(x_MI, a_RI)
        added_MO = added_product(output.reshape(-1, output.shape[-1]), inner_MR, b_OR, scale)
        ctx.save_for_backward(x, inner_MR, a, b)
        ctx.scale = scale
        return added_MO.view(output.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of `forward`'s arguments."""
        x, inner_MR, a, b = ctx.saved_tensors
        gradient_MO, x_MI = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        inner_gradient_MR = product(gradient_MO, b.to(x.dtype).T).mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[1]:
            x_gradient = product(inner_gradient_MR, a.to(x.dtype).T).view(x.shape)
        if not ctx.needs_input_grad[2]:
            return gradient, x_gradient, None, None, None
        a_gradient = product(inner_gradient_MR.T, x_MI.T).to(a.dtype)
        b_gradient = product(inner_MR.T, gradient_MO.T).T.to(b.dtype).mul_(ctx.scale)
        return gradient, x_gradient, a_gradient, b_gradient, None


def use_base_dtype(model: PeftModel) -> None:
    """Replace the forward pass of the model's LoRA layers, those on 4-bit layers included."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """[..., in] -> [..., out], in the dtype of x."""
    if layer.disable_adapters or len(layer.active_adapters) != 1:
        return type(layer).forward(layer, x)  # adapters that cancel (pissa.py) must be added in float32
    (name,) = layer.active_adapters
    output = layer.base_layer(x)
    weights = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _AddAdapter.apply(output, layer.lora_dropout[name](x), *weights, layer.scaling[name])
