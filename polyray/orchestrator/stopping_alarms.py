"""Alarms in a line of metrics that are to end the run, as its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyray.config.dynamics import COLLAPSED, collapse_text
from polyray.config.mismatch import mismatch_text
from polyray.config.over_optimisation import alarm_text
from polyray.config.run import TrainConfig
from polyray.errors import DiversityCollapsed, EngineMismatch, OverOptimised, PolyrayError


def stop_reason(config: TrainConfig, metrics: Mapping[str, Any]) -> PolyrayError | None:
    """The error that ends a run after the step of these metrics; None if it continues."""
    watched = config.over_optimisation
    if watched is not None and watched.stop and metrics.get("over_optimisation"):
        return OverOptimised(f"stopped after step {metrics['step']}: {alarm_text(watched)}")
    collapse = None if config.dynamics is None else config.dynamics.collapse_alarm
    if collapse is not None and collapse.stop and metrics.get(COLLAPSED):
        return DiversityCollapsed(f"stopped after step {metrics['step']}: {collapse_text(collapse)}")
    mismatch = config.mismatch_alarm
    if mismatch is not None and mismatch.stop and metrics.get("mismatch_alarm"):
        return EngineMismatch(f"stopped after step {metrics['step']}: {mismatch_text(mismatch)}")
    return None
