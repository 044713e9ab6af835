"""Alarm for a mismatch of engine and learner, from kl_rollout and ess step by step.

Like the watch of over_optimisation.py its only state is the lines of metrics.jsonl, so it survives a resume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from polyray.config.mismatch import MismatchAlarmSpec, mismatch_text
from polyray.metrics.divergence import monotone_trend
from polyray.types import StepMetrics

logger = logging.getLogger(__name__)

GROWING_SHARE = 0.2
"""Growth counts from this share of the way to a limit on."""
SIGNIFICANCE = 0.01
KEY = "mismatch_alarm"
TOTAL = "mismatch_alarms"
"""Steps with the alarm so far; reported for the display, not written to metrics.jsonl."""


class MismatchWatch:
    """Rank 0 only: reads the lines so far, then one step at a time."""

    def __init__(self, spec: MismatchAlarmSpec | None, lines: Iterable[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._kl: list[float] = []
        self._ess: list[float] = []
        self._alarm_before = False
        self.total = 0
        for line in lines:
            self._remember(line)
            self._alarm_before = bool(line.get(KEY))
            self.total += self._alarm_before

    def observe(self, metrics: StepMetrics) -> StepMetrics:
        """Value that this step adds to its own line: mismatch_alarm, 0 or 1; {} without an alarm."""
        if self._spec is None:
            return {}
        self._remember(metrics)
        alarm = is_mismatched(self._kl, self._ess, self._spec)
        if alarm and not self._alarm_before:
            logger.warning(mismatch_text(self._spec))
        self._alarm_before = alarm
        self.total += alarm
        return {KEY: int(alarm)}

    def _remember(self, line: Mapping[str, Any]) -> None:
        """Steps without numbers (nothing was trained) are passed over."""
        kl, ess = line.get("kl_rollout"), line.get("ess")
        if self._spec is not None and isinstance(kl, int | float) and isinstance(ess, int | float):
            self._kl = [*self._kl, float(kl)][-self._spec.window :]
            self._ess = [*self._ess, float(ess)][-self._spec.window :]


def is_mismatched(kl_T: Sequence[float], ess_T: Sequence[float], spec: MismatchAlarmSpec) -> bool:
    """Whether a window of steps, oldest first, calls for the alarm; False while it is not full."""
    if len(kl_T) < spec.window:
        return False
    found = _beyond(kl_T, 0.0, spec.kl_rollout, "rise", spec)
    return found or (spec.ess > 0 and _beyond(ess_T, 1.0, spec.ess, "fall", spec))


def _beyond(
    values_T: Sequence[float],
    none: float,
    limit: float,
    direction: Literal["rise", "fall"],
    spec: MismatchAlarmSpec,
) -> bool:
    """Whether the series is past `limit`, or past a share of the way from `none` (no mismatch) and moving."""
    way = (float(np.median(values_T)) - none) / (limit - none)
    if way > 1:
        return True
    return way > GROWING_SHARE and monotone_trend(values_T, direction).p_value <= SIGNIFICANCE
