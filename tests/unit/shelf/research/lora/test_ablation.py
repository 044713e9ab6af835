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
from polyray.shelf.research.lora.updates import read_adapter_updates
from tests.unit.shelf.research.lora.lora_files import factors, saved

MODULES = ("mlp.up_proj", "self_attn.q_proj")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    names = [f"{layer}.{module}" for layer in range(11) for module in MODULES]
    return saved(tmp_path / "adapter", {name: factors(2, seed=at) for at, name in enumerate(names)}, None)


@pytest.mark.parametrize("by", ["layer", "module"])
def test_ablated_adapter_lacks_only_its_part(adapter: Path, by: Any) -> None:
    content = (adapter / "adapter_model.safetensors").read_bytes()
    whole = safetensors.torch.load(content)
    found = list(ablated(content, by))
    expected = [f"layer {layer}" for layer in range(11)] if by == "layer" else list(MODULES)
    assert [part for part, _ in found] == expected
    for part, without in found:
        marker = f".layers.{part.removeprefix('layer ')}." if by == "layer" else f".{part}.lora"
        tensors = safetensors.torch.load(without)
        assert tensors.keys() == whole.keys()
        for key, tensor in tensors.items():
            gone = marker in key and key.endswith("lora_B.weight")
            assert torch.equal(tensor, torch.zeros_like(tensor) if gone else whole[key])


def test_ablated_directories_hold_adapters_of_the_given_base(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "ablated"
    written = ablated_directories(adapter, "b" * 64, out, "layer")
    assert written == {f"without layer {layer}": out / f"layer-{layer}" for layer in range(11)}
    assert not out.exists()
    write_ablated(adapter, "b" * 64, out, "layer")
    whole, without = read_adapter_updates(adapter), read_adapter_updates(written["without layer 1"])
    assert without.base_sha256 == "b" * 64
    for place, update in without.updates.items():
        expected = whole.updates[place].left @ whole.updates[place].right
        assert np.array_equal(update.left @ update.right, expected * (place.layer != 1))


def test_contributions_are_the_losses_without_each_part() -> None:
    common = {"metric": "pass_at_k", "k": 8, "p_adjusted": 0.01}
    lost = {"difference": -0.2, "low": -0.3, "high": -0.1, "mean": 0.5, "baseline_mean": 0.7}
    comparisons = [
        {**common, **lost, "model": "without layer 3", "baseline": WHOLE},
        {**common, **lost, "model": "without layer 4", "baseline": "without layer 3"},
    ]
    values = {"whole": 0.7, "without": 0.5, "contribution": 0.2, "low": 0.1, "high": 0.3}
    assert contributions(comparisons) == [{"part": "layer 3", **common, **values}]
