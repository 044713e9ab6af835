"""Detect over-optimisation: compare the reward with a second opinion, step by step.

Its values over several steps: the gap of the standardised means, and the alarm. The only state is the lines of
metrics.jsonl, so it survives a resume. Called by run_files.py; the test behind the alarm is metrics/divergence.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from polyray.config.over_optimisation import SIGNIFICANCE, OverOptimisationSpec, alarm_text
from polyray.learner.group_metrics import MEAN_SECOND_OPINION as MEAN
from polyray.metrics.divergence import parted
from polyray.types import StepMetrics

logger = logging.getLogger(__name__)

BASELINE_STEPS = 5
"""The means are standardised by those of the first so many steps, and by the spread of completions in them."""
_KEPT = ("reward_mean", "reward_std", MEAN, "second_opinion_std", "over_optimisation")


class SecondOpinionWatch:
    """Rank 0 only: reads the lines so far, then one step at a time."""

    def __init__(self, spec: OverOptimisationSpec | None, lines: Iterable[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._lines = [_kept(line) for line in lines if MEAN in line]

    def observe(self, metrics: StepMetrics) -> StepMetrics:
        """Values that this step adds to its own line: second_opinion_gap, and over_optimisation with an alarm.

        The gap is how many standard deviations the reward's mean has moved since the first steps, minus the same
        for the second opinion. It is 0 while both move alike, and positive when only the reward rises.
        """
        if MEAN not in metrics:
            return {}
        self._lines.append(_kept(metrics))
        added: StepMetrics = {"second_opinion_gap": self._gap()}
        if self._spec is not None:
            alarm = self._has_parted(self._spec)
            before = self._lines[-2].get("over_optimisation") if len(self._lines) > 1 else 0
            if alarm and not before:
                logger.warning(alarm_text(self._spec))
            added["over_optimisation"] = self._lines[-1]["over_optimisation"] = int(alarm)
        return added

    def _gap(self) -> float | None:
        first = [line for line in self._lines[:BASELINE_STEPS] if _is_complete(line)]
        now = self._lines[-1]
        if not first or not _is_complete(now):
            return None
        moved = []
        for mean, spread in (("reward_mean", "reward_std"), (MEAN, "second_opinion_std")):
            unit = float(np.mean([line[spread] for line in first]))
            if unit <= 0:
                return None
            moved.append((now[mean] - float(np.mean([line[mean] for line in first]))) / unit)
        return moved[0] - moved[1]

    def _has_parted(self, spec: OverOptimisationSpec) -> bool:
        """Steps without a second opinion are passed over; the window is the last `window` that have one."""
        known = [line for line in self._lines if _is_complete(line)][-spec.window :]
        if len(known) < spec.window:
            return False
        return parted(
            [line["reward_mean"] for line in known],
            [line[MEAN] for line in known],
            min_rise=spec.min_rise,
            max_fall=spec.max_fall,
            significance=SIGNIFICANCE,
        )


def _kept(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in _KEPT if key in line}


def _is_complete(line: Mapping[str, Any]) -> bool:
    return all(isinstance(line.get(key), int | float) for key in _KEPT[:4])
