"""Finds runs under the given paths and reads what the report draws. Nothing is computed here.

A path may be a run directory (metrics.jsonl of a training run, evaluation/metrics.json, or both) or a
directory of run directories, such as runs/quickstart. Called by report.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from polyray.config.reward_validation import REWARD_VALIDATION
from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord, read_samples
from polyray.evaluation.sampling import EvaluationFiles


@dataclass(frozen=True)
class TrainingRun:
    """A run directory with one line of metrics per step.

    Example:
        TrainingRun(path=Path("runs/quickstart/drgrpo-seed0"), config={"seed": 0, ...}, rows=[{"step": 0,
        ...}])
    """

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    groups: list[dict[str, Any]] = field(default_factory=list)
    """Lines of rollouts.jsonl."""

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def is_supervised(self) -> bool:
        """True for a warm start: its configuration has no RL objective."""
        return bool(self.config) and "algorithm" not in self.config


@dataclass(frozen=True)
class Evaluation:
    """A run directory with evaluation/metrics.json; samples are read when they are first needed.

    Example:
        Evaluation(path=Path("runs/quickstart/evaluation-seed0"), config={"seed": 0, ...}, metrics={"models":
        {...}})
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.metrics.get("seed", 0))

    @cached_property
    def samples(self) -> list[SampleRecord]:
        """samples.jsonl, or nothing where the file was not kept."""
        file = EvaluationFiles(self.path / "evaluation").samples
        return read_samples(file) if file.is_file() else []


@dataclass(frozen=True)
class ReportData:
    """Everything found, in the order of the paths given.

    Example:
        ReportData(training=[TrainingRun(...)], evaluations=[Evaluation(...)])
    """

    training: list[TrainingRun]
    evaluations: list[Evaluation]


def load_report_data(paths: Sequence[str | Path]) -> ReportData:
    """Reads all runs at or directly under `paths`. Raises DataError for a path without any."""
    training: dict[Path, TrainingRun] = {}
    evaluations: dict[Path, Evaluation] = {}
    for path in map(Path, paths):
        found = [directory for directory in (path, *_children(path)) if _is_run(directory)]
        if not found:
            raise DataError(
                f"{path} is no run directory and holds none: neither metrics.jsonl nor "
                "evaluation/metrics.json of models is there; give the directory that a job printed, e.g. "
                "runs/quickstart (a validation of rewards has its report.html already)"
            )
        for directory in found:
            key = directory.resolve()
            if (directory / "metrics.jsonl").is_file():
                training.setdefault(key, _read_training(directory))
            if _has_evaluation(directory):
                evaluations.setdefault(key, _read_evaluation(directory))
    return ReportData(list(training.values()), list(evaluations.values()))


def _children(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []


def _is_run(directory: Path) -> bool:
    return (directory / "metrics.jsonl").is_file() or _has_evaluation(directory)


def _has_evaluation(directory: Path) -> bool:
    """Of models: a validation of rewards (jobs.evaluate reward) has a page of its own."""
    file = EvaluationFiles(directory / "evaluation").metrics
    return file.is_file() and read_json(file).get("kind") != REWARD_VALIDATION


def _read_training(directory: Path) -> TrainingRun:
    return TrainingRun(
        path=directory,
        config=read_json(directory / "config.json"),
        rows=read_lines(directory / "metrics.jsonl"),
        groups=read_lines(directory / "rollouts.jsonl"),
    )


def _read_evaluation(directory: Path) -> Evaluation:
    metrics = read_json(EvaluationFiles(directory / "evaluation").metrics)
    return Evaluation(path=directory, config=read_json(directory / "config.json"), metrics=metrics)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}; an object is expected")
    return values


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSONL file; a line without its newline is still being written and left out."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or not line.endswith("\n"):
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number} is not valid JSON: {error}") from None
    return rows
