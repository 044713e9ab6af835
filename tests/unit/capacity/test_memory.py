"""Bytes that follow from a shape: by hand for Qwen3-8B, and against autograd for a small Qwen3."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.capacity import memory
from polyray.capacity.memory import activations, layer_activations
from polyray.capacity.shapes import QWEN3, ModelShape
from polyray.config.model import LINEAR_MODULES

SHAPE = QWEN3["8B"]


def test_one_layer_matches_manual_memory() -> None:
    norms = 2 * 4 * 4096 + 2 * 4 + 4 * (4096 + 1024) + 4 * (32 + 8)
    attention = 2 * (2 * 4096 + 2 * 1024) + 4 * 32
    feed_forward = 2 * 3 * 12288
    inputs = 2 * (4096 + 4096 + 12288)
    factors = 7 * 2 * 16
    kept = layer_activations(SHAPE, "bfloat16", 16, LINEAR_MODULES)
    assert kept == norms + attention + feed_forward + inputs + factors == 188_936
    dropped = (2 + 1) * (3 * 4096 + 4096 + 2 * 4096 + 12288)
    assert layer_activations(SHAPE, "bfloat16", 16, LINEAR_MODULES, dropout=True) == kept + dropped
    assert activations(kept, SHAPE, "bfloat16", checkpointed=False) == 36 * kept
    assert activations(kept, SHAPE, "bfloat16", checkpointed=True) == 36 * 2 * 4096 + kept


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "changes", [{}, {"hidden": 96}, {"heads": 4}, {"kv_heads": 4}, {"intermediate": 200}]
)
@pytest.mark.parametrize("targets", [LINEAR_MODULES, ("q_proj", "v_proj"), ("down_proj",)])
def test_layer_activations_match_autograd(
    dtype: str, changes: dict[str, int], targets: tuple[str, ...]
) -> None:
    sizes: dict[str, Any] = {"hidden": 64, "heads": 8, "kv_heads": 2, "head_dim": 16, "intermediate": 160}
    shape = ModelShape(**{**sizes, **changes}, layers=1, vocabulary=32, tied=False)
    two, three = (_kept_per_token(shape, layers, dtype, targets) for layers in (2, 3))
    assert three - two == layer_activations(shape, dtype, 4, targets)


def _kept_per_token(shape: ModelShape, layers: int, dtype: str, targets: tuple[str, ...]) -> float:
    """Bytes of distinct storages that the backward pass of the blocks refers to, weights left out."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from polyray.models.lora_linear import use_base_dtype

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
    )
    base = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules=list(targets), task_type="CAUSAL_LM"))
    use_base_dtype(model)
    weights = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.zeros(2, 64, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.get_base_model().model(input_ids=tokens, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values()) / tokens.numel()


def test_adapter_states_match_manual_bytes() -> None:
    assert memory.adapter_states(43_646_976, reference=True) == 43_646_976 * (4 + 4 + 8 + 4)
    assert memory.adapter_states(43_646_976, reference=False) == 43_646_976 * (4 + 4 + 8)


def test_logits_cover_a_chunk_in_rl_and_all_tokens_in_sft() -> None:
    assert memory.rl_logits(SHAPE, 100) == 100 * 151936 * 18
    assert memory.rl_logits(SHAPE, 10**6) == 220 * 151936 * 18  # 2^25 / 151936 = 220.8
    assert memory.sft_logits(SHAPE, 2688) == 2688 * 151936 * 16


def test_engine_bytes_match_manual_counts() -> None:
    assert memory.kv_bytes_per_token(SHAPE, "bfloat16") == 2 * 36 * 8 * 128 * 2 == 144 * 1024
    assert memory.kv_bytes_per_token(SHAPE, "float32") == 288 * 1024
    assert memory.lora_slots(SHAPE, "bfloat16", 16, 2) == 2 * 43_646_976 * 2
    assert memory.lora_slots(SHAPE, "bfloat16", 9, 1) == 43_646_976 * 2  # there are slots of 8 and of 16
    assert memory.sampling_logits(SHAPE, 64) == 64 * 151936 * 12


def test_base_weights_in_4_bits_match_manual_bytes() -> None:
    linear = 36 * (4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288)
    assert SHAPE.linear_parameters == linear == 6_945_767_424  # of 8.19 billion
    others = 2 * (8_190_735_360 - linear)
    blocks = linear // 64
    learner = memory.base_weights(SHAPE, "bfloat16", "nf4", double=True)
    engine = memory.base_weights(SHAPE, "bfloat16", "nf4", double=False)
    assert learner == linear // 2 + blocks + 4 * (blocks // 256) + others
    assert engine == linear // 2 + 4 * blocks + others
    assert memory.base_weights(SHAPE, "bfloat16", "none", double=True) == 8_190_735_360 * 2
    assert memory.unpacked(SHAPE, "bfloat16", "nf4") == 4096 * 12288 * 2
    assert memory.unpacked(SHAPE, "bfloat16", "none") == 0
