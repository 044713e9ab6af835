"""An adapter's directory: written at once or not at all, checked against its base and its own hash when it is read.

It is plain PEFT (adapter_config.json, adapter_model.safetensors: it loads with
`PeftModel.from_pretrained(base, directory)`) plus polyray.json, the manifest: which base it belongs to and the hash
of its weights. Adapters inside a model are polyray/models/lora.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyray.config.model import LoraSpec
from polyray.errors import ConfigError, MissingFile, WeightSyncError
from polyray.models.adapter import AdapterShape, refuse_changed_base
from polyray.models.base_files import MANIFEST

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(
    content: bytes, config: Mapping[str, Any], directory: Path, manifest: Mapping[str, Any]
) -> str:
    """Writes an adapter under a temporary name and renames it; an older one of that name is replaced.

    `manifest` must hold `base_sha256`; `adapter_sha256` is added. Returns the latter.
    """
    digest = hashlib.sha256(content).hexdigest()
    complete = {"base_sha256": manifest["base_sha256"], **manifest, "adapter_sha256": digest}
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    (temporary / WEIGHTS_FILE).write_bytes(content)
    (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    (temporary / MANIFEST).write_text(json.dumps(complete, indent=2, sort_keys=True), encoding="utf-8")
    put_in_place(temporary, directory)
    return digest


def read_adapter(directory: Path, base_sha256: str) -> tuple[bytes, dict[str, Any]]:
    """(content of adapter_model.safetensors, adapter_config.json) of an adapter of this base.

    An adapter of other software has no manifest and is taken as it is. Raises MissingFile where there is no such
    directory, ConfigError for one that is no LoRA adapter, one that is damaged, or an adapter of another base.
    """
    if not directory.exists():
        raise MissingFile(
            f"{directory}: no such file or directory; give the directory of an adapter in PEFT format"
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise ConfigError(
                f"{directory} is not an adapter: {name} is missing; give a directory in PEFT format"
            )
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{directory} holds a {config.get('peft_type')} adapter; only LORA is supported")
    with _as_config_error(directory):
        refuse_changed_base(config)
    content = (directory / WEIGHTS_FILE).read_bytes()
    if (directory / MANIFEST).is_file():
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        _check_manifest(manifest, content, directory, base_sha256)
    return content, config


def read_warm_start(directory: Path, base_sha256: str, spec: LoraSpec) -> bytes:
    """The weights of an adapter to continue from, which `spec` must describe.

    An rsLoRA adapter continues as plain LoRA of the same scale. Raises ConfigError as `read_adapter`, for an adapter
    that is not plain LoRA, and for another rank, scale or set of modules.
    """
    content, config = read_adapter(directory, base_sha256)
    with _as_config_error(directory):
        shape = AdapterShape.from_peft(config)
    modules = sorted({name.rpartition(".")[2] for name in shape.target_modules})
    alpha = shape.scale * shape.rank if shape.use_rslora else shape.alpha
    why = f" (rsLoRA with lora_alpha={shape.alpha:g})" if shape.use_rslora else ""
    found = {
        "rank": (str(shape.rank), shape.rank == spec.rank, spec.rank),
        "alpha": (f"{alpha}{why}", math.isclose(alpha, spec.alpha, rel_tol=1e-6), spec.alpha),
        "target_modules": (str(modules), modules == sorted(spec.target_modules), sorted(spec.target_modules)),
    }
    for key, (value, is_same, wanted) in found.items():
        if not is_same:
            raise ConfigError(
                f"warm start {directory} has {key}={value}, but model.lora.{key}={wanted}; "
                f"training continues in the same adapter, so set model.lora.{key}={value.removesuffix(why)}"
            )
    return content


def start_manifest(run: str, base_sha256: str, warm_start: str | None) -> dict[str, Any]:
    """The manifest of a run's adapters: its name, and the fingerprints of the base and the warm start it began on."""
    content = None if warm_start is None else (Path(warm_start) / WEIGHTS_FILE).read_bytes()
    digest = None if content is None else hashlib.sha256(content).hexdigest()
    return {"base_sha256": base_sha256, "warm_start_sha256": digest, "run": run}


def put_in_place(temporary: Path, directory: Path) -> None:
    """Renames a finished directory to its name; one that has the name already goes once the new one is there."""
    temporary.chmod(0o755)
    if directory.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
        directory.rename(old / directory.name)
        temporary.rename(directory)
        shutil.rmtree(old)
    else:
        temporary.rename(directory)


def check_same_start(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raises ConfigError where a checkpoint's adapter began on another base or warm start than the run does now.

    `manifest`: of the run as it is started. A checkpoint without a fingerprint is not compared.
    """
    saved = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    for key, name, setting in (
        ("base_sha256", "base", "model.path"),
        ("warm_start_sha256", "warm start", "model.warm_start"),
    ):
        if key in saved and saved[key] != manifest[key]:
            raise ConfigError(
                f"{directory} began on the {name} {_short(saved[key])}, but {setting} is now "
                f"{_short(manifest[key])}; put the files of {setting} back as they were, or start a run under "
                "another name"
            )


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else sha256[:12]


@contextmanager
def _as_config_error(directory: Path) -> Iterator[None]:
    """Inside, a WeightSyncError becomes a ConfigError that names the adapter: the user gave it."""
    try:
        yield
    except WeightSyncError as error:
        raise ConfigError(f"{directory}: {error}") from error


def _check_manifest(manifest: Mapping[str, Any], content: bytes, directory: Path, base_sha256: str) -> None:
    if manifest["base_sha256"] != base_sha256:
        raise ConfigError(
            f"{directory} belongs to the base {manifest['base_sha256'][:12]}, "
            f"but this model is {base_sha256[:12]}; set model.path to the base it was trained on, "
            "or train the adapter anew on this one"
        )
    digest = hashlib.sha256(content).hexdigest()
    if manifest["adapter_sha256"] != digest:
        raise ConfigError(
            f"{directory / WEIGHTS_FILE} has sha256 {digest[:12]}, its manifest says "
            f"{manifest['adapter_sha256'][:12]}: the file is damaged; restore or retrain the adapter"
        )
