"""One base with several adapters: what each attends to and holds in its layers, at tokens that are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from polyray.errors import ConfigError
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base

BATCH_BYTES = 256 * 2**20
"""Limit of attention weights that exist at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as tokens.

    Example:
        Row(prompt_ids=(1, 9, 4), completion_ids=(5, 5, 2))
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Seen:
    """Attention and states of one policy at the completion tokens of one row.

    Example:
        Seen(attention=torch.rand(4, 4, 6, 16), states=torch.rand(5, 128))
    """

    attention: Tensor | None
    """[layers, heads, completion tokens, tokens] float32; None if not requested."""
    states: Tensor
    """[layers + 1, d] float32: mean over the completion's tokens, of the embeddings and behind each layer."""


class Policies:
    """The base is loaded once, the adapters beside each other."""

    def __init__(self, model_dir: Path, adapters: Mapping[str, Path | None], dtype: str = "float32") -> None:
        """`adapters`: name -> directory, None for the base itself.

        Raises ConfigError for a directory that is no adapter of this base, and for a base with layers that have
        no attention weights.
        """
        base_sha256 = base_fingerprint(model_dir)
        for directory in adapters.values():
            if directory is not None:
                read_adapter(directory, base_sha256)
        base = load_base(model_dir, dtype)
        base.set_attn_implementation("eager")  # the fused kernels keep no weights
        self._keys = {
            name: f"policy{number}" for number, name in enumerate(adapters) if adapters[name] is not None
        }
        self._model: torch.nn.Module = base
        for name, key in self._keys.items():
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(str(adapters[name]), key)
            else:
                self._model = PeftModel.from_pretrained(base, str(adapters[name]), adapter_name=key)
        self._model.eval()
        self._config = base.config

    @torch.inference_mode()
    def look(self, name: str, rows: Sequence[Row], attention: bool) -> Iterator[Seen]:
        """The rows as the policy `name` reads them, in order."""
        batch_rows = self.batch_rows(max(map(len, rows), default=1)) if attention else 64
        for start in range(0, len(rows), batch_rows):
            with self._active(name):
                yield from self._look(rows[start : start + batch_rows], attention)

    def batch_rows(self, length: int) -> int:
        """Rows of so many tokens with attention weights that fit into BATCH_BYTES."""
        per_row = 4 * self._config.num_hidden_layers * self._config.num_attention_heads * length**2
        return max(1, BATCH_BYTES // per_row)

    def _look(self, rows: Sequence[Row], attention: bool) -> Iterator[Seen]:
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = torch.tensor([*row.prompt_ids, *row.completion_ids])
        # Right padding needs no mask: a causal model's real tokens never see what comes after them.
        output = self._model(
            input_ids=tokens, use_cache=False, output_hidden_states=True, output_attentions=attention
        )
        if attention and (not output.attentions or any(layer is None for layer in output.attentions)):
            raise ConfigError(
                f"{self._config.model_type} gives no attention weights of some layer; use a model with attention in "
                "all layers"
            )
        for number, row in enumerate(rows):
            at = slice(len(row.prompt_ids), len(row))
            patterns = None
            if attention:
                patterns = torch.stack(
                    [layer[number, :, at, : len(row)] for layer in output.attentions]
                ).float()
            states = torch.stack([layer[number, at].float().mean(0) for layer in output.hidden_states])
            yield Seen(patterns, states)

    @contextmanager
    def _active(self, name: str) -> Iterator[None]:
        key = self._keys.get(name)
        model = self._model
        if not isinstance(model, PeftModel):
            yield
            return
        if key is not None:
            model.set_adapter(key, inference_mode=True)
        with model.disable_adapter() if key is None else nullcontext():
            yield
