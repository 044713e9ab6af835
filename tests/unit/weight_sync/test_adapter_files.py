"""Files of adapters: PEFT reads them, and a full memory leaves no half of one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from polyray.config.model import LoraSpec
from polyray.errors import WeightSyncError
from polyray.models.adapter import AdapterShape
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.weight_sync.merge import zero_adapter
from polyray.weight_sync.probe import probe_logprobs
from polyray.weight_sync.vllm_delivery import write_adapter
from tests.unit.tiny_policy import build_base, move, save_base

SHAPE = AdapterShape(1, 1.0, ("q_proj",))
SEQUENCES = ((1, 8, 9, 4, 20), (1, 7, 3))


@pytest.mark.parametrize("kind", ["plain", "rslora", "zero"])
def test_written_files_are_a_peft_adapter(tmp_path: Path, kind: str) -> None:
    lora = LoraSpec(rank=3, alpha=5.0, target_modules=("q_proj", "down_proj"))
    policy: Any = build_base()
    content, shape = zero_adapter(save_base(tmp_path / "base"))
    if kind != "zero":
        policy = attach_adapter(policy, lora, None, base_sha256="b" * 64, seed=0)
        move(policy)
        shape = AdapterShape.from_peft(adapter_config(policy))
        content = adapter_bytes(policy)
    if kind == "rslora":
        shape = replace(shape, use_rslora=True)
        for module in policy.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] = 5.0 / 3**0.5
    where = write_adapter(tmp_path / "policy-a1-v1-aa", shape, content)
    again = PeftModel.from_pretrained(build_base(), str(where))
    difference = probe_logprobs(again, SEQUENCES) - probe_logprobs(policy.eval(), SEQUENCES)
    assert abs(difference).max() <= (1e-6 if kind == "rslora" else 0)
    assert {entry.name for entry in where.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_full_memory_is_named_and_leaves_no_half_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WeightSyncError, match=r"2\.0 MiB of v1\b.*No space left.*--shm-size"):
        write_adapter(tmp_path / "v1", SHAPE, bytes(2 * 2**20))
    assert list(tmp_path.iterdir()) == []
