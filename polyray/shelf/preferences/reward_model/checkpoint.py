"""Checkpoints of a reward model's training, and the best network so far.

checkpoints/step-000100/  state.safetensors  network and moments by name
                          state.json         step, schedule, early stopping, sha256 of rows and encoder
                          manifest.json      sha256 of both, as learner/state.py reads it
best/step-000080.safetensors                 the network of the best validation
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import ConfigError
from polyray.learner.optim import restore_schedule
from polyray.learner.state import MANIFEST, newest_checkpoint
from polyray.periodic_eval import EarlyStopping
from polyray.runs.atomic import atomic_directory, atomic_write_bytes
from polyray.shelf.preferences.reward_model.data import TrainingData
from polyray.shelf.preferences.reward_model.network import Network

_STATE = "state.safetensors"


@dataclass(slots=True)
class Training:
    """State of a training; `step` and `stopping` advance."""

    network: Network
    data: TrainingData
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    num_steps: int
    stopping: EarlyStopping
    step: int = 0
    """Completed steps."""


def save_checkpoint(run_dir: Path, training: Training, rows_sha256: str, config: TrainRewardConfig) -> None:
    """Writes the checkpoint of `training.step`; older ones and older best networks go, which none needs now."""
    checkpoints, step = run_dir / "checkpoints", training.step
    target = checkpoints / f"step-{step:06d}"
    with atomic_directory(target) as directory:
        tensors = {f"network|{name}": value for name, value in _tensors(training.network).items()}
        for name, parameter in training.network.named_parameters().items():
            for moment, value in training.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}|{name}"] = value.detach().cpu().contiguous()
        save_file(tensors, directory / _STATE)
        extra = {
            "evaluations": training.stopping.history,
            "best_step": training.stopping.best_version,
            "rows_sha256": rows_sha256,
            "encoder_sha256": training.network.embedder.sha256,
        }
        schedule = {"last_epoch": training.scheduler.last_epoch}
        state = {"step": step, "scheduler": schedule, "extra": extra}
        (directory / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
        (directory / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    directories = sorted(checkpoints.glob("step-*"))
    end = directories.index(target) + 1
    for directory in (*directories[end:], *directories[:end][: -config.learner.keep_checkpoints]):
        shutil.rmtree(directory)
    kept = {best_file(run_dir, training.stopping.best_version)}
    if config.learner.keep_checkpoints > 1:  # an older checkpoint may still need its own
        kept |= {
            best_file(
                run_dir,
                json.loads((item / "state.json").read_bytes())["extra"]["best_step"],
            )
            for item in checkpoints.glob("step-*")
        }
    for path in (run_dir / "best").glob("step-*.safetensors"):
        if path not in kept:
            path.unlink()


def resume(run_dir: Path, training: Training, rows_sha256: str) -> None:
    """Restore everything from the newest checkpoint, bit for bit; no effect without one.

    Raises ConfigError where the rows or the encoder are no longer the same.
    """
    checkpoint = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None:
        return
    if checkpoint.extra.get("rows_sha256") != rows_sha256:
        raise ConfigError(
            f"{run_dir}: the training rows are not those of its checkpoint {checkpoint.directory.name}; restore the "
            "data, or start a run under another name"
        )
    encoder = training.network.embedder.sha256
    began_on = checkpoint.extra.get("encoder_sha256", encoder)
    if began_on != encoder:
        raise ConfigError(
            f"{run_dir}: checkpoint {checkpoint.directory.name} began on the encoder {began_on[:12]}, but "
            f"encoder.name is now {encoder[:12]}; put the encoder back as it was, or start a run under another name"
        )
    tensors = load_file(checkpoint.directory / _STATE)
    _restore(
        training.network, {k.partition("|")[2]: v for k, v in tensors.items() if k.startswith("network|")}
    )
    named = training.network.named_parameters()
    for key, value in tensors.items():
        moment, _, name = key.partition("|")
        if moment != "network":
            parameter = named[name]
            training.optimizer.state[parameter][moment] = (
                value if moment == "step" else value.to(parameter.device)
            )
    state = json.loads((checkpoint.directory / "state.json").read_bytes())
    restore_schedule(training.scheduler, state["scheduler"])
    training.step = checkpoint.step
    for version, value in checkpoint.extra["evaluations"]:
        training.stopping.observe(version, value)


def best_file(run_dir: Path, step: int) -> Path:
    """File of the best validated network."""
    return run_dir / "best" / f"step-{step:06d}.safetensors"


def keep_best(run_dir: Path, step: int, network: Network) -> None:
    """Writes it."""
    path = best_file(run_dir, step)
    path.parent.mkdir(exist_ok=True)
    atomic_write_bytes(path, save(_tensors(network)))


def load_best(run_dir: Path, step: int, network: Network) -> None:
    """Load the best weights into `network`."""
    _restore(network, load_file(best_file(run_dir, step)))


def _tensors(network: Network) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, module in network.modules().items()
        for key, value in module.state_dict().items()
    }


def _restore(network: Network, tensors: dict[str, Tensor]) -> None:
    for name, module in network.modules().items():
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        with torch.no_grad():
            module.load_state_dict(own, strict=True)
