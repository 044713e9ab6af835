"""Files of a base model: their directory, and the fingerprint of the base. Nothing is loaded here.

Adapters belong to one base: their manifest names its `base_fingerprint`, and every later load compares it. Drivers
need no more than this, and so start without torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from polyray.config.model import EMBEDDED, MANIFEST, SMOLLM2, ModelSpec
from polyray.errors import ConfigError, MissingFile
from polyray.models import smollm2

if TYPE_CHECKING:
    from hashlib import _Hash

SAMPLES_PER_FILE = 16
SAMPLE_BYTES = 64 * 1024
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
LICENCE_FILES = ("README.md", "LICENSE*", "NOTICE*")
"""Files about the licence of a base: its card, and the text."""
HUB_SNAPSHOT = re.compile(r"models--((?:[^/]+--)?[^/]+)/snapshots/[^/]+/*$")
"""End of a path in the hub's cache: the model's name, with -- for /, then the snapshot."""
EMBEDDED_POINTER = "embedded.json"
"""Names the embedded model that was built or reused last."""


def resolve_model_dir(spec: ModelSpec) -> Path:
    """A local directory with config.json and weights: a model of polyray's own, a directory, or a hub snapshot.

    smollm2 is converted at the first call. Raises MissingFile where the embedded model has not been built, smollm2's
    package is not installed or there is no such directory, ConfigError where the directory holds no model, or the hub
    does not give it.
    """
    if spec.path == EMBEDDED:
        return find_embedded(Path(spec.cache_dir))
    if spec.path == SMOLLM2:
        return smollm2.make_smollm2(Path(spec.cache_dir))
    directory = Path(spec.path)
    if directory.exists():
        if not (directory / "config.json").is_file():
            raise ConfigError(f"model.path={spec.path!r} is not a model: config.json is missing")
        return directory
    if directory.is_absolute():
        raise MissingFile(
            f"{directory}: no such file or directory; set model.path to a model in Hugging Face format"
        )
    return _fetch(spec.path)


def is_hub_name(path: str) -> bool:
    """Whether `model.path` names a model of the hub: neither one of polyray's own nor a directory."""
    return path not in (EMBEDDED, SMOLLM2) and not Path(path).is_absolute()


def local_model_dir(spec: ModelSpec) -> Path | None:
    """The base's directory where it is on this machine; None where it would have to be fetched or built."""
    if is_hub_name(spec.path):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(spec.path, local_files_only=True))
        except (HFValidationError, LocalEntryNotFoundError):
            return None
    if spec.path == SMOLLM2:
        return smollm2.find_smollm2(Path(spec.cache_dir))
    try:
        return resolve_model_dir(spec)
    except ConfigError:
        return None


def hub_name(path: str) -> str | None:
    """The name on the hub (OWNER/NAME) of a base that is given by name, as a directory of the hub's cache or as
    smollm2; None for any other directory, and for the embedded model: that would be a path of this machine."""
    if path == SMOLLM2 or Path(path).name == smollm2.DIRECTORY:
        return smollm2.HUB_NAME
    snapshot = HUB_SNAPSHOT.search(path)
    if snapshot is not None:
        return snapshot[1].replace("--", "/", 1)
    is_name = path != EMBEDDED and path.count("/") == 1 and not path.startswith(("/", ".", "~"))
    return path if is_name and not Path(path).exists() else None


def resolve_dtype(spec: ModelSpec, use_gpu: bool) -> str:
    """dtype of the base's weights: "float32", "bfloat16", or "nf4" (linear layers in 4 bits, else bfloat16)."""
    if spec.quantization != "none":
        return spec.quantization
    if spec.dtype != "auto":
        return spec.dtype
    return "bfloat16" if use_gpu else "float32"


def find_embedded(cache_dir: Path) -> Path:
    """The embedded model that polyray pretrain built or reused last. Raises MissingFile where there is none."""
    models_dir = cache_dir.expanduser() / "models"
    pointer = models_dir / EMBEDDED_POINTER
    if pointer.is_file():
        directory = models_dir / json.loads(pointer.read_text(encoding="utf-8"))["directory"]
        if (directory / MANIFEST).is_file():
            return directory
    raise MissingFile(
        f"{pointer}: no such file: model.path='embedded', but {models_dir} holds no embedded model; build it with "
        "`polyray pretrain configs/pretrain.yaml`, or set model.path to a model directory"
    )


def base_fingerprint(model_dir: Path) -> str:
    """sha256 (hex) that tells one base from another without reading all of a large one.

    Covers config.json and, of every weight file, its name, size, safetensors header and 16 samples of 64 KiB
    at even offsets (files of up to 1 MiB are covered whole). Raises ConfigError where there are no
    safetensors weights.
    """
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{model_dir} has no *.safetensors weights; convert the model to that format")
    digest = hashlib.sha256((model_dir / "config.json").read_bytes())
    for file in files:
        _hash_weights(file, digest)
    return digest.hexdigest()


def _hash_weights(file: Path, digest: _Hash) -> None:
    size = file.stat().st_size
    digest.update(json.dumps([file.name, size]).encode())
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        digest.update(stream.read(header_size))
        body = 8 + header_size
        last = max(body, size - SAMPLE_BYTES)
        for sample in range(SAMPLES_PER_FILE):
            stream.seek(body + (last - body) * sample // (SAMPLES_PER_FILE - 1))
            digest.update(stream.read(SAMPLE_BYTES))


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*MODEL_FILES, *LICENCE_FILES]))
    except (
        Exception
    ) as error:  # the hub client raises anything from its own errors to those of the HTTP library
        raise ConfigError(
            f"model.path={name!r} is neither a directory here nor a model the hub gives "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); "
            f"give a directory in Hugging Face format, a hub name that is reachable, or {EMBEDDED!r}"
        ) from error
