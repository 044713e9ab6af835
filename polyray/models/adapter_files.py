"""An adapter's directory: written at once or not at all, checked against its base and its own hash when it is read.

It is plain PEFT (adapter_config.json, adapter_model.safetensors: it loads with
`PeftModel.from_pretrained(base, directory)`) plus polyray.json, the manifest: which base it belongs to and the hash
of its weights. Adapters inside a model are polyray/models/lora.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyray.errors import ConfigError
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

    An adapter of other software has no manifest and is taken as it is. Raises ConfigError for a directory
    that is no LoRA adapter, one that is damaged, or an adapter of another base.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise ConfigError(
                f"{directory} is no adapter: {name} is missing; give a directory in PEFT format"
            )
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{directory} holds a {config.get('peft_type')} adapter; only LORA is supported")
    content = (directory / WEIGHTS_FILE).read_bytes()
    if (directory / MANIFEST).is_file():
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        _check_manifest(manifest, content, directory, base_sha256)
    return content, config


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
