"""Small adapters in PEFT's format."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from polyray.models.adapter_files import write_adapter

PREFIX = "base_model.model.model.layers"
ALPHA = 6.0


def saved(
    directory: Path,
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]],
    base: str | None = "a" * 64,
    **config: object,
) -> Path:
    """A plain adapter of these (A, B)."""
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"{PREFIX}.{name}.lora_A.weight"] = a.clone().contiguous()
        tensors[f"{PREFIX}.{name}.lora_B.weight"] = b.clone().contiguous()
    rank = next(iter(factors.values()))[0].shape[0]
    modules = sorted({name.rsplit(".", 1)[-1] for name in factors})
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "target_modules": modules, **config}
    content = safetensors.torch.save(tensors)
    if base is not None:
        write_adapter(content, values, directory, {"base_sha256": base})
    else:
        directory.mkdir()
        (directory / "adapter_model.safetensors").write_bytes(content)
        (directory / "adapter_config.json").write_text(json.dumps(values))
    return directory


def factors(rank: int, out: int = 5, inputs: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inputs, generator=generator), torch.randn(out, rank, generator=generator)
