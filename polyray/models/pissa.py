"""Principal components as the start of an adapter (PiSSA, arXiv 2404.02948), delivered as plain LoRA.

PiSSA trains the leading singular directions of each weight and freezes the rest. Engines hold the original base and
refuse such adapters, so here the base is left as it is: beside the trained policy a frozen adapter subtracts
the policy's own start. W x + s B A x - s B0 A0 x is PiSSA's forward pass, exact in any dtype of the base, and
without adapters the model is the base.

    start_from_principal_components(model)      once, after attach_adapter and before the optimiser is built
    save_plain_lora(model, directory, manifest) instead of save_adapter: rank 2r on the original base

For SFT alone: `add_reference` and `reference_active` (RL) would switch the frozen adapter off. RL continues from the
saved adapter as a warm start, with twice the rank and twice the alpha.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from polyray.errors import ConfigError
from polyray.models.adapter_files import write_adapter
from polyray.models.lora import POLICY, adapter_config, adapter_state, forked_rng

INITIAL = "initial"
"""PEFT's name for the frozen adapter that subtracts the start."""
OVERSAMPLING = 8
"""Directions that the randomised decomposition draws beyond the rank."""


def start_from_principal_components(
    model: PeftModel, *, iterations: int | None = None, seed: int = 0
) -> None:
    """Sets the policy to the top singular vectors of each target weight; the outputs stay the base's.

    Args:
        model: from `attach_adapter`, without a reference.
        iterations: subspace iterations of a randomised decomposition (PiSSA's fast one; 16 is usual). None: exact,
            which takes seconds for each weight of 4096 x 4096.
        seed: of the randomised decomposition.

    Raises:
        ConfigError: dropout, a rank above a weight's, or target modules that are no linear layers.
    """
    config = model.peft_config[POLICY]
    if config.lora_dropout:  # type: ignore[union-attr]
        raise ConfigError(
            f"model.lora.dropout={config.lora_dropout}, but principal components need 0: dropout would "  # type: ignore[union-attr]
            "hit the policy and not the start that is subtracted; set model.lora.dropout=0"
        )
    frozen = LoraConfig(**{**config.to_dict(), "inference_mode": True})
    with forked_rng(model), torch.no_grad():
        torch.manual_seed(seed)
        model.add_adapter(INITIAL, frozen)
        for name, layer in _adapted_layers(model):
            factor_a, factor_b = _principal_factors(name, layer, iterations)
            for adapter, sign in ((POLICY, 1), (INITIAL, -1)):
                layer.lora_A[adapter].weight.copy_(factor_a)  # type: ignore[operator]  # a ModuleDict's entries
                layer.lora_B[adapter].weight.copy_(sign * factor_b)  # type: ignore[operator]
    model.base_model.set_adapter([POLICY, INITIAL])  # type: ignore[operator]  # PeftModel's takes one name only
    model.set_requires_grad(INITIAL, requires_grad=False)


@contextmanager
def base_active(model: PeftModel) -> Iterator[None]:
    """Inside, the model is its base; afterwards as before (PEFT alone would make the frozen start trainable)."""
    with model.disable_adapter():
        yield
    model.set_requires_grad(INITIAL, requires_grad=False)


def plain_lora(model: PeftModel) -> tuple[bytes, dict[str, Any]]:
    """(content of adapter_model.safetensors, adapter_config.json) of the policy as LoRA of rank 2r on the base.

    B A - B0 A0 = [B, B - B0] [A - A0; A0]: unlike [B, -B0] [A; A0] it does not cancel, so that an engine may round
    the factors to bfloat16. alpha doubles with the rank, the scaling stays.

    Raises:
        ConfigError: the model did not start from principal components.
    """
    if INITIAL not in model.peft_config:
        raise ConfigError(
            "this adapter did not start from principal components; save it with save_adapter, it is plain LoRA"
        )
    policy = adapter_state(model)
    initial = get_peft_model_state_dict(model, adapter_name=INITIAL)
    weights: dict[str, Tensor] = {}
    for name_a in (name for name in policy if ".lora_A." in name):
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        start_a, start_b = initial[name_a].float().cpu(), -initial[name_b].float().cpu()
        weights[name_a] = torch.cat([policy[name_a] - start_a, start_a])
        weights[name_b] = torch.cat([policy[name_b], policy[name_b] - start_b], dim=1)
    config = adapter_config(model)
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    return safetensors.torch.save(dict(sorted(weights.items())), metadata={"format": "pt"}), config


def save_plain_lora(model: PeftModel, directory: Path, manifest: Mapping[str, Any]) -> str:
    """`save_adapter` for a policy that started from principal components; returns the sha256 of its weights."""
    content, config = plain_lora(model)
    return write_adapter(content, config, directory, manifest)


def _adapted_layers(model: PeftModel) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _principal_factors(name: str, layer: LoraLayer, iterations: int | None) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] with scaling x B A = the best approximation of rank r of the weight."""
    base = layer.get_base_layer()
    if not isinstance(base, torch.nn.Linear):
        raise ConfigError(
            f"model.lora.target_modules: {name} is a {type(base).__name__}; principal components need linear layers"
        )
    rank, weight = layer.r[POLICY], base.weight.float()
    if rank > min(weight.shape):
        raise ConfigError(
            f"model.lora.rank={rank}, but {name} is {weight.shape[0]} x {weight.shape[1]} and has no more than "
            f"{min(weight.shape)} principal components; lower the rank, or leave it out of target_modules"
        )
    if iterations is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        num_drawn = min(rank + OVERSAMPLING, *weight.shape)
        left, values, right_t = torch.svd_lowrank(weight, q=num_drawn, niter=iterations)
        right = right_t.T
    root = (values[:rank] / layer.scaling[POLICY]).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root
