"""Parameters that follow from a shape, against published counts and models that are built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.capacity.shapes import QWEN3, ModelShape, shape_from_config, shape_of
from polyray.config.model import LINEAR_MODULES, ModelSpec


def test_parameters_match_published_counts() -> None:
    assert {size: shape.parameters for size, shape in QWEN3.items()} == {
        "0.6B": 596_049_920,
        "1.7B": 1_720_574_976,
        "4B": 4_022_468_096,
        "8B": 8_190_735_360,
        "14B": 14_768_307_200,
        "32B": 32_762_123_264,
    }
    # 4 x (4 x 128^2 + 3 x 128 x 384 + 2 x 128 + 2 x 32) + 28 x 128 + 128
    assert ModelShape(128, 4, 4, 4, 32, 384, 28, tied=True).parameters == 856_960, "the embedded model"
    assert tuple(QWEN3["8B"].linear) == LINEAR_MODULES


def test_lora_parameters_match_manual_counts() -> None:
    # q, o: 8192; k, v: 5120; gate, up, down: 16384 inputs and outputs, in 36 layers
    assert QWEN3["8B"].lora_parameters(16) == 36 * 16 * (2 * 8192 + 2 * 5120 + 3 * 16384) == 43_646_976
    assert QWEN3["8B"].lora_parameters(8, ("q_proj", "v_proj")) == 36 * 8 * (8192 + 5120)
    assert QWEN3["8B"].lora_parameters(8, ("query_key_value",)) == 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen3-8B", "8B"),
        ("Qwen/Qwen3-8B-Base", "8B"),
        ("Qwen/Qwen3-0.6B", "0.6B"),
        ("Qwen/Qwen3-4B-Instruct-2507", "4B"),
        ("mirror/qwen/Qwen3-32B", "32B"),
        ("Qwen/Qwen3-8B-AWQ", None),
        ("Qwen/Qwen3-8B-FP8", None),
        ("Qwen/Qwen3-30B-A3B", None),
        ("Qwen/Qwen3-Embedding-8B", None),
        ("Qwen/Qwen2.5-7B", None),
    ],
)
def test_shape_of_known_names_only(name: str, size: str | None) -> None:
    assert shape_of(ModelSpec(path=name)) == (None if size is None else QWEN3[size])


CONFIG: dict[str, object] = {
    "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    "tie_word_embeddings": False,
}  # fmt: skip
LLAMA: dict[str, object] = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def test_shape_is_read_from_a_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert shape_of(ModelSpec(path=str(tmp_path))) == QWEN3["8B"]
    shape = shape_from_config(LLAMA)  # SmolLM2-135M
    assert shape is not None
    assert (shape.head_dim, shape.qk_norm, shape.parameters) == (64, False, 134_515_008)


@pytest.mark.parametrize(
    "changes", [{"quantization_config": {"quant_method": "awq"}}, {"num_experts": 128}, {"hidden_size": None}]
)
def test_shape_is_none_for_other_than_dense_16_bit_models(changes: dict[str, object]) -> None:
    values = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    assert shape_from_config(values) is None
