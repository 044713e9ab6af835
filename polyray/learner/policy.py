"""The policy that is trained: model, adapter, optimiser, schedule, probe; built, restored, published,
saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyray.config.run import TrainConfig
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.state import Checkpoint, restore_checkpoint, save_checkpoint, tensor_bytes
from polyray.learner.step import PolicyLearner
from polyray.learner.supervised_term import build_supervised_term
from polyray.models.adapter import AdapterShape, Magnified, PolicyUpdate, Probe, sha256_of
from polyray.models.adapter_files import start_manifest, write_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import adapter_bytes, adapter_config, add_reference, attach_adapter, save_adapter
from polyray.models.sharding import is_sharded, shard_base
from polyray.runs.saved_groups import SNAPSHOT_FILES
from polyray.types import PolicyVersion
from polyray.weight_sync.probe import magnified_probe, probe_logprobs, probe_sequences

COORDINATOR_FILES = "coordinator/"
"""Prefix of the coordinator's binary payloads among a checkpoint's extra files."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Starting point of a run, e.g. Restored(step=20, snapshot={"version": 20, "pending": [81]},
    validation=None).
    """

    step: int = 0
    snapshot: Mapping[str, Any] | None = None
    """The coordinator's snapshot; None without a checkpoint."""
    validation: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The learner's own extra files."""


class Policy:
    """Parts of a run that have weights."""

    def __init__(self, config: TrainConfig, model_dir: Path, dtype: str, device: torch.device) -> None:
        self._config = config
        base_sha256 = base_fingerprint(model_dir)
        self._manifest = start_manifest(config.name, base_sha256, config.model.warm_start)
        warm_start = Path(config.model.warm_start) if config.model.warm_start else None
        learner = config.learner
        torch.manual_seed(config.seed)
        base = load_base(model_dir, dtype, device if learner.sharding == "none" else "cpu")
        self.model = attach_adapter(
            base,
            config.model.lora,
            warm_start,
            base_sha256=base_sha256,
            seed=config.seed,
        )
        add_reference(self.model)
        if learner.sharding == "base":
            shard_base(self.model, device, cpu_offload=learner.cpu_offload)
        self.model.eval()  # no dropout in RL: the learner's distribution is the engine's
        self._optimizer = build_optimizer(self.model.parameters(), learner)
        self._scheduler = build_scheduler(self._optimizer, learner)
        supervised = build_supervised_term(config, model_dir)
        self.learner = PolicyLearner(self.model, self._optimizer, self._scheduler, config, supervised)
        self._shape = AdapterShape.from_peft(adapter_config(self.model))
        self._probe_sequences = probe_sequences(
            config.task, config.rollout, config.delivery.num_probes, config.seed, model_dir, dtype
        )
        with self.model.disable_adapter():
            self._base_logprobs = probe_logprobs(self.model, self._probe_sequences)
        self._published: np.ndarray | None = None

    def restore(self, checkpoint: Checkpoint | None) -> Restored:
        """Restore everything from the checkpoint; None: there is none, and the run begins."""
        if checkpoint is None:
            return Restored()
        restore_checkpoint(
            checkpoint, self.model, self._optimizer, self._scheduler, adapter_manifest=self._manifest
        )
        snapshot = dict(checkpoint.extra["coordinator"])
        files = checkpoint.extra_files()
        of_coordinator = {name for name in files if name.startswith(COORDINATOR_FILES)}
        if of_coordinator:
            snapshot[SNAPSHOT_FILES] = {
                name.removeprefix(COORDINATOR_FILES): files.pop(name) for name in sorted(of_coordinator)
            }
        return Restored(checkpoint.step, snapshot, checkpoint.extra.get("validation"), files)

    def payload(self, attempt: int, version: int) -> PolicyUpdate:
        """The current adapter as a version, with the probe that proves its delivery."""
        tensors = adapter_bytes(self.model)
        previous = self._published
        logprobs, magnified = self._measure()
        probe = Probe(self._probe_sequences, logprobs, previous, self._base_logprobs, magnified)
        return PolicyUpdate(PolicyVersion(attempt, version, sha256_of(tensors)), tensors, self._shape, probe)

    def accompany_payload(self) -> None:
        """Join rank 0's probe forward passes; needed on every other rank with a sharded base."""
        if is_sharded(self.model):
            self._measure()

    def _measure(self) -> tuple[np.ndarray, Magnified | None]:
        self._published = probe_logprobs(self.model, self._probe_sequences)
        return self._published, magnified_probe(self.model, self._probe_sequences)

    def save(
        self,
        checkpoints_dir: Path,
        step: int,
        snapshot: Mapping[str, Any],
        *,
        validation: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        also_keep: Collection[int] = (),
    ) -> Path:
        """Writes a checkpoint that carries the coordinator's snapshot of the same cut, and what validation
        remembers. Binary payloads of the snapshot, under its key "files", become files of the checkpoint.
        """
        plain = dict(snapshot)
        payloads = {f"{COORDINATOR_FILES}{k}": v for k, v in plain.pop(SNAPSHOT_FILES, {}).items()}
        return save_checkpoint(
            checkpoints_dir,
            step,
            self.model,
            self._optimizer,
            self._scheduler,
            adapter_manifest=self._manifest,
            extra={"coordinator": plain, "validation": validation},
            extra_files={**payloads, **(files or {})},
            keep=self._config.learner.keep_checkpoints,
            also_keep=also_keep,
        )

    @property
    def checkpoint_bytes(self) -> int:
        """About how large a checkpoint is."""
        return tensor_bytes(self.model, self._optimizer)

    def save_version(self, versions_dir: Path, attempt: int, version: int) -> None:
        """Keeps a version on disk; called before it is published, so what an engine served can always be
        read."""
        save_adapter(self.model, versions_dir / str(version), {**self._manifest, "attempt": attempt})

    def write_adapter(self, content: bytes, directory: Path, additions: Mapping[str, Any]) -> None:
        """Writes weights of an earlier version of this policy in PEFT format, with `additions` in the manifest."""
        write_adapter(content, adapter_config(self.model), directory, {**self._manifest, **additions})

    def save_final(self, directory: Path) -> None:
        """Writes the adapter in PEFT format; it loads on the original base."""
        save_adapter(self.model, directory, self._manifest)
