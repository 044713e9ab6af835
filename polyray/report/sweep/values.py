"""Per-prompt values of every trial, recomputed from the samples of the sweep's evaluation.

metrics.json has intervals over prompts for each arm alone; seeds of one setting need the prompts themselves.
Selector, threshold of a pass and refused selectors are those that the evaluation stored. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyray.config.evaluation import AT_K
from polyray.errors import DataError
from polyray.evaluation.per_prompt import (
    MetricKey,
    MetricSettings,
    PromptTable,
    TextMetrics,
    compute_table,
)
from polyray.evaluation.sample_source import SampleFile
from polyray.evaluation.sampling import EvaluationFiles
from polyray.evaluation.selectors import get_selector
from polyray.report.headline import METRIC_LABELS, metric_label
from polyray.report.run_data import read_json
from polyray.report.sweep.trials import Trial


@dataclass(frozen=True, slots=True)
class SweepValues:
    """Values of the trials on each of P prompts, the same ones for all.

    Example:
        SweepValues(metrics={"confidence": 0.95, ...}, tables={"t003-3f9a": PromptTable(...)}, clusters=("b1>e4",))
    """

    metrics: dict[str, Any]
    """metrics.json of the evaluation."""
    tables: dict[str, PromptTable]
    clusters: tuple[str, ...]
    """[P]"""

    @property
    def confidence(self) -> float:
        """Confidence of every interval."""
        return float(self.metrics.get("confidence", 0.95))

    @property
    def resamples(self) -> int:
        """Resamples of every interval."""
        return int(self.metrics.get("bootstrap_resamples", 2000))

    def has(self, key: MetricKey) -> bool:
        """Whether every trial has it: a selector may have been refused for some."""
        return all(key in table.values for table in self.tables.values())

    def check(self, key: MetricKey, asked_for: str) -> None:
        """Raises DataError naming what there is instead, or the prompts without a value."""
        if not self.has(key):
            known = [metric_name(known) for known in next(iter(self.tables.values())).values]
            raise DataError(
                f"{asked_for}={metric_name(key)!r} is not a per-prompt value of every trial; there are "
                f"{', '.join(known)}"
            )
        missing = sum(int(np.isnan(table.values[key]).sum()) for table in self.tables.values())
        if missing:
            raise DataError(
                f"{asked_for}={metric_name(key)!r} has no value for {missing} prompts; choose one that exists for all"
            )

    def matrix(self, trials: Sequence[Trial], key: MetricKey) -> np.ndarray:
        """[S, P] float64, a row per trial."""
        return np.stack([self.tables[trial.trial_id].values[key] for trial in trials])


def metric_key(name: str) -> MetricKey:
    """pass_at_8 -> ("pass_at_k", "8"); mean_reward -> ("mean_reward", "value")"""
    found = AT_K.fullmatch(name)
    return (f"{found[1]}_k{found[3] or ''}", found[2]) if found else (name, "value")


def metric_name(key: MetricKey) -> str:
    """The inverse of `metric_key`: ("usq_at_k/first", "8") -> usq_at_8/first"""
    metric, k = key
    base, slash, selector = metric.partition("/")
    return metric if k == "value" else f"{base.removesuffix('k')}{k}{slash}{selector}"


def metric_words(key: MetricKey) -> str:
    """Words for the page: ("pass_at_k", "8") -> pass@8; ("mean_reward", "value") -> mean reward"""
    metric, k = key
    base, _, selector = metric.partition("/")
    words = metric_label(base, int(k)) if base in METRIC_LABELS and k != "value" else base.replace("_", " ")
    return f"{words} ({selector})" if selector else words


def evaluated_arms(directory: Path) -> tuple[str, ...]:
    """Names of the arms that an evaluation finished. Raises DataError where there is none."""
    return tuple(_metrics(directory)["models"])


def read_values(
    directory: Path, trial_ids: Collection[str], ks: Sequence[int], text_metrics: TextMetrics | None = None
) -> SweepValues:
    """Every per-prompt metric of the given trials, in the order of the first one's prompts.

    Args:
        directory: of the evaluation, with samples.jsonl and metrics.json.
        trial_ids: the arms to read, at least one.
        ks: of the curves; no k may exceed the samples of a prompt.
        text_metrics: those that read the texts, where the evaluation has some.

    Raises:
        DataError: a missing or broken file, prompts that differ between trials, too few samples for the largest k.
    """
    metrics = _metrics(directory)
    notes = metrics.get("selectors") or {metrics["selector"]: {}}
    refused: dict[str, dict[str, str]] = {}
    for selector, note in notes.items():
        for model, reason in note.get("refused", {}).items():
            refused.setdefault(model, {})[selector] = reason
    settings = MetricSettings(
        ks=sorted(set(ks)),
        selector=metrics["selector"],
        selectors={name: get_selector(name) for name in notes},
        pass_threshold=float(metrics["pass_threshold"]),
        refused=refused,
        text_metrics=text_metrics,
    )
    tables: dict[str, PromptTable] = {}
    with SampleFile(EvaluationFiles(directory).samples) as source:
        order: list[str] = []
        for trial_id in trial_ids:
            own = source.task_ids(trial_id)
            order = order or own
            if set(own) != set(order):
                raise DataError(
                    f"trial {trial_id} was not asked the same prompts as {next(iter(tables))}: "
                    f"{len(set(own) ^ set(order))} differ; evaluate all trials on one set"
                )
            tables[trial_id] = compute_table(trial_id, source, order, settings)
    return SweepValues(metrics, tables, next(iter(tables.values())).clusters)


def _metrics(directory: Path) -> dict[str, Any]:
    path = EvaluationFiles(directory).metrics
    metrics = read_json(path)
    if "models" not in metrics:
        raise DataError(
            f"no evaluation at {path}; give the directory that holds its samples.jsonl and metrics.json, "
            "e.g. runs/SWEEP/evaluation"
        )
    return metrics
