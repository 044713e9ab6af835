"""Checkpoints: everything a learner needs to go on as if nothing had happened, in safetensors and JSON.

    checkpoints/step-000020/  adapter/              PEFT format
                              optimizer.safetensors moments by parameter name
                              rng.safetensors       torch's generator state
                              state.json            step, schedule, the caller's own (coordinator's snapshot)
                              manifest.json         sha256 of all of them, written last

The newest checkpoint whose hashes hold is the one that counts; a half-written or damaged one is passed over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from polyray.errors import CheckpointError
from polyray.models.lora import POLICY, WEIGHTS_FILE, save_adapter
from polyray.observability.atomic import atomic_directory

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A valid checkpoint on disk.

    Example:
        Checkpoint(step=20, directory=Path("runs/x/checkpoints/step-000020"), extra={"coordinator": {...}})
    """

    step: int
    directory: Path
    extra: Mapping[str, Any]


def save_checkpoint(
    checkpoints_dir: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    adapter_manifest: Mapping[str, Any],
    extra: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes checkpoint `step` and removes all but the newest `keep`.

    Later ones go too: only a damaged one, which `newest_checkpoint` passed over, can be later.
    """
    target = checkpoints_dir / f"step-{step:06d}"
    with atomic_directory(target) as directory:
        save_adapter(model, directory / "adapter", dict(adapter_manifest))
        save_file(_moments(model, optimizer), directory / "optimizer.safetensors")
        save_file({"torch": torch.get_rng_state()}, directory / "rng.safetensors")
        state = {"step": step, "scheduler": _plain(scheduler.state_dict()), "extra": extra}
        (directory / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        (directory / MANIFEST).write_text(json.dumps(_hashes(directory), indent=1), encoding="utf-8")
    directories = sorted(checkpoints_dir.glob("step-*"))
    end = directories.index(target) + 1
    for directory in (*directories[end:], *directories[:end][:-keep]):
        shutil.rmtree(directory)
    return target


def newest_checkpoint(checkpoints_dir: Path) -> Checkpoint | None:
    """The newest checkpoint whose hashes hold; None where there is none at all.

    Raises CheckpointError where all of them are damaged: starting anew would throw the run away.
    """
    directories = sorted(checkpoints_dir.glob("step-*"), reverse=True)
    for directory in directories:
        if not _is_valid(directory):
            continue
        state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        return Checkpoint(state["step"], directory, state["extra"])
    if directories:
        raise CheckpointError(
            f"{checkpoints_dir} holds {len(directories)} checkpoints and none is valid, the newest is "
            f"{directories[0].name}; restore the files, or remove the directory to start from step 0"
        )
    return None


def restore_checkpoint(
    checkpoint: Checkpoint,
    model: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Puts weights, moments, schedule and generator back, bit for bit."""
    weights = load_file(checkpoint.directory / "adapter" / WEIGHTS_FILE)
    set_peft_model_state_dict(model, weights, adapter_name=POLICY)
    tensors = load_file(checkpoint.directory / "optimizer.safetensors")
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for key, value in tensors.items():
        field, _, name = key.partition("|")
        if name not in named:
            raise CheckpointError(
                f"{checkpoint.directory} has moments of {name}, which this model does not train"
            )
        parameter = named[name]
        # As the optimiser keeps them: step counts on the CPU, moments beside their parameter.
        optimizer.state[parameter][field] = value if field == "step" else value.to(parameter.device)
    state = json.loads((checkpoint.directory / "state.json").read_text(encoding="utf-8"))
    scheduler.load_state_dict({**scheduler.state_dict(), **state["scheduler"]})
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    torch.set_rng_state(load_file(checkpoint.directory / "rng.safetensors")["torch"])


def _moments(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{field}|{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a scheduler's state that is numbers (its functions are rebuilt from the configuration)."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, int | float | list) and key != "lr_lambdas"
    }


def _hashes(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _is_valid(directory: Path) -> bool:
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return False
    try:
        expected = json.loads(manifest.read_bytes())
    except ValueError:  # the manifest itself is damaged
        return False
    return expected == _hashes(directory)
