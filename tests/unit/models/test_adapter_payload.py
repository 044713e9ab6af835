"""Reading of adapter configurations; anything beyond W0 + scale B A is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig

from polyray.errors import WeightSyncError
from polyray.models.adapter import AdapterShape, sha256_of
from polyray.weight_sync.merge import adapter_from_bytes


def _config(**options: Any) -> dict[str, Any]:
    return LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj", "q_proj"], **options).to_dict()


def test_shape_has_rank_alpha_scale_and_sorted_modules() -> None:
    shape = AdapterShape.from_peft(_config())
    assert shape == AdapterShape(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"))
    assert shape.scale == 2.0
    assert AdapterShape.from_peft(_config(use_rslora=True)).scale == 8 / math.sqrt(4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("lora_bias", True),
        ("bias", "lora_only"),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 16}),
        ("modules_to_save", ["lm_head"]),
        ("alora_invocation_tokens", [7, 8]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("trainable_token_indices", [3]),
        ("use_bdlora", {"nblocks": 2}),
        ("use_qalora", True),
        ("kasa_config", {"beta": 1e-4}),
        ("fan_in_fan_out", True),
        ("an_option_of_a_later_peft", 3),
        ("target_modules", ".*_proj"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
    ],
)
def test_payload_that_is_no_plain_product_is_refused(key: str, value: object) -> None:
    with pytest.raises(WeightSyncError, match=f"{key}="):
        AdapterShape.from_peft({**_config(), key: value})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("init_lora_weights", [True, False, "gaussian", "eva"]),
        ("rank_pattern", [None, {}, []]),
        ("modules_to_save", [None, {}, []]),
    ],
)
def test_options_without_an_effect_on_the_product_are_plain(key: str, values: list[object]) -> None:
    for value in values:
        assert AdapterShape.from_peft({**_config(), key: value}).rank == 4


def test_adapter_of_bytes_has_their_tensors_and_of_none_is_empty() -> None:
    tensors = {"a": torch.tensor([1.5, -2.0])}
    assert adapter_from_bytes(safetensors.torch.save(tensors))["a"].tolist() == [1.5, -2.0]
    assert adapter_from_bytes(b"") == {}
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
