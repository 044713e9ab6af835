"""TensorBoard event files, written by tensorboardX (which needs no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from polyray.runs.trackers.base import RunIdentity, Status, TrackerState


class TensorBoardTracker:
    """Event files under tracking/tensorboard, one per start; a reader drops steps that were written twice."""

    def start(self, config: Mapping[str, Any], identity: RunIdentity) -> int:
        """Open a file whose first record purges the steps from `next_step` on, which a killed start wrote."""
        from tensorboardX import SummaryWriter

        self._state = TrackerState(identity, "tensorboard")
        first = self._state.next_step
        self._writer = SummaryWriter(
            str(identity.directory / "tensorboard"),
            purge_step=first or None,
            flush_secs=5,
            filename_suffix=f".{first:08d}",  # else two starts within a second share a name
        )
        if first == 0:
            self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", 0)
        return first

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tags are the keys of metrics.jsonl."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._state.save(next_step=step + 1)

    def finish(self, status: Status) -> None:
        """Flushes and closes the file; it has no place for a status."""
        self._writer.close()
