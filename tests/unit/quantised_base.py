"""Checks of a learner on a 4-bit base on any device, against equally rounded plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyray.config.model import LINEAR_MODULES, LoraSpec
from polyray.models.loading import load_base
from polyray.models.lora import add_reference, attach_adapter
from polyray.weight_sync.probe import probe_logprobs

SEQUENCES = [(1, 8, 9, 4, 22), (1, 7, 3)]


def linear_layers(model: Any) -> dict[str, Any]:
    """Every linear layer of a block by its name."""
    return {
        name: module for name, module in model.named_modules() if name.rpartition(".")[2] in LINEAR_MODULES
    }


def check_learner_in_4_bits(model_dir: Path, device: torch.device | str) -> None:
    """Log-probs and the adapter's gradients are those of the rounded weights, and not those of the base's own."""
    quantised = load_base(model_dir, "nf4", device)
    bases = [_rounded(model_dir, quantised, device), quantised, load_base(model_dir, "bfloat16", device)]
    rounded, found, unquantised = (_logprobs_and_gradients(base) for base in bases)
    assert all(value is not None and value.dtype == torch.float32 for value in found[1].values())
    assert np.abs(found[0] - rounded[0]).max() < 0.02
    assert np.abs(found[0] - unquantised[0]).max() > 0.02
    assert _distance(found[1], rounded[1]) < 0.02
    assert _distance(found[1], unquantised[1]) > 0.05


def _rounded(model_dir: Path, quantised: Any, device: torch.device | str) -> Any:
    """A plain bfloat16 model with the weights that the 4-bit ones stand for."""
    from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

    plain = load_base(model_dir, "bfloat16", device)
    weights = linear_layers(quantised)
    with torch.no_grad():
        for name, module in linear_layers(plain).items():
            packed = weights[name].weight
            module.weight.copy_(dequantize_4bit(packed.data, packed.quant_state))
    return plain


def _logprobs_and_gradients(base: Any) -> tuple[np.ndarray, dict[str, Any]]:
    model = attach_adapter(base, LoraSpec(rank=4, alpha=8.0), None, base_sha256="", seed=0)
    add_reference(model)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A.default" in name:
                # A fresh A is drawn on the device, which has random numbers of its own.
                draw = torch.Generator().manual_seed(parameter.shape[1])
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
            elif "lora_B.default" in name:
                parameter.fill_(0.01)
    # A pass without gradients comes first, as a delivery's probe does in training.
    logprobs = probe_logprobs(model, SEQUENCES)
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor(SEQUENCES[:1], device=device)).logits
    logits.float().log_softmax(-1)[..., 4].sum().backward()
    return logprobs, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def _distance(first: dict[str, Any], second: dict[str, Any]) -> float:
    """|first - second| relative to |second|, over all parameters."""
    assert first.keys() == second.keys()
    squares = sum(float((first[name] - second[name]).square().sum()) for name in first)
    return float((squares / sum(float(value.square().sum()) for value in second.values())) ** 0.5)
