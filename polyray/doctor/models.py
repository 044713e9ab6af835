"""The doctor's checks of loading: sentence encoder, base model, engine (not a job itself).

`python -m polyray.doctor.models '{"model": {"path": ...}}'` or '{"encoder": ...}' loads one and prints what it saw as
JSON: in a separate process, so that its memory is freed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.config.loader import build_config, read_value
from polyray.config.model import ModelSpec
from polyray.doctor.findings import GIB, REINSTALL, Finding, Level, command, installed_version, look
from polyray.doctor.gpu import driver_cuda
from polyray.doctor.machine import available_memory
from polyray.doctor.packages import GPU_ENGINE
from polyray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOK = ("-m", "polyray.doctor.models")
LOADING_TIMEOUT_S = 300.0
ENGINE_ROUND = ("-m", "polyray.doctor.engine_check")
ENGINE_TIMEOUT_S = 300.0
ENGINE_CHECK = "tiny generate and delivery"
PACKAGED = "packaged"
WITH_ENCODERS = (
    "task",
    "reward",
    "second_opinion",
    "diversity",
    "dynamics",
    "evaluation",
    "encoder",
    "objective",
)
"""Top-level keys of configurations below which an encoder may be named."""
SHARE_OF_MEMORY = 0.5
"""A model above it is not loaded as a whole."""


def check_encoder(name: str | None = None) -> Iterator[Finding]:
    """Embeds two texts. None: the packaged one, which only tasks in prose need."""
    level: Level = "warn" if name is None else "FAIL"
    name = name or PACKAGED
    seen, error = look(
        (*LOOK, json.dumps({"encoder": name})), LOADING_TIMEOUT_S, {"CUDA_VISIBLE_DEVICES": ""}
    )
    if error := error or seen.get("error", ""):
        fix = (
            REINSTALL
            if name == PACKAGED
            else "give a directory or a hub name of a sentence-transformers model"
        )
        yield Finding(level, f"encoder {name}: {error}", fix)
        return
    yield Finding(
        "ok", f"encoder {name}: {seen['dimension']} dimensions, {seen['max_tokens']} tokens of a text"
    )


def check_model(model: ModelSpec) -> Iterator[Finding]:
    """Finds the base and its tokenizer, and loads it where half of the free memory holds it."""
    asked = json.dumps({"model": model.model_dump(mode="json")})
    seen, error = look((*LOOK, asked), LOADING_TIMEOUT_S, {"CUDA_VISIBLE_DEVICES": ""})
    what = f"model {model.path}"
    if error := error or seen.get("error", ""):
        said, _, fix = error.rpartition("; ")
        yield Finding(
            "FAIL", f"{what}: {said or error}", fix if said else "fetch it again, or give another one"
        )
        return
    size = f"{seen['bytes'] / 2**20:,.0f} MiB of weights"
    if seen["missing"]:
        yield Finding(
            "FAIL", f"{what}: {', '.join(seen['missing'])} missing", "fetch it again, all its files"
        )
    elif seen["no_targets"]:
        absent = ", ".join(seen["no_targets"])
        yield Finding(
            "FAIL", f"{what} has no module {absent}", "set model.lora.target_modules to what it has"
        )
    elif seen["loaded"]:
        yield Finding("ok", f"{what}: {size}, loaded, answers with finite log-probs")
    else:
        free = available_memory() / GIB
        yield Finding("ok", f"{what}: {size}, complete; not loaded with {free:.1f} GiB of memory free")


def check_engine() -> Iterator[Finding]:
    """A tiny random model in an engine, in a child process: a delivery with proof, a group, an RL step.

    On the GPU with vLLM's CUDA build, which knows no CPU; with the CPU build GPUs are hidden.
    """
    on_gpu = installed_version(GPU_ENGINE) is not None
    if on_gpu and driver_cuda() is None:
        yield Finding(
            "warn", f"{ENGINE_CHECK}: not without a GPU, vLLM is the CUDA build", "run it on a GPU machine"
        )
        return
    started = time.monotonic()
    environment = {"OMP_NUM_THREADS": "1", **({} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""})}
    seen, error = look(ENGINE_ROUND, ENGINE_TIMEOUT_S, environment)
    again = command(ENGINE_ROUND)
    if error.startswith("not done after"):
        fix = f"end what else uses the processor and memory, then run it alone: {again}"
        yield Finding("FAIL", f"{ENGINE_CHECK}: {error}", fix)
    elif error:
        yield Finding("FAIL", f"{ENGINE_CHECK}: {error}", f"{REINSTALL}; in full: {again}")
    else:
        yield Finding(
            "ok",
            f"{ENGINE_CHECK} on {seen['device']}: {time.monotonic() - started:.0f} s, proven within "
            f"{seen['probe_difference']:.0e} nats, sampled log-probs within {seen['logprob_difference_max']:.0e}",
        )


def model_and_encoders(config: str) -> tuple[ModelSpec | None, list[str]]:
    """Model and encoders that a job's configuration loads. Raises ConfigError if it cannot be read."""
    model = read_value(config, (), "model")
    if model is not None and not isinstance(model, Mapping):
        raise ConfigError(f"{config}: model={model!r} is not a section; see configs/train/ for one")
    spec = None if model is None else build_config(ModelSpec, dict(model), f"{config}: model")
    named = [name for key in WITH_ENCODERS for name in _encoders({key: read_value(config, (), key)})]
    return spec, list(dict.fromkeys(name for name in named if name != "auto"))


