"""The lines of a sweep's trials.jsonl: what each trial was, how it ended, what it cost.

Written by polyray sweep; read by results.py. Not here: what the trials are worth (values.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from polyray.errors import DataError
from polyray.runs.atomic import atomic_write_text

TrialStatus = Literal["done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a sweep: one line of trials.jsonl.

    Example:
        Trial(trial_id="t003-3f9a", parameters={"algorithm.diversity_weight": 0.5}, seed=1, status="done",
              error=None, steps=60, metric=0.41, seconds=212.0, core_hours=0.12, gpu_hours=0.0, tokens=104261)
    """

    trial_id: str
    """Id of the trial, its arm in the sweep's evaluation, and its directory trials/TRIAL_ID."""
    parameters: dict[str, Any]
    """Dotted path -> value, without the seed."""
    seed: int
    status: TrialStatus
    """stopped: by the scheduler, before its last step."""
    error: str | None
    """Error of a failed trial; None for the others."""
    steps: int
    metric: float | None
    """The last value of the validation metric that schedulers read; None where there was none."""
    seconds: float
    """Wall time of the trial."""
    core_hours: float
    gpu_hours: float
    tokens: int
    """Sampled completion tokens."""


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Writes or replaces trials.jsonl, whole or not at all."""
    atomic_write_text(path, "".join(trial_line(trial) for trial in trials))


def trial_line(trial: Trial) -> str:
    """One JSON line with its newline; numbers that are not finite become null.

    Raises DataError naming the trial where one of its costs is no number.
    """
    values = asdict(trial)
    if trial.metric is not None and not math.isfinite(trial.metric):
        values["metric"] = None
    for name in ("seconds", "core_hours", "gpu_hours"):
        if not math.isfinite(values[name]):
            raise DataError(
                f"{name}={values[name]} of trial {trial.trial_id} is not finite; write 0 for no cost"
            )
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
