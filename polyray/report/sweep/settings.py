"""Trials that differ in nothing but their seed are one setting; which of them count, and why the others do not.

A trial counts once the sweep's evaluation has sampled it. Trials that failed or were stopped early count only
where every seed of their setting was evaluated: the survivors of a setting are not a fair sample of it.
Called by results.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyray.config.sweep import ARM
from polyray.errors import DataError
from polyray.report.sweep.trials import Trial

MAX_ERROR = 300
"""Characters of an error that a reason quotes; trials.jsonl has all of it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the sweep, with a trial per seed.

    Example:
        Setting(label="λ = 0.5, lr = 0.0001", value=0.5, others={"learner.lr": 0.0001},
                trials=(Trial(...), Trial(...)), members=(Trial(...),))
    """

    label: str
    value: float
    """Value of the swept weight; the place of an arm among the arms."""
    others: Mapping[str, Any]
    """Dotted path -> value of everything else that was swept."""
    trials: tuple[Trial, ...]
    members: tuple[Trial, ...]
    """Trials that count, one per seed."""

    @property
    def is_complete(self) -> bool:
        """Whether every seed counts."""
        return {trial.seed for trial in self.trials} == {trial.seed for trial in self.members}

    @property
    def block(self) -> str:
        """Equal for settings that differ in the swept weight only."""
        return identity(self.others)


@dataclass(frozen=True, slots=True)
class Grouped:
    """All settings in order of the swept weight, and why some trials do not count.

    Example:
        Grouped(settings=(Setting(...),), left_out={"t002-91bc": "failed: OOM"})
    """

    settings: tuple[Setting, ...]
    left_out: Mapping[str, str]
    """trial_id -> reason."""

    @property
    def compared(self) -> tuple[Setting, ...]:
        """Settings of which at least one trial counts."""
        return tuple(setting for setting in self.settings if setting.members)


def axis_symbol(axis: str) -> str:
    """Symbol of the swept weight: λ for a diversity weight, else the last part of its path; "arms" for arms."""
    name = axis.rpartition(".")[2]
    return {"diversity_weight": "λ", ARM: "arms"}.get(name, name)


def group_trials(trials: Sequence[Trial], evaluated: Collection[str], axis: str) -> Grouped:
    """Settings of all trials; `evaluated` are the ids of those that the evaluation sampled.

    Raises DataError where `axis` is not a finite number in some trial, or a trial's id occurs twice. Arms are
    numbered in the order of the trials.
    """
    _check_ids(trials)
    arms = list(dict.fromkeys(str(trial.parameters[ARM]) for trial in trials)) if axis == ARM else []
    names = short_names([path for trial in trials for path in trial.parameters if path != axis])
    groups: dict[tuple[str, float], list[Trial]] = {}
    for trial in trials:
        others = {path: value for path, value in trial.parameters.items() if path != axis}
        value = arms.index(trial.parameters[ARM]) if arms else _axis_value(trial, axis)
        groups.setdefault((identity(others), value), []).append(trial)
    settings: list[Setting] = []
    left_out: dict[str, str] = {}
    for (_, value), members in groups.items():
        others = {path: entry for path, entry in members[0].parameters.items() if path != axis}
        described = [arms[int(value)] if arms else f"{axis_symbol(axis)} = {value:g}"]
        described += [f"{names[path]} = {_written(entry)}" for path, entry in sorted(others.items())]
        ordered = tuple(sorted(members, key=lambda trial: trial.seed))
        label = ", ".join(described)
        if any(label == known.label for known in settings):  # values that differ in later digits only
            label += f" ({ordered[0].trial_id})"
        setting = Setting(label, value, others, ordered, ())
        counted, reasons = _counted(setting, evaluated)
        settings.append(replace(setting, members=counted))
        left_out |= reasons
    return Grouped(tuple(sorted(settings, key=lambda setting: (setting.value, setting.label))), left_out)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted path, or all of it where two paths end alike."""
    unique = set(paths)
    lasts = [path.rpartition(".")[2] for path in unique]
    return {
        path: path if lasts.count(path.rpartition(".")[2]) > 1 else path.rpartition(".")[2] for path in unique
    }


def identity(parameters: Mapping[str, Any]) -> str:
    """Equal for equal values; 1 and 1.0 are the same number."""
    numbers = {
        path: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for path, value in parameters.items()
    }
    return json.dumps(numbers, sort_keys=True)


def _counted(setting: Setting, evaluated: Collection[str]) -> tuple[tuple[Trial, ...], dict[str, str]]:
    by_seed: dict[int, Trial] = {}
    reasons: dict[str, str] = {}
    preferred = sorted(setting.trials, key=lambda t: (t.trial_id not in evaluated, t.status != "done"))
    for trial in preferred:
        first = by_seed.setdefault(trial.seed, trial)
        if first is not trial:
            reasons[trial.trial_id] = f"the same setting and seed as {first.trial_id}, which counts for both"
    seeds = [by_seed[seed] for seed in sorted(by_seed)]
    all_evaluated = all(trial.trial_id in evaluated for trial in seeds)
    counted = []
    for trial in seeds:
        if trial.trial_id in evaluated and (all_evaluated or trial.status == "done"):
            counted.append(trial)
        else:
            reasons[trial.trial_id] = _reason(trial, trial.trial_id in evaluated)
    return tuple(counted), reasons


def _reason(trial: Trial, is_evaluated: bool) -> str:
    ended = {
        "failed": f"failed after {trial.steps} steps: {_one_line(trial.error or 'no reason is known')}",
        "stopped": f"stopped by the scheduler after {trial.steps} steps",
        "done": "finished",
    }[trial.status]
    missing = "not every seed of its setting was evaluated" if is_evaluated else "it was not evaluated"
    return f"{ended}; {missing}"


def _one_line(error: str) -> str:
    line = " ".join(error.split())
    return line if len(line) <= MAX_ERROR else f"{line[: MAX_ERROR - 1]}\u2026"


def _axis_value(trial: Trial, axis: str) -> float:
    value = trial.parameters.get(axis)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(
            f"{axis}={value!r} of trial {trial.trial_id} is not a finite number; the axis of a sweep is one of its "
            f"numeric parameters: {', '.join(trial.parameters) or 'it swept none'}"
        )
    return float(value)


def _check_ids(trials: Sequence[Trial]) -> None:
    if not trials:
        raise DataError("there are no trials; a sweep has at least one")
    ids = [trial.trial_id for trial in trials]
    repeated = sorted({trial_id for trial_id in ids if ids.count(trial_id) > 1})
    if repeated:
        raise DataError(f"trial {repeated[0]} occurs twice; give every trial once")


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
