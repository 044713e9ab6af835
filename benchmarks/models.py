"""The models that benchmarks run on: the embedded one, and random weights in a shape of 90 M parameters or a known
one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from polyray.capacity.shapes import QWEN3

ModelName = Literal["embedded", "random", "smollm2"]
RANDOM_SHAPE: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
    "head_dim": 64, "intermediate_size": 2048, "vocab_size": 8192, "tie_word_embeddings": True,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
"""About 90 M parameters; the special tokens are those of the embedded tokenizer."""


def random_base() -> Any:
    """The same weights at every call."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**RANDOM_SHAPE)).eval()


def qwen3_shape(size: str) -> dict[str, Any]:
    """Arguments of Qwen3Config for a published size, e.g. "0.6B", with special tokens of the embedded tokenizer."""
    shape = QWEN3[size]
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def random_qwen3(shape: dict[str, Any], device: Any, dtype: str) -> Any:
    """A Qwen3 of this shape, drawn on the device: the same weights at every call there."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    from polyray.models.tree_attention import TREE_ATTENTION

    torch.manual_seed(0)
    with torch.device(device):  # in its dtype from the start: float32 first would need three times the memory
        model = AutoModelForCausalLM.from_config(
            Qwen3Config(**shape), dtype=getattr(torch, dtype), attn_implementation=TREE_ATTENTION
        )
    return model.eval()


def write_random_qwen3(shape: dict[str, Any], directory: Path, device: Any, dtype: str) -> None:
    """`random_qwen3` as a model directory, with the embedded tokenizer, which knows the first few of its tokens."""
    from polyray.learner.embedded import build_tokenizer

    random_qwen3(shape, device, dtype).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)


def model_directory(name: ModelName, scratch: Path) -> Path:
    """Directory of the model with its tokenizer; a random one is written into `scratch`.

    Raises ConfigError if no embedded model was built.
    """
    from polyray.config.model import ModelSpec
    from polyray.learner.embedded import build_tokenizer
    from polyray.models.base_files import resolve_model_dir

    if name != "random":
        return resolve_model_dir(ModelSpec(path=name))
    random_base().save_pretrained(scratch)
    build_tokenizer().save_pretrained(scratch)
    return scratch
