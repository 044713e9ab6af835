"""Checkpoints: everything a learner needs to resume with the same bytes, in safetensors and JSON.

    checkpoints/step-000020/  adapter/              PEFT format
                              optimizer.safetensors moments by parameter name
                              rng.safetensors       torch's generator state
                              state.json            step, schedule, the caller's own (coordinator's snapshot)
                              files/                the caller's own that is not JSON (groups that wait, best adapter)
                              manifest.json         sha256 of all of them, written last

The newest checkpoint whose hashes hold is the one that counts; a half-written or damaged one is passed over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save

from polyray.errors import CheckpointError
from polyray.learner.optim import restore_schedule
from polyray.models.adapter_files import WEIGHTS_FILE, check_same_start
from polyray.models.lora import POLICY, save_adapter
from polyray.runs.atomic import atomic_directory

MANIFEST = "manifest.json"
EXTRA_FILES = "files"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A valid checkpoint on disk.

    Example:
        Checkpoint(step=20, directory=Path("runs/x/checkpoints/step-000020"), extra={"coordinator": {...}})
    """

    step: int
    directory: Path
    extra: Mapping[str, Any]

    def extra_files(self) -> dict[str, bytes]:
        """Files given to `save_checkpoint` as `extra_files`, read from disk."""
        root = self.directory / EXTRA_FILES
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in _files_below(root)}


def save_checkpoint(
    checkpoints_dir: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    adapter_manifest: Mapping[str, Any],
    extra: Mapping[str, Any],
    extra_files: Mapping[str, bytes] | None = None,
    keep: int,
    also_keep: Collection[int] = (),
) -> Path:
    """Writes checkpoint `step`, then removes all but the newest `keep` and those of the steps `also_keep`.

    Later ones go too: only a damaged one, which `newest_checkpoint` passed over, can be later. Names of
    `extra_files` are relative paths such as "coordinator/groups.bin"; ValueError for one that leads elsewhere.
    Raises OSError where the disk is full; nothing of the new checkpoint is left then, and no older one is removed.
    """
    target = checkpoint_dir(checkpoints_dir, step)
    with atomic_directory(target) as directory:
        save_adapter(model, directory / "adapter", dict(adapter_manifest))
        # Through bytes: a full disk is an OSError here, while safetensors' own writer has an error of its own.
        (directory / "optimizer.safetensors").write_bytes(save(_moments(model, optimizer)))
        (directory / "rng.safetensors").write_bytes(save({"torch": torch.get_rng_state()}))
        state = {"step": step, "scheduler": _plain(scheduler.state_dict()), "extra": extra}
        (directory / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        _write_extra_files(directory / EXTRA_FILES, extra_files or {})
        (directory / MANIFEST).write_text(json.dumps(_hashes(directory), indent=1), encoding="utf-8")
    directories = sorted(checkpoints_dir.glob("step-*"))
    end = directories.index(target) + 1
    protected = {checkpoint_dir(checkpoints_dir, other) for other in also_keep}
    for directory in (*directories[end:], *directories[:end][:-keep]):
        if directory not in protected or directory > target:
            shutil.rmtree(directory)
    return target


def checkpoint_dir(checkpoints_dir: Path, step: int) -> Path:
    """Directory of the checkpoint of a step."""
    return checkpoints_dir / f"step-{step:06d}"


def tensor_bytes(model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights and moments in a checkpoint."""
    weights = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    return weights + sum(
        value.numel() * value.element_size() for value in _moments(model, optimizer).values()
    )


def newest_checkpoint(checkpoints_dir: Path) -> Checkpoint | None:
    """The newest checkpoint with valid hashes; None if there is no checkpoint.

    Raises CheckpointError if all of them are damaged: a fresh start would discard the run.
    """
    directories = sorted(checkpoints_dir.glob("step-*"), reverse=True)
    for directory in directories:
        if not is_valid(directory):
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
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    *,
    adapter_manifest: Mapping[str, Any],
) -> None:
    """Restore weights, moments and generator bit for bit, and the schedule at its step.

    Raises ConfigError where the base or the warm start of `adapter_manifest` is not the checkpoint's.
    """
    check_same_start(checkpoint.directory / "adapter", adapter_manifest)
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
    restore_schedule(scheduler, state["scheduler"])
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


def _write_extra_files(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"extra file {name!r} must be a relative path within the checkpoint")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def _files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _hashes(directory: Path) -> dict[str, str]:
    files = [path for path in _files_below(directory) if path.name != MANIFEST]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_valid(directory: Path) -> bool:
    """Whether a checkpoint is complete and every file has the hash that its manifest says."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return False
    try:
        expected = json.loads(manifest.read_bytes())
    except ValueError:  # the manifest itself is damaged
        return False
    return expected == _hashes(directory)
