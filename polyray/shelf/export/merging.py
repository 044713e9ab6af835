"""A base model with an adapter merged in, as a directory in Hugging Face format: file by file, so that no more than
one weight file is held. Called by polyray export; merging for engines is polyray/weight_sync/merge.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from polyray.errors import ConfigError
from polyray.models.adapter import AdapterShape
from polyray.models.base_files import LICENCE_FILES, MANIFEST, MODEL_FILES, base_fingerprint
from polyray.weight_sync.merge import adapter_from_bytes, base_weight_files, merged_weight, paired_factors

INDEX = "model.safetensors.index.json"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Merged:
    """Summary of a merged model, e.g. Merged(dtype="bfloat16", num_merged=252, lost_share=.31)."""

    dtype: str
    num_merged: int
    """Weights that the adapter changed."""
    lost_share: float
    """Norm of what rounding to the dtype changed in them, relative to the norm of the adapter's own change."""


def write_merged(
    model_dir: Path, content: bytes, adapter: dict[str, Any], target: Path, dtype: str | None = None
) -> Merged:
    """Writes W0 + scale B A, and everything else as it is, into the empty directory `target`.

    `content`, `adapter`: an adapter's weights and configuration (adapter_files.read_adapter). `dtype` None keeps
    every weight's own. Raises ConfigError for a quantised base or an adapter of another one, WeightSyncError for an
    adapter that is not plain LoRA.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        raise ConfigError(
            f"{model_dir} is quantised and cannot be merged into; export with --adapter, or set model.path to the "
            "model in 16 bits"
        )
    shape = AdapterShape.from_peft(adapter)
    pairs = paired_factors(adapter_from_bytes(content))
    merging = _Merging(shape, pairs, None if dtype is None else getattr(torch, dtype))
    files = base_weight_files(model_dir)
    for file in sorted(set(files.values())):
        merging.rewrite(file, target / file.name)
    if merging.pairs:
        raise ConfigError(
            f"the adapter changes {sorted(merging.pairs)[0]}, which {model_dir} does not have; it belongs to another "
            "base"
        )
    _copy_others(model_dir, target)
    _settle_config(target, dtype, merging.num_bytes)
    return Merged(merging.largest_dtype, merging.num_merged, merging.lost_share)


class _Merging:
    """Rewrites weight files; counts what it did."""

    def __init__(
        self,
        shape: AdapterShape,
        pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
        dtype: torch.dtype | None,
    ) -> None:
        self._shape = shape
        self.pairs = pairs
        """LoRA pairs that have not been merged yet."""
        self._dtype = dtype
        self._dtypes: dict[str, int] = {}
        self.num_merged = self.num_bytes = 0
        self._lost = self._changed = 0.0

    @property
    def lost_share(self) -> float:
        """See Merged."""
        return (self._lost / self._changed) ** 0.5 if self._changed > 0 else 0.0

    @property
    def largest_dtype(self) -> str:
        """dtype of most of the bytes."""
        return max(self._dtypes, key=lambda name: self._dtypes[name])

    def rewrite(self, source: Path, target: Path) -> None:
        """One file, its tensors in the same order and its metadata as they were."""
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(str(source), framework="pt") as opened:
            metadata = opened.metadata()
            for name in opened.keys():  # noqa: SIM118  # it is no dictionary
                tensors[name] = self._written(name, opened.get_tensor(name))
        safetensors.torch.save_file(tensors, target, metadata=metadata or {"format": "pt"})
        target.chmod(0o644)

    def _written(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        dtype = self._dtype if self._dtype is not None and weight.is_floating_point() else weight.dtype
        result = weight.to(dtype)
        pair = self.pairs.pop(name, None)
        if pair is not None:
            exact = merged_weight(name, weight.float(), *pair, self._shape)
            result = exact.to(dtype)
            self._changed += float((exact - weight.float()).double().square().sum())
            self._lost += float((result.float() - exact).double().square().sum())
            self.num_merged += 1
        size = result.numel() * result.element_size()
        self.num_bytes += size
        plain = str(dtype).removeprefix("torch.")
        self._dtypes[plain] = self._dtypes.get(plain, 0) + size
        return result.contiguous()


def _copy_others(model_dir: Path, target: Path) -> None:
    """Configuration, tokenizer and licence; the card is written anew, and so is our manifest."""
    for pattern in (*MODEL_FILES, *LICENCE_FILES):
        for file in model_dir.glob(pattern):
            if file.suffix != ".safetensors" and file.name not in (CARD, MANIFEST):
                shutil.copyfile(file, target / file.name)


def _settle_config(target: Path, dtype: str | None, num_bytes: int) -> None:
    """Write another dtype into the files that name it or its size."""
    if dtype is None:
        return
    path = target / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    named = [key for key in ("dtype", "torch_dtype") if key in config]
    path.write_text(json.dumps(config | dict.fromkeys(named or ["dtype"], dtype), indent=2), encoding="utf-8")
    index = target / INDEX
    if index.is_file():
        values = json.loads(index.read_text(encoding="utf-8"))
        values["metadata"] = {**values.get("metadata", {}), "total_size": num_bytes}
        index.write_text(json.dumps(values, indent=2), encoding="utf-8")


def write_manifest(target: Path, base_sha256: str, adapter_sha256: str) -> None:
    """Write polyray.json of a merged model, after its weights: it is a base of its own."""
    manifest = {
        "merged_from": base_sha256,
        "merged_adapter_sha256": adapter_sha256,
        "base_sha256": base_fingerprint(target),
    }
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