def _encoders(value: Any) -> Iterator[str]:
    """The values of all keys called encoder: a name, or a section with one."""
    if not isinstance(value, Mapping):
        return
    for key, entry in value.items():
        if key == "encoder" and isinstance(entry, str):
            yield entry
        elif key == "encoder" and isinstance(entry, Mapping):
            yield str(entry.get("name", PACKAGED))
        else:
            yield from _encoders(entry)


def _look_at_encoder(name: str) -> dict[str, Any]:
    from polyray.models.embedder import Embedder

    encoder = Embedder(name)
    shape = encoder.encode(["A dog slept.", "The market fell."]).shape
    return {"dimension": shape[1], "max_tokens": encoder.max_tokens}


def _look_at_model(spec: ModelSpec) -> dict[str, Any]:
    from safetensors import safe_open

    from polyray.models.adapter_files import read_adapter, read_warm_start
    from polyray.models.base_files import base_fingerprint, resolve_model_dir
    from polyray.models.tokenizer import load_tokenizer

    directory = resolve_model_dir(spec)
    fingerprint = base_fingerprint(directory)
    if spec.warm_start is not None and spec.warm_start_mode == "continue":
        read_warm_start(Path(spec.warm_start), fingerprint, spec.lora)
    elif spec.warm_start is not None:
        read_adapter(Path(spec.warm_start), fingerprint)
    files = sorted(directory.glob("*.safetensors"))
    names: list[str] = []
    for file in files:
        with safe_open(file, framework="np") as tensors:
            names += tensors.keys()
    modules = {name.split(".")[-2] for name in names if name.endswith(".weight") and "." in name}
    size = sum(file.stat().st_size for file in files)
    num_tokens = len(load_tokenizer(directory))
    seen = {
        "bytes": size,
        "missing": _missing_shards(directory, files),
        "no_targets": sorted(set(spec.lora.target_modules) - modules),
        "loaded": False,
    }
    if not seen["missing"] and size < SHARE_OF_MEMORY * available_memory():
        _answer_once(directory, list(range(min(8, num_tokens))))
        seen["loaded"] = True
    return seen


def _missing_shards(directory: Path, files: Sequence[Path]) -> list[str]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shards - {file.name for file in files})


def _answer_once(directory: Path, tokens: list[int]) -> None:
    import torch

    from polyray.models.loading import load_base

    with torch.no_grad():
        model: Any = load_base(directory, "bfloat16")
        logprobs = model(input_ids=torch.tensor([tokens])).logits.float().log_softmax(-1)
    if not bool(torch.isfinite(logprobs).all()):
        raise ConfigError(f"{directory} answers with log-probs that are not numbers; fetch its weights again")


def _look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The requested facts, or the error that a job would end with."""
    try:
        if "encoder" in asked:
            return _look_at_encoder(asked["encoder"])
        return _look_at_model(ModelSpec.model_validate(asked["model"]))
    except ConfigError as error:
        return {"error": " ".join(str(error).split())}


if __name__ == "__main__":
    print(json.dumps(_look(json.loads(sys.argv[1]))))
