"""Weights & Biases, online or into the run directory for `wandb sync`."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping
from typing import Any

from polyray.config.tracking import WandbSpec
from polyray.runs.trackers.base import RunIdentity, Status, TrackerState

SETTINGS: Mapping[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
}
"""W&B gets the metrics and the configuration: neither the console, nor code, nor the machine's environment."""


class WandbTracker:
    """One W&B run per run directory; every start continues it by its id."""

    def __init__(self, spec: WandbSpec) -> None:
        self._spec = spec

    def start(self, config: Mapping[str, Any], identity: RunIdentity) -> int:
        """Raises what W&B raises, e.g. for a missing key."""
        wandb: Any = importlib.import_module("wandb")
        self._state = TrackerState(identity, "wandb")
        if self._state.run_id is None:
            self._state.save(run_id=uuid.uuid4().hex[:12])
        identity.directory.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            id=self._state.run_id,
            resume="allow",
            name=identity.name,
            project=self._spec.project,
            entity=self._spec.entity,
            group=self._spec.group,
            tags=list(self._spec.tags),
            mode=self._spec.mode,
            config=dict(config),
            dir=str(identity.directory),
            settings=wandb.Settings(**SETTINGS),
        )
        return self._state.next_step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Noted before it is sent: a kill in between leaves a step out, while the other order would send it twice."""
        self._state.save(next_step=step + 1)
        self._run.log(dict(metrics), step=step)

    def finish(self, status: Status) -> None:
        """Waits until W&B has everything."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
