"""Alarm for a diversity collapse: a measure of diversity against its value before training.

Like the watches of mismatch.py and over_optimisation.py its only state is lines on disk, here of dynamics.jsonl, so
it survives a resume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from polyray.config.dynamics import CollapseAlarmSpec, collapse_text

logger = logging.getLogger(__name__)

KEY = "collapse_alarm"


class CollapseWatch:
    """Rank 0 only: reads the lines so far, then one round at a time."""

    def __init__(self, spec: CollapseAlarmSpec | None, lines: Iterable[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._first: float | None = None
        self._low = 0
        """Rounds in a row below the limit."""
        for line in lines:
            self._remember(line)

    def observe(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Value that this round adds to its own line: collapse_alarm, 0 or 1; {} without an alarm."""
        if self._spec is None:
            return {}
        value = self._remember(values)
        alarm = self._low >= self._spec.rounds
        if self._low == self._spec.rounds and value is not None:
            logger.warning("%s (%.3g -> %.3g)", collapse_text(self._spec), self._first, value)
        return {KEY: float(alarm)}

    def _remember(self, line: Mapping[str, Any]) -> float | None:
        """Rounds without the number (nothing was scored) are passed over."""
        value = None if self._spec is None else line.get(self._spec.metric)
        if self._spec is None or not isinstance(value, int | float):
            return None
        if self._first is None:
            self._first = float(value)
        is_low = self._first > 0 and value < (1 - self._spec.drop) * self._first
        self._low = self._low + 1 if is_low else 0
        return float(value)
