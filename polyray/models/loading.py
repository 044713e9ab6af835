"""The base model and its tokenizer, loaded from files that polyray/models/base_files.py has found."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar


def load_base(model_dir: Path, dtype: str) -> PreTrainedModel:
    """The base on the CPU, in eval mode, with torch's fused attention."""
    disable_progress_bar()  # a job has its own display
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
    )
    return model.eval()


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """The base's own tokenizer."""
    return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
