"""The models that benchmarks run on: the embedded one, and one of 90 M parameters with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

ModelName = Literal["embedded", "random"]
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


def model_directory(name: ModelName, scratch: Path) -> Path:
    """Where the model lies with its tokenizer; a random one is written into `scratch`. Raises ConfigError where no
    embedded model was built."""
    from polyray.config.model import ModelSpec
    from polyray.models.base_files import find_embedded
    from polyray.models.embedded import build_tokenizer

    if name == "embedded":
        return find_embedded(Path(ModelSpec().cache_dir))
    random_base().save_pretrained(scratch)
    build_tokenizer().save_pretrained(scratch)
    return scratch
