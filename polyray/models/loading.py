"""The base model, loaded from files that polyray/models/base_files.py has found.

Attention is torch's own (sdpa), and no other is offered; models that can be packed take it tree by tree
(tree_attention.py). Completions that share their prompt, or rows in one sequence, need a mask of pairs; the kernels
of the flash-attn package support causal rows and windows only. Rows beside each other run without a mask, so that
torch may choose its own flash kernel for them on a GPU in 16 bits.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from polyray.config.model import NF4
from polyray.errors import ConfigError
from polyray.models.packing import PACKABLE_MODEL_TYPES
from polyray.models.products import use_onednn
from polyray.models.tree_attention import use_tree_attention

NF4_COMPUTES_IN = torch.bfloat16
"""Compute dtype of 4-bit layers; the engine's kernels use it regardless of their settings."""


def load_base(model_dir: Path, dtype: str, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The base on `device`, in eval mode, with torch's fused attention.

    `dtype`: "float32", "bfloat16", or "nf4" for linear layers in 4 bits (see `_in_4_bits`). Raises ConfigError where
    that cannot be.
    """
    disable_progress_bar()  # a job has its own display
    if dtype == NF4:
        model: Any = _in_4_bits(model_dir, device)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
        )
        model.to(device)
    if model.config.model_type in PACKABLE_MODEL_TYPES:
        use_tree_attention(model)
    use_onednn(model)
    return model.eval()


def _in_4_bits(model_dir: Path, device: torch.device | str) -> PreTrainedModel:
    """NF4 with double quantisation in blocks of 64 (Dettmers et al. 2023, QLoRA); embedding, head and norms are
    bfloat16.

    Quantised on `device` from the numbers as they are stored: the engine does so too, and rounding a float32 base to
    bfloat16 first would give other 4-bit values.
    """
    check_can_quantise(model_dir)
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=NF4_COMPUTES_IN,
    )
    model = AutoModelForCausalLM.from_pretrained(
        model_dir,
        dtype="auto",
        quantization_config=settings,
        device_map={"": _with_index(torch.device(device))},
        attn_implementation="sdpa",
        local_files_only=True,
    )
    for parameter in model.parameters():
        if parameter.is_floating_point():  # 4-bit weights are stored as bytes
            parameter.data = parameter.data.to(NF4_COMPUTES_IN)
    model.config.dtype = NF4_COMPUTES_IN
    layer: Any
    for layer in model.modules():
        # On CPUs with AVX512-BF16 a pass without gradients repacks the weights for a kernel that has no backward
        # pass, and training in eval mode would continue without the layer's gradient.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def _with_index(device: torch.device) -> str:
    """ "cuda" alone is no place where accelerate would put a module."""
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    return device.type if index is None else f"{device.type}:{index}"


def check_can_quantise(model_dir: Path) -> None:
    """Raises ConfigError where a base cannot be held in 4 bits here: no bitsandbytes, or quantised already."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.quantization=nf4 needs bitsandbytes, which is not installed; pip install -r requirements/gpu.txt, "
            "or set model.quantization=none"
        )
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        raise ConfigError(
            f"model.quantization=nf4, but {model_dir} is quantised already; set model.path to the model in 16 bits, "
            "or model.quantization=none"
        )
