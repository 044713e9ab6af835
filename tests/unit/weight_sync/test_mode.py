"""Merged or adapter weight sync: the rule by configuration, base, dtype and device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.delivery import DeliverySpec
from polyray.config.model import LoraSpec, ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError
from polyray.models import loading
from polyray.models.base import Base
from polyray.weight_sync.mode import SyncChoice, choose_sync


@pytest.fixture(autouse=True)
def _without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "check_can_quantise", lambda model_dir: None)


def _choice(
    model_dir: Path, config: dict[str, Any], *, mode: str = "auto", dtype: str = "float32", **rollout: Any
) -> SyncChoice:
    (model_dir / "config.json").write_text(json.dumps(config))
    lora = rollout.pop("lora", LoraSpec())
    held = {"quantization": dtype} if dtype == "nf4" else {"dtype": dtype}
    model = ModelSpec.model_validate({"path": str(model_dir), "lora": lora, **held})
    delivery = DeliverySpec.model_validate({"mode": mode})
    choice = choose_sync(model, delivery, RolloutSpec.model_validate(rollout), Base(model_dir, "9f86"))
    assert choice.dtype == dtype
    assert choice.lora_rank(16) == (16 if choice.mode == "adapter" else None)
    return choice


@pytest.mark.parametrize(
    ("config", "how", "mode", "reason"),
    [
        ({}, {}, "merged", "CPU"),
        ({"quantization_config": None}, {}, "merged", "CPU"),
        ({}, {"gpus_per_worker": 1}, "adapter", "GPU"),
        ({}, {"dtype": "bfloat16"}, "adapter", "bfloat16"),
        ({"quantization_config": {"bits": 4}}, {}, "adapter", "quantised base"),
        ({}, {"dtype": "nf4"}, "adapter", "nf4"),
        ({}, {"dtype": "nf4", "engine": "simulated"}, "adapter", "nf4"),
        ({}, {"tensor_parallel_size": 2}, "adapter", "several processes"),
        ({}, {"engine": "vllm_async"}, "adapter", "several processes"),
        ({}, {"mode": "merged", "dtype": "bfloat16"}, "merged", "delivery.mode"),
        ({}, {"mode": "adapter"}, "adapter", "delivery.mode"),
        ({}, {"engine": "simulated", "dtype": "bfloat16"}, "merged", "simulated"),
        ({}, {"lora": LoraSpec(target_modules=("q_proj", "c_attn"))}, "merged", "['c_attn']"),
    ],
)
def test_mode_follows_configuration_base_dtype_and_device(
    tmp_path: Path, config: dict[str, Any], how: dict[str, Any], mode: str, reason: str
) -> None:
    choice = _choice(tmp_path, config, **how)
    assert choice.mode == mode
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("config", "how"),
    [
        ({"quantization_config": {"bits": 4}}, {}),
        ({}, {"dtype": "nf4"}),
        ({}, {"tensor_parallel_size": 2, "gpus_per_worker": 2}),
    ],
)
def test_impossible_merge_is_refused(tmp_path: Path, config: Any, how: Any) -> None:
    with pytest.raises(ConfigError, match=r"delivery\.mode=merged .*delivery\.mode=adapter"):
        _choice(tmp_path, config, mode="merged", **how)
