"""The tokenizer of a base, without torch where its class allows that: a job measures prompts before it starts Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from polyray.data.chat import check_can_end
from polyray.errors import ConfigError, boundary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that are tokenizer.json and nothing else. Their import takes a second, AutoTokenizer's brings torch."""


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """The base's own tokenizer. Raises ConfigError where it cannot be loaded."""
    with boundary(ConfigError, f"the tokenizer of {model_dir} cannot be loaded"):
        if _class_of(model_dir) in GENERIC:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(model_dir, local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)


def usable_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a base; raises ConfigError where no completion of the base can end."""
    tokenizer = load_tokenizer(model_dir)
    known = json.loads((model_dir / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    check_can_end(tokenizer, known)
    return tokenizer


def _class_of(model_dir: Path) -> str | None:
    """`tokenizer_class` of tokenizer_config.json; None where that does not say."""
    file = model_dir / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class") if file.is_file() else None
