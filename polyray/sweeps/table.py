"""Table of a sweep's trials on a terminal (not a job itself)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polyray.runs.progress import ProgressDisplay, format_seconds

RAISED = re.compile(r"[A-Za-z_][\w.]*: ")
"""Beginning of the last part of a traceback: the error's class, at the start of a line."""
ROWS = 24
"""Rows on a terminal: running trials, then those that ended last."""


@dataclass(slots=True)
class _Row:
    trial_id: str
    seed: int
    setting: str
    status: str
    since: float
    took_s: float | None = None
    step: int | None = None
    value: float | None = None


class TrialTable:
    """One row for each trial that has begun."""

    def __init__(
        self,
        display: ProgressDisplay,
        metric: str,
        total_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._display = display
        self._metric = metric
        self._total_steps = total_steps
        self._clock = clock
        self._rows: dict[str, _Row] = {}

    def began(self, trial_id: str, seed: int, parameters: Mapping[str, Any]) -> None:
        """Note the start of a trial's process; a trial that is tried again begins anew."""
        self._rows[trial_id] = _Row(trial_id, seed, in_words(parameters), "runs", self._clock())
        self._show()

    def reported(self, trial_id: str, step: int, value: float) -> None:
        """A validation."""
        row = self._rows[trial_id]
        row.step, row.value = step, value
        self._show()

    def ended(self, trial_id: str, status: str) -> None:
        """Done, stopped early or failed."""
        row = self._rows.pop(trial_id, None)
        if row is not None:
            row.status, row.took_s = status, self._clock() - row.since
            self._rows[trial_id] = row
            self._show()

    def rows(self) -> list[list[str]]:
        """Current rows."""
        running = [row for row in self._rows.values() if row.took_s is None]
        ended = [row for row in reversed(self._rows.values()) if row.took_s is not None]
        return [self._cells(row) for row in [*running, *ended][:ROWS]]

    def _cells(self, row: _Row) -> list[str]:
        took = row.took_s if row.took_s is not None else self._clock() - row.since
        step = "" if row.step is None else f"{row.step}/{self._total_steps}"
        value = "" if row.value is None else f"{row.value:.3f}"
        return [row.trial_id, str(row.seed), row.setting, row.status, step, value, format_seconds(took)]

    def _show(self) -> None:
        self._display.table(["trial", "seed", "setting", "", "validated", self._metric, "time"], self.rows())


def in_words(parameters: Mapping[str, Any]) -> str:
    """Each field by the last part of its path."""
    return "  ".join(f"{path.rpartition('.')[2]}={value}" for path, value in parameters.items())


def reason_of(traceback: str) -> str:
    """The message of the last error in a traceback, which may have several lines, as one."""
    lines = traceback.strip().splitlines()
    begin = next((i for i in reversed(range(len(lines))) if RAISED.match(lines[i])), len(lines) - 1)
    return " ".join(line.strip() for line in lines[begin:]) or "its process ended without a word"
