"""The finished evaluations under the given paths, with what belongs to them: judgements, costs, validated rewards.

A path is a run directory or a directory of them. Nothing is computed here. Called by results.py and by
polyray analyze evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyray.config.reward_validation import REWARD_VALIDATION
from polyray.errors import DataError
from polyray.evaluation.sampling import EvaluationFiles
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.report.run_data import Evaluation, read_json
from polyray.shelf.research.evaluated.sources import JsonFile

JUDGE_SUMMARY = Path("judge") / "summary.json"
COST = "cost.json"


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluation.

    Example:
        EvaluatedRun(label="evaluation-seed0", evaluation=Evaluation(...), metrics=JsonFile(...))
    """

    label: str
    """Different for every run of one analysis: the directory's name, or its path."""
    evaluation: Evaluation
    metrics: JsonFile
    """evaluation/metrics.json."""
    judges: tuple[JsonFile, ...] = ()
    """summary.json of every judge of these samples."""
    cost: JsonFile | None = None

    @property
    def domain(self) -> str:
        """The task's type; the label where no configuration says it."""
        return str((self.evaluation.config.get("task") or {}).get("type") or self.label)

    @property
    def models(self) -> list[str]:
        """Models in the evaluation's order."""
        return list(self.metrics.values["models"])

    @property
    def baseline(self) -> str:
        """The model that all others are compared with."""
        return str(self.metrics.values.get("baseline") or self.models[0])

    @property
    def ks(self) -> list[int]:
        """Ascending."""
        curves = [values.get("pass_at_k", {}) for values in self.metrics.values["models"].values()]
        return sorted({int(k) for curve in curves for k in curve})

    @property
    def confidence(self) -> float:
        """Confidence of the intervals."""
        return float(self.metrics.values.get("confidence", 0.95))

    @property
    def pass_threshold(self) -> float:
        """The reward from which on a sample passes, as the evaluation fixed it."""
        return float(self.metrics.values.get("pass_threshold", PASS_THRESHOLD))

    @property
    def samples_file(self) -> Path:
        """samples.jsonl, whether it is there or not."""
        return EvaluationFiles(self.evaluation.path / "evaluation").samples

    def comparisons(self) -> list[tuple[int, dict[str, Any]]]:
        """Comparisons with the baseline for tables and figures, with their places in metrics.json.

        They are pass@1, and every metric at the largest k.
        """
        return [
            (number, entry)
            for number, entry in enumerate(self.metrics.values.get("comparisons", []))
            if entry["baseline"] == self.baseline
            and (entry["k"] == self.ks[-1] or (entry["metric"], entry["k"]) == ("pass_at_k", 1))
        ]

    def entry(self, model: str, metric: str, k: int | str) -> dict[str, Any] | None:
        """{"value", "low", "high"} of metrics.json, or None."""
        return self.metrics.values["models"].get(model, {}).get(metric, {}).get(str(k))


@dataclass(frozen=True)
class Inputs:
    """Evaluations and rewards found, in the order of the paths.

    Example:
        Inputs(runs=(EvaluatedRun(...),), rewards=(), notes=())
    """

    runs: tuple[EvaluatedRun, ...]
    rewards: tuple[JsonFile, ...]
    """metrics.json of validations of rewards (polyray evaluate reward)."""
    notes: tuple[str, ...]
    """Inputs that were found and not used, and why."""


def read_inputs(paths: Sequence[str | Path]) -> Inputs:
    """Reads all evaluations at or directly under `paths`; samples are not read.

    Raises DataError for a path without any, a broken file, and where there is no evaluation of models at all.
    """
    evaluations: dict[Path, EvaluatedRun] = {}
    rewards: dict[Path, JsonFile] = {}
    judges: dict[Path, JsonFile] = {}
    for path in map(Path, paths):
        found = [directory for directory in (path, *_children(path)) if _is_finished(directory)]
        if not found:
            raise DataError(
                f"{path} holds no finished evaluation: neither it nor a directory in it has "
                "evaluation/metrics.json; give the run directory that polyray evaluate printed"
            )
        for directory in found:
            key = directory.resolve()
            file = EvaluationFiles(directory / "evaluation").metrics
            if not file.is_file():
                judges[key] = JsonFile.read(directory / JUDGE_SUMMARY)
                continue
            metrics = JsonFile.read(file)
            if metrics.values.get("kind") == REWARD_VALIDATION:
                rewards[key] = metrics
            else:
                evaluations[key] = _evaluated_run(directory, metrics)
    if not evaluations:
        raise DataError(
            f"no evaluation of models in {', '.join(map(str, paths))}; judgements and validated rewards are "
            "read beside one: name its run directory too"
        )
    runs, notes = _with_judges(list(evaluations.values()), judges)
    return Inputs(tuple(_labelled(runs)), tuple(rewards.values()), tuple(notes))


def _children(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []


def _is_finished(directory: Path) -> bool:
    return (
        EvaluationFiles(directory / "evaluation").metrics.is_file() or (directory / JUDGE_SUMMARY).is_file()
    )


def _evaluated_run(directory: Path, metrics: JsonFile) -> EvaluatedRun:
    models = metrics.values.get("models")
    if not isinstance(models, dict) or not models:
        raise DataError(f"{metrics.path} names no models; run polyray evaluate again")
    without = [name for name, values in models.items() if not values.get("pass_at_k")]
    if without:
        raise DataError(f"{metrics.path} has no pass_at_k of {without[0]}; score the samples again")
    own = directory / JUDGE_SUMMARY
    cost = directory / COST
    return EvaluatedRun(
        label=directory.name,
        evaluation=Evaluation(directory, read_json(directory / "config.json"), metrics.values),
        metrics=metrics,
        judges=(JsonFile.read(own),) if own.is_file() else (),
        cost=JsonFile.read(cost) if cost.is_file() else None,
    )


def _with_judges(
    runs: list[EvaluatedRun], judges: dict[Path, JsonFile]
) -> tuple[list[EvaluatedRun], list[str]]:
    """Attach runs of polyray judge to the evaluation with the samples.jsonl that they read; name the others."""
    by_samples = {run.samples_file.resolve(): number for number, run in enumerate(runs)}
    notes: list[str] = []
    for directory, summary in judges.items():
        samples = read_json(directory / "config.json").get("samples")
        number = by_samples.get(Path(samples).resolve()) if samples else None
        if number is None:
            notes.append(f"{directory} judged {samples}, samples of none of these evaluations: not used")
        else:
            runs[number] = replace(runs[number], judges=(*runs[number].judges, summary))
    return runs, notes


def _labelled(runs: list[EvaluatedRun]) -> list[EvaluatedRun]:
    """Paths in place of names that occur twice."""
    names = [run.label for run in runs]
    return [
        replace(run, label=str(run.evaluation.path)) if names.count(run.label) > 1 else run for run in runs
    ]
