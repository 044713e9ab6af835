"""An adapter without a part: only the update of the part is zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from polyray.shelf.research.lora.ablation import ablated, ablated_directories, write_ablated
from polyray.shelf.research.lora.contributions import WHOLE, contributions
from polyray.shelf.research.lora.updates import Place, read_adapter_updates

MODULES = ("self_attn.q_proj", "mlp.up_proj")


def adapter_bytes(layers: int = 11) -> bytes:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(layers):
        for module in MODULES:
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, 5, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(4, 2, generator=generator)
    return safetensors.torch.save(tensors)


@pytest.mark.parametrize("by", ["layer", "module"])
def test_only_the_part_is_gone(by: Any) -> None:
    content = adapter_bytes()
    whole = safetensors.torch.load(content)
    found = list(ablated(content, by))
    expected = [f"layer {layer}" for layer in range(11)] if by == "layer" else sorted(MODULES)
    assert [part for part, _ in found] == expected
    for part, without in found:
        marker = f".layers.{part.removeprefix('layer ')}." if by == "layer" else f".{part}.lora"
        tensors = safetensors.torch.load(without)
        assert tensors.keys() == whole.keys()
        for key, tensor in tensors.items():
            gone = marker in key and key.endswith("lora_B.weight")
            assert torch.equal(tensor, torch.zeros_like(tensor) if gone else whole[key])
            assert gone == (not tensor.any())


def test_ablated_adapter_has_a_zero_update_of_its_part(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(adapter_bytes(2))
    names = '["q_proj", "up_proj"]'
    (directory / "adapter_config.json").write_text(
        f'{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": {names}}}'
    )
    written = ablated_directories(directory, "b" * 64, tmp_path / "ablated", "layer")
    assert {name: path.name for name, path in written.items()} == {
        "without layer 0": "layer-0",
        "without layer 1": "layer-1",
    }
    assert not (tmp_path / "ablated").exists()
    write_ablated(directory, "b" * 64, tmp_path / "ablated", "layer")
    whole = read_adapter_updates(directory)
    without = read_adapter_updates(written["without layer 1"])
    assert without.base_sha256 == "b" * 64
    for place, update in without.updates.items():
        product = update.left @ update.right
        if place.layer == 1:
            assert not product.any()
        else:
            assert np.array_equal(product, whole.updates[place].left @ whole.updates[place].right)
    assert Place(1, MODULES[0]) in without.updates


def test_contribution_is_the_loss_without_the_part() -> None:
    common = {"metric": "pass_at_k", "k": 8, "p_adjusted": 0.01}
    comparisons = [
        {**common, "model": "without layer 3", "baseline": WHOLE, "difference": -0.2, "low": -0.3, "high": -0.1,
         "mean": 0.5, "baseline_mean": 0.7},
        {**common, "model": "without layer 4", "baseline": "without layer 3", "difference": 0.1, "low": 0.0,
         "high": 0.2, "mean": 0.6, "baseline_mean": 0.5},
    ]  # fmt: skip
    assert contributions(comparisons) == [
        {
            "part": "layer 3",
            "metric": "pass_at_k",
            "k": 8,
            "whole": 0.7,
            "without": 0.5,
            "contribution": 0.2,
            "low": 0.1,
            "high": 0.3,
            "p_adjusted": 0.01,
        }
    ]
