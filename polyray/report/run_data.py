"""Finds runs under the given paths and reads what the report draws. Nothing is computed here.

A path may be a run directory (metrics.jsonl of a training run, evaluation/metrics.json, or both) or a
directory of run directories, such as runs/quickstart. Called by report.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from polyray.config.reward_validation import REWARD_VALIDATION
from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord, read_samples
from polyray.evaluation.sampling import EvaluationFiles

T = TypeVar("T")
TRAINING_KEYS = {"task", "learner", "model"}
EVALUATION_KEYS = {"task", "evaluation", "adapters"}
"""Keys that only the configurations of these jobs have."""


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
    dynamics: list[dict[str, Any]] = field(default_factory=list)
    """Lines of dynamics.jsonl."""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    """Lines of incidents.jsonl."""
    done: dict[str, Any] = field(default_factory=dict)
    """DONE; empty for a run that was stopped or still runs."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """polyray.json of the final adapter."""

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
    """Runs and evaluations found, in the order of the paths given.

    Example:
        ReportData(training=[TrainingRun(...)], evaluations=[Evaluation(...)])
    """

    training: list[TrainingRun]
    evaluations: list[Evaluation]
    unscored: list[Path] = field(default_factory=list)
    """Evaluations that have not come to metrics.json."""


def load_report_data(paths: Sequence[str | Path]) -> ReportData:
    """Reads all runs at or directly under `paths`, those that were stopped early included.

    Raises DataError for a path without any, and for a log or a metrics.json that is damaged.
    """
    training: dict[Path, TrainingRun] = {}
    evaluations: dict[Path, Evaluation] = {}
    unscored: dict[Path, Path] = {}
    for path in map(Path, paths):
        found = [directory for directory in (path, *_children(path)) if _is_run(directory)]
        if not found:
            raise DataError(
                f"{path} is not a run directory and contains none: neither metrics.jsonl nor "
                "evaluation/metrics.json of models is there; give the directory that a job printed, e.g. "
                "runs/quickstart (a validation of rewards has its report.html already)"
            )
        for directory in found:
            key = directory.resolve()
            if (directory / "metrics.jsonl").is_file() or _has_begun(directory, TRAINING_KEYS):
                training.setdefault(key, _read_training(directory))
            if _has_evaluation(directory):
                evaluations.setdefault(key, _read_evaluation(directory))
            elif _has_begun(directory, EVALUATION_KEYS):
                unscored.setdefault(key, directory)
    return ReportData(list(training.values()), list(evaluations.values()), list(unscored.values()))


def _children(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []


def _is_run(directory: Path) -> bool:
    begun = _has_begun(directory, TRAINING_KEYS) or _has_begun(directory, EVALUATION_KEYS)
    return begun or (directory / "metrics.jsonl").is_file() or _has_evaluation(directory)


def _has_begun(directory: Path, keys: set[str]) -> bool:
    """Whether the configuration there is of such a job: it is written before the first step."""
    return keys <= _beside(read_json, directory / "config.json", {}).keys()


def _has_evaluation(directory: Path) -> bool:
    """Whether there is an evaluation of models; a validation of rewards (polyray evaluate reward) has its own
    page.
    """
    file = EvaluationFiles(directory / "evaluation").metrics
    return file.is_file() and read_json(file).get("kind") != REWARD_VALIDATION


def _read_training(directory: Path) -> TrainingRun:
    return TrainingRun(
        path=directory,
        config=read_json(directory / "config.json"),
        rows=read_lines(directory / "metrics.jsonl"),
        groups=read_lines(directory / "rollouts.jsonl"),
        dynamics=read_lines(directory / "dynamics.jsonl"),
        incidents=_beside(read_lines, directory / "incidents.jsonl", []),
        done=_done(directory),
        manifest=_beside(read_json, directory / "adapter" / "polyray.json", {}),
    )


def _done(directory: Path) -> dict[str, Any]:
    """Contents of DONE; its presence alone marks a finished run."""
    is_done = (directory / "DONE").is_file()
    return _beside(read_json, directory / "DONE", {}) or ({"DONE": True} if is_done else {})


def _read_evaluation(directory: Path) -> Evaluation:
    metrics = read_json(EvaluationFiles(directory / "evaluation").metrics)
    return Evaluation(
        path=directory,
        config=read_json(directory / "config.json"),
        metrics=metrics,
    )


def _beside(read: Callable[[Path], T], path: Path, otherwise: T) -> T:
    """A file that only adds to the page: a damaged one is as good as none."""
    try:
        return read(path)
    except (DataError, UnicodeDecodeError):
        return otherwise


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
