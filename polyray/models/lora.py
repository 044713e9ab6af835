"""The LoRA adapter in a model: attached, copied as a frozen reference, saved and merged.

Its weights are float32 for any dtype of the base; its layers compute in that dtype (lora_linear.py). Its directory is
polyray/models/adapter_files.py; its delivery to engines is polyray/weight_sync/.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from polyray.config.model import LoraSpec
from polyray.errors import ConfigError
from polyray.models.adapter_files import put_in_place, read_adapter, read_warm_start, write_adapter
from polyray.models.base_files import MANIFEST, base_fingerprint, hub_name
from polyray.models.loading import load_base
from polyray.models.lora_linear import use_base_dtype
from polyray.models.tokenizer import load_tokenizer

POLICY = "default"
"""PEFT's name for the adapter that is trained."""
REFERENCE = "reference"


def attach_adapter(
    base: PreTrainedModel, spec: LoraSpec, warm_start: Path | None, *, base_sha256: str, seed: int
) -> PeftModel:
    """The base with a trainable adapter: fresh (B = 0, A drawn from `seed`), or the one at `warm_start`.

    Raises ConfigError where `spec` disagrees with the warm start's shape, the warm start is no adapter or
    that of another base, or a target module does not exist in the base.
    """
    _check_targets(base, spec)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        lora_dropout=spec.dropout,
        target_modules=sorted(spec.target_modules),
        task_type="CAUSAL_LM",
    )
    weights = None
    if warm_start is not None:
        weights = safetensors.torch.load(read_warm_start(warm_start, base_sha256, spec))
    with forked_rng(base):
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)
    use_base_dtype(model)
    if weights is not None:
        _load_weights(model, weights, POLICY, str(warm_start))
    return model


def add_reference(model: PeftModel) -> None:
    """Adds a frozen copy of the policy as it is now, as a second adapter; the policy stays active."""
    config = LoraConfig(**{**model.peft_config[POLICY].to_dict(), "inference_mode": True})
    with forked_rng(model):
        model.add_adapter(REFERENCE, config)
    _load_weights(model, adapter_state(model), REFERENCE, "the policy itself")
    model.set_adapter(POLICY)


@contextmanager
def reference_active(model: PeftModel) -> Iterator[None]:
    """Inside, the model is the reference; afterwards the policy again, trainable as before."""
    model.set_adapter(REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(POLICY)


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """The policy's weights under PEFT's names (without the adapter's): float32 copies on the CPU."""
    state = get_peft_model_state_dict(model, adapter_name=POLICY)
    return {
        name: tensor.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
        for name, tensor in sorted(state.items())
    }


def adapter_config(model: PeftModel) -> dict[str, Any]:
    """adapter_config.json as JSON values, sets sorted, ready for inference.

    PEFT has the directory that the base was loaded from. That is no use on another machine and tells of this one: the
    base's name on the hub takes its place, where it has one.
    """
    config = model.peft_config[POLICY].to_dict()
    config["inference_mode"] = True
    config["base_model_name_or_path"] = hub_name(config["base_model_name_or_path"] or "")
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def adapter_bytes(model: PeftModel) -> bytes:
    """The content of adapter_model.safetensors; equal weights give equal bytes."""
    return safetensors.torch.save(adapter_state(model), metadata={"format": "pt"})


def save_adapter(model: PeftModel, directory: Path, manifest: Mapping[str, Any]) -> str:
    """Writes the policy under a temporary name and renames it; an older adapter of that name is replaced.

    `manifest` must hold `base_sha256`; `adapter_sha256` is added. Returns the latter.
    """
    content = adapter_bytes(model)
    return write_adapter(content, adapter_config(model), directory, manifest)


def merge_then_fresh(
    model_dir: Path, warm_start: Path, *, base_sha256: str, dtype: str, target_dir: Path
) -> Path:
    """Writes the base with the adapter merged in below `target_dir`, or finds it; returns its directory.

    The name is the hash of both, so training can start with a fresh adapter on it again and again.
    """
    content, _ = read_adapter(warm_start, base_sha256)
    identity = f"{base_sha256}/{hashlib.sha256(content).hexdigest()}/{dtype}"
    directory = target_dir / f"merged-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if (directory / MANIFEST).is_file():
        return directory
    model = PeftModel.from_pretrained(load_base(model_dir, dtype), str(warm_start))
    merged = model.merge_and_unload(safe_merge=True)  # type: ignore[operator]  # PEFT forwards it to the tuner
    target_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=target_dir))
    merged.save_pretrained(temporary)
    load_tokenizer(model_dir).save_pretrained(temporary)
    manifest = {"merged_from": base_sha256, "base_sha256": base_fingerprint(temporary)}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    put_in_place(temporary, directory)
    return directory


def forked_rng(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Inside, the generators of the CPU and the model's device may be seeded; afterwards they are as before."""
    device = next(model.parameters()).device
    return torch.random.fork_rng(devices=[] if device.type == "cpu" else [device])


def _check_targets(base: PreTrainedModel, spec: LoraSpec) -> None:
    present = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    absent = sorted(set(spec.target_modules) - present)
    if absent:
        raise ConfigError(
            f"model.lora.target_modules names {absent}, which {type(base).__name__} does not have; "
            f"its linear layers are {sorted(_linear_names(base))}"
        )


def _linear_names(base: PreTrainedModel) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _load_weights(model: PeftModel, weights: Mapping[str, Tensor], adapter_name: str, source: str) -> None:
    expected = set(get_peft_model_state_dict(model, adapter_name=adapter_name))
    if set(weights) != expected:
        odd = sorted(expected ^ set(weights))
        raise ConfigError(f"{source}: {len(odd)} tensors do not match this base, the first is {odd[0]}")
    set_peft_model_state_dict(model, dict(weights), adapter_name=adapter_name)
