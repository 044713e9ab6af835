"""The lines of a sweep's trials.jsonl: what each trial was, how it ended, what it cost.

Written by polyray sweep; read by results.py. Not here: what the trials are worth (values.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

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


def read_trials(path: Path) -> list[Trial]:
    """All trials in order of their first line; a later line of the same trial replaces the earlier one.

    Raises DataError naming the file, the line and what is wrong with it.
    """
    if not path.is_file():
        raise DataError(f"no trials at {path}; give the trials.jsonl that polyray sweep wrote")
    trials: dict[str, Trial] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                trial = _parsed(line, f"{path}:{number}")
                trials[trial.trial_id] = trial
    if not trials:
        raise DataError(f"{path} holds no trials; at least one line is needed")
    return list(trials.values())


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


def _parsed(line: str, where: str) -> Trial:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{where} holds a {type(values).__name__}; a trial is one JSON object a line")
    names = [entry.name for entry in fields(Trial)]
    missing = [name for name in names if name not in values]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; a trial has {', '.join(names)}")
    if values["status"] not in get_args(TrialStatus):
        raise DataError(f"{where}: status={values['status']!r} is none of {', '.join(get_args(TrialStatus))}")
    return Trial(**{name: values[name] for name in names})
