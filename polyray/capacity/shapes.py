"""Shapes of base models: how many parameters of which sizes, known by hub name or read from a config.json.

memory.py computes bytes from a shape. Nothing is fetched and no weight is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.config.model import EMBEDDED, LINEAR_MODULES, SMOLLM2, ModelSpec


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder of the Llama family: attention with grouped keys, a gated feed-forward part.

    Example:
        ModelShape(hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=3072,
                   vocabulary=151936, tied=True)
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    """Whether embedding and head are one matrix."""
    qk_norm: bool = True
    """Whether queries and keys are normalised by learnt weights, as Qwen3 does."""

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Module name -> (inputs, outputs) of every linear layer of a block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = (
            (self.hidden, queries),
            (self.hidden, keys),
            (self.hidden, keys),
            (queries, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )
        return dict(zip(LINEAR_MODULES, sizes, strict=True))

    @property
    def block_parameters(self) -> int:
        """Parameters of one block; biases, which Qwen3 does not have, are left out."""
        return self._linear_of_block + 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def linear_parameters(self) -> int:
        """Parameters of the linear layers of all blocks."""
        return self.layers * self._linear_of_block

    @property
    def _linear_of_block(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def parameters(self) -> int:
        """All of them."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.block_parameters + embeddings + self.hidden

    def lora_parameters(self, rank: int, target_modules: Iterable[str] = LINEAR_MODULES) -> int:
        """Parameters of an adapter; modules that a block does not have count 0."""
        sizes = [self.linear[name] for name in target_modules if name in self.linear]
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in sizes)


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> ModelShape:
    return ModelShape(hidden, layers, heads, 8, 128, intermediate, 151_936, tied)


QWEN3 = {
    "0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "8B": _qwen3(4096, 36, 32, 12_288, tied=False),
    "14B": _qwen3(5120, 40, 40, 17_408, tied=False),
    "32B": _qwen3(5120, 64, 64, 25_600, tied=False),
}
"""The dense models of the family, by the size in their name."""
QWEN3_NAME = re.compile(r"(?:.*/)?Qwen3-(\d+(?:\.\d+)?B)(?:-Base|-Instruct-\d{4}|-Thinking-\d{4})?")
"""Hub names of models in 16 bits; quantised ones and other architectures end differently."""
SMOLLM2_SHAPE = ModelShape(576, 30, 9, 3, 64, 1536, 49_152, tied=True, qk_norm=False)


def shape_of(model: ModelSpec) -> ModelShape | None:
    """The base's shape; None where neither its name is known nor a directory says it."""
    config = Path(model.path) / "config.json"
    if config.is_file():
        return shape_from_config(json.loads(config.read_text(encoding="utf-8")))
    if model.path == SMOLLM2:
        return SMOLLM2_SHAPE
    named = QWEN3_NAME.fullmatch(model.path)
    return QWEN3.get(named[1]) if named else None


def shape_from_config(config: Mapping[str, Any]) -> ModelShape | None:
    """From the content of config.json; None for what is no dense decoder of 16 or 32 bits."""
    if config.get("quantization_config") or config.get("num_experts") or config.get("num_local_experts"):
        return None
    try:
        heads = config["num_attention_heads"]
        return ModelShape(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            qk_norm=str(config.get("model_type", "")).startswith("qwen3"),
        )
    except KeyError:
        return None


def model_mib(model: ModelSpec) -> float | None:
    """Size of the base weights in MiB: of files on disk, else of a known model (bfloat16); None if unknown."""
    if model.path == EMBEDDED:
        return 3.5
    if model.path == SMOLLM2:
        return 513.2  # float32
    directory = Path(model.path)
    files = list(directory.glob("*.safetensors")) if directory.is_dir() else []
    if files:
        return sum(file.stat().st_size for file in files) / 2**20
    shape = shape_of(model)
    return shape.parameters * 2 / 2**20 if shape is not None else None
