"""Merged or adapter delivery: what decides without measuring, what the figures decide, and that a run keeps it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyray.config.delivery import DeliverySpec
from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError
from polyray.weight_sync.mode import (
    DeliveryChoice,
    DeliveryMeasurements,
    choose_mode,
    completions_per_version,
    drain_share,
    record_choice,
    recorded_choice,
    settled_mode,
)

SEEN = DeliveryMeasurements(sample_s=0.75, sample_adapter_s=4.5, load_s=0.01, reload_s=0.03, drain_share=0.25)


def _model(directory: Path, **config: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _settled(model_dir: Path, *, mode: str = "auto", dtype: str = "float32", **rollout: Any) -> Any:
    lora = rollout.pop("lora", LoraSpec())
    spec = RolloutSpec.model_validate(rollout)
    return settled_mode(DeliverySpec.model_validate({"mode": mode}), spec, lora, model_dir, dtype)


def test_the_configuration_decides_first(tmp_path: Path) -> None:
    for mode in ("adapter", "merged"):
        for dtype in ("float32", "bfloat16"):
            assert _settled(_model(tmp_path), mode=mode, dtype=dtype) == DeliveryChoice(
                mode, "delivery.mode says so"
            )


@pytest.mark.parametrize(
    ("config", "how", "mode", "reason"),
    [
        ({}, {"dtype": "bfloat16"}, "adapter", "bfloat16 lose small updates"),
        ({"quantization_config": {"bits": 4}}, {}, "adapter", "a quantised base cannot be merged into"),
        ({}, {"dtype": "nf4"}, "adapter", "holds the base in 4 bits, which nothing can be merged into"),
        ({}, {"dtype": "nf4", "engine": "simulated"}, "adapter", "holds the base in 4 bits"),
        ({}, {"tensor_parallel_size": 2}, "adapter", "several processes takes adapters only"),
        ({}, {"engine": "vllm_async"}, "adapter", "several processes takes adapters only"),
        ({}, {"engine": "simulated", "dtype": "bfloat16"}, "merged", "simulated engine has no weights"),
        (
            {},
            {"lora": LoraSpec(target_modules=("q_proj", "c_attn"))},
            "merged",
            r"no adapters on \['c_attn'\]",
        ),
    ],
)
def test_what_cannot_be_otherwise_is_not_measured(
    tmp_path: Path, config: dict[str, Any], how: dict[str, Any], mode: str, reason: str
) -> None:
    choice = _settled(_model(tmp_path, **config), **how)
    assert choice.mode == mode
    assert reason.replace("\\", "") in choice.reason
    assert choice.measurements is None


def test_a_plain_float32_base_is_measured(tmp_path: Path) -> None:
    assert _settled(_model(tmp_path)) is None


@pytest.mark.parametrize(
    ("config", "how"),
    [
        ({"quantization_config": {"bits": 4}}, {}),
        ({}, {"dtype": "nf4"}),
        ({}, {"tensor_parallel_size": 2, "gpus_per_worker": 2}),
    ],
)
def test_merged_delivery_that_cannot_be_is_refused(tmp_path: Path, config: Any, how: Any) -> None:
    with pytest.raises(ConfigError, match=r"delivery\.mode=merged cannot be: .*; set delivery\.mode=adapter"):
        _settled(_model(tmp_path, **config), mode="merged", **how)


def test_the_cheaper_version_period_wins() -> None:
    """merged: 0.75 / (1 - 0.25) + 0.03 = 1.03 s; adapter: 4.5 + 0.01 = 4.51 s."""
    mode, reason = choose_mode(SEEN)
    assert mode == "merged"
    assert "merged 1.03 s" in reason
    assert "adapter 4.51 s" in reason
    assert "25% of the time lost to draining" in reason
    assert choose_mode(replace(SEEN, sample_adapter_s=1.03))[0] == "merged"
    assert choose_mode(replace(SEEN, sample_adapter_s=1.01))[0] == "adapter"
    assert choose_mode(replace(SEEN, sample_adapter_s=1.1, reload_s=0.2))[0] == "adapter"
    assert choose_mode(replace(SEEN, sample_adapter_s=1.1, drain_share=0.5))[0] == "adapter"


@pytest.mark.parametrize(
    ("rollout", "completions", "share"),
    [
        ({"max_staleness": 0}, 256, 0.0),
        ({"max_staleness": 1, "max_sequences": 256}, 256, 1 / 2),
        ({"max_staleness": 1, "max_sequences": 64}, 256, 1 / 5),
        ({"max_staleness": 1, "max_sequences": 1024}, 256, 2 / 3),
        ({"max_staleness": 8, "max_sequences": 64, "num_workers": 2}, 128, 1 / 3),
    ],
)
def test_what_a_drain_costs(rollout: dict[str, Any], completions: int, share: float) -> None:
    spec = RolloutSpec.model_validate({"prompts_per_step": 16, "group_size": 16, **rollout})
    assert completions_per_version(spec) == completions
    assert drain_share(spec) == pytest.approx(share)


def test_a_run_keeps_its_mode(tmp_path: Path) -> None:
    assert recorded_choice(tmp_path) is None
    measured = DeliveryChoice("merged", "measured", SEEN)
    record_choice(tmp_path, measured)
    assert recorded_choice(tmp_path) == measured
    record_choice(tmp_path, DeliveryChoice("merged", "another reason"))
    assert recorded_choice(tmp_path) == measured, "what was found first stays"
    with pytest.raises(ConfigError, match=r"began with merged delivery .* set delivery\.mode=merged"):
        record_choice(tmp_path, DeliveryChoice("adapter", "measured", SEEN))


def test_devices_of_an_engine_are_checked_when_the_configuration_is_read() -> None:
    assert RolloutSpec(tensor_parallel_size=2).engine_kind == "vllm_async"
    assert RolloutSpec().engine_kind == "vllm"
    with pytest.raises(ValueError, match="set gpus_per_worker=2"):
        RolloutSpec(tensor_parallel_size=2, gpus_per_worker=1)
    with pytest.raises(ValueError, match="a simulated engine has no devices"):
        RolloutSpec(tensor_parallel_size=2, engine="simulated")
