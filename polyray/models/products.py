"""Products of float32 matrices on a CPU by oneDNN.

torch multiplies float32 matrices by MKL, whose AVX-512 kernels are for Intel's processors alone. oneDNN has them for
every processor: on an EPYC with AVX-512 it multiplies 2.2 to 2.5 times as fast, without packing the weights. Other
dtypes and devices have torch's products; bfloat16 on a CPU is oneDNN's there, too.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias [out]; without gradients."""
    if _is_for_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return functional.linear(x, weight, bias)


def added_product(to: Tensor, x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """to [M, out] plus scale times the product of x [M, in] and weight [out, in]; without gradients."""
    if _is_for_onednn(x):
        return torch.ops.mkldnn._linear_pointwise.binary(x * scale, to, weight, None, "add")
    return torch.addmm(to, x, weight.T, alpha=scale)


def use_onednn(model: torch.nn.Module) -> None:
    """Replace the product of the linear layers. Layers in 4 bits and layers that are trained keep theirs."""
    for layer in model.modules():
        if type(layer) is torch.nn.Linear:
            layer.forward = MethodType(_forward, layer)


def _is_for_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _forward(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    is_trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
    if is_trained or not _is_for_onednn(x):
        return functional.linear(x, layer.weight, layer.bias)
    return _FrozenProduct.apply(x, layer.weight, layer.bias)


class _FrozenProduct(torch.autograd.Function):
    """`product` with a gradient of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return product(gradient, weight.T), None, None
