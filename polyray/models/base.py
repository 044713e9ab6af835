"""The base of a run: its directory, its fingerprint, and the adapter that training continues.

    ModelSpec --find_base--> Base --merge_warm_start--> Base of training

Nothing is loaded, except for a warm start that is merged into a base of its own.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from polyray.config.model import SMOLLM2, ModelSpec
from polyray.errors import MissingFile, MissingFiles
from polyray.models import smollm2
from polyray.models.adapter_files import check_same_start, read_adapter, read_warm_start, start_manifest
from polyray.models.base_files import (
    MANIFEST,
    base_fingerprint,
    is_hub_name,
    local_model_dir,
    resolve_dtype,
    resolve_model_dir,
)


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this machine.

    Example:
        Base(Path("/models/qwen"), sha256="9f86...", warm_start=Path("/runs/sft/adapter"))
    """

    directory: Path
    sha256: str
    """See `base_fingerprint`."""
    warm_start: Path | None = None
    """Adapter that training continues."""

    @property
    def is_quantised(self) -> bool:
        """Whether the weights are stored quantised."""
        file = self.directory / "config.json"
        return file.is_file() and bool(json.loads(file.read_text("utf-8")).get("quantization_config"))

    def check_same_start(self, checkpoints: Path, run: str) -> None:
        """Raises ConfigError if the newest checkpoint began on another base or another warm start."""
        warm_start = None if self.warm_start is None else str(self.warm_start)
        manifest = start_manifest(run, self.sha256, warm_start)
        for checkpoint in sorted(checkpoints.glob(f"step-*/adapter/{MANIFEST}"))[-1:]:
            check_same_start(checkpoint.parent, manifest)


def resolve_base(spec: ModelSpec) -> Base:
    """Finds a base and merges its warm start if the configuration says so. Raises ConfigError and MissingFile."""
    missing = MissingFiles()
    base = find_base(spec, missing)
    missing.raise_if_any()
    assert base is not None
    return merge_warm_start(base, spec)


def find_base(spec: ModelSpec, missing: MissingFiles, *, only_look: bool = False) -> Base | None:
    """Reads the fingerprints of a base and its warm start; returns None if the base is not on this machine.

    `missing` notes files that are not there. With `only_look` a base of the hub is not fetched and smollm2 is not
    converted: stderr names it.
    Raises ConfigError for a base or a warm start that cannot be used.
    """
    base = None
    with missing.noted():
        at_first_use = spec.path == SMOLLM2 or is_hub_name(spec.path)
        model_dir = local_model_dir(spec) if only_look and at_first_use else resolve_model_dir(spec)
        if model_dir is None:
            if spec.path == SMOLLM2:
                smollm2.find_source()
            how = "makes" if spec.path == SMOLLM2 else "fetches"
            print(f"note: model.path={spec.path} is not on this machine; the job {how} it", file=sys.stderr)
        else:
            warm_start = Path(spec.warm_start) if spec.warm_start else None
            base = Base(model_dir, base_fingerprint(model_dir), warm_start)
    if spec.warm_start:
        with missing.noted():
            if base is not None and spec.warm_start_mode == "continue":
                read_warm_start(Path(spec.warm_start), base.sha256, spec.lora)
            else:
                check_adapter(Path(spec.warm_start), base)
    return base


def check_adapter(directory: Path, base: Base | None) -> None:
    """Reads an adapter; checks only that it is there if its base is None. Raises ConfigError and MissingFile."""
    if base is not None:
        read_adapter(directory, base.sha256)
    elif not directory.exists():
        raise MissingFile(f"{directory}: no such file or directory; give the directory of an adapter")


def merge_warm_start(base: Base, spec: ModelSpec) -> Base:
    """With `warm_start_mode: merge_then_fresh`, the base that the warm start is merged into; else `base` itself."""
    if base.warm_start is None or spec.warm_start_mode == "continue":
        return base
    from polyray.models.lora import merge_then_fresh

    merged = merge_then_fresh(
        base.directory,
        base.warm_start,
        base_sha256=base.sha256,
        dtype="float32",
        target_dir=Path(spec.cache_dir) / "merged",
    )
    return Base(merged, base_fingerprint(merged))


def held_as(spec: ModelSpec, base: Base, use_gpu: bool) -> str:
    """Dtype in which a base is held. Raises ConfigError if it cannot be quantised as asked."""
    if spec.quantization != "none":
        from polyray.models.loading import check_can_quantise

        check_can_quantise(base.directory)
    return resolve_dtype(spec, use_gpu)
