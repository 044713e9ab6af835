"""The policy that is trained: model, adapter, optimiser, schedule, probe; built, restored, published,
saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyray.config.run import TrainConfig
from polyray.delivery.adapter import AdapterPayload, AdapterShape, Probe, sha256_of
from polyray.delivery.probe import probe_sequences
from polyray.delivery.proof import probe_logprobs
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.state import newest_checkpoint, restore_checkpoint, save_checkpoint
from polyray.learner.step import PolicyLearner
from polyray.learner.supervised_term import build_supervised_term
from polyray.models.loading import base_fingerprint, load_base
from polyray.models.lora import adapter_bytes, adapter_config, add_reference, attach_adapter, save_adapter
from polyray.types import PolicyVersion


class Policy:
    """Everything of a run that has weights."""

    def __init__(self, config: TrainConfig, model_dir: Path, dtype: str, device: torch.device) -> None:
        self._config = config
        self._base_sha256 = base_fingerprint(model_dir)
        warm_start = Path(config.model.warm_start) if config.model.warm_start else None
        torch.manual_seed(config.seed)
        self.model = attach_adapter(
            load_base(model_dir, dtype).to(device),  # type: ignore[arg-type]  # transformers annotates `to` wrongly
            config.model.lora,
            warm_start,
            base_sha256=self._base_sha256,
            seed=config.seed,
        )
        add_reference(self.model)
        self.model.eval()  # no dropout in RL: the learner's distribution is the engine's
        self._optimizer = build_optimizer(self.model.parameters(), config.learner)
        self._scheduler = build_scheduler(self._optimizer, config.learner)
        supervised = build_supervised_term(config, model_dir)
        self.learner = PolicyLearner(self.model, self._optimizer, self._scheduler, config, supervised)
        self._shape = AdapterShape.from_peft(adapter_config(self.model))
        self._probe_sequences = probe_sequences(
            config.task, config.rollout, config.delivery.num_probes, config.seed, model_dir
        )
        self._published: np.ndarray | None = None

    def restore_newest(self, checkpoints_dir: Path) -> tuple[int, Mapping[str, Any] | None]:
        """(step to go on from, the coordinator's snapshot), from the newest valid checkpoint if there is
        one."""
        checkpoint = newest_checkpoint(checkpoints_dir)
        if checkpoint is None:
            return 0, None
        restore_checkpoint(checkpoint, self.model, self._optimizer, self._scheduler)
        return checkpoint.step, checkpoint.extra["coordinator"]

    def payload(self, attempt: int, version: int) -> AdapterPayload:
        """The current adapter as a version, with the probe that proves its delivery."""
        tensors = adapter_bytes(self.model)
        logprobs = probe_logprobs(self.model, self._probe_sequences)
        probe = Probe(self._probe_sequences, logprobs, self._published)
        self._published = logprobs
        return AdapterPayload(
            PolicyVersion(attempt, version, sha256_of(tensors)), tensors, self._shape, probe
        )

    def save(self, checkpoints_dir: Path, step: int, snapshot: Mapping[str, Any]) -> None:
        """Writes a checkpoint that carries the coordinator's snapshot of the same cut."""
        save_checkpoint(
            checkpoints_dir,
            step,
            self.model,
            self._optimizer,
            self._scheduler,
            adapter_manifest=self._manifest(),
            extra={"coordinator": dict(snapshot)},
            keep=self._config.learner.keep_checkpoints,
        )

    def save_version(self, versions_dir: Path, attempt: int, version: int) -> None:
        """Keeps a version on disk; called before it is published, so what an engine served can always be
        read."""
        save_adapter(self.model, versions_dir / str(version), {**self._manifest(), "attempt": attempt})

    def save_final(self, directory: Path) -> None:
        """Writes the adapter in PEFT format; it loads on the original base."""
        save_adapter(self.model, directory, self._manifest())

    def _manifest(self) -> dict[str, Any]:
        return {"base_sha256": self._base_sha256, "run": self._config.name}
