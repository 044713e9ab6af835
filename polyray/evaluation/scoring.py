"""Samples of any number of models -> metrics.json: values, intervals, paired comparisons.

    {"dataset_sha256", "n_problems", "n_clusters", "n_samples", "seed", "selector", "selectors", "baseline",
     "confidence", "pass_threshold", "warnings", ...,
     "models": {NAME: {METRIC: {K or "value": {"value", "low", "high"}}}},
     "comparisons": [{"metric", "k", "model", "baseline", "difference", "low", "high", "p", "p_adjusted", ...}, ...]}

Values have percentile intervals, differences BCa ones, both over clusters of prompts. Samples are read one prompt at
a time, so memory does not grow with them. Called by polyray evaluate after sampling and by its `score` on any
samples.jsonl; both give the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyray.config.evaluation import EvaluationSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.evaluation.comparisons import compare_tables
from polyray.evaluation.curves import as_entry, derived_values
from polyray.evaluation.per_prompt import MetricSettings, PromptTable, TextMetrics, compute_table
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList, SampleSource, all_groups
from polyray.evaluation.selectors import Selector, get_selector, refusals
from polyray.metrics.groups import PASS_THRESHOLD

SATURATED = 0.95
"""pass@k above it tells models apart no longer."""


@dataclass(frozen=True)
class ScoringContext:
    """Context of scoring that is not in the samples.

    Example:
        ScoringContext(seed=0, baseline="base", reward='{"type": "verifier"} on code', trained_on={"base": None})
    """

    seed: int
    baseline: str | None = None
    """The model all others are compared with; None: the first."""
    pass_threshold: float = PASS_THRESHOLD
    threshold_source: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the threshold, if it was fixed (checkers.py); stored beside the numbers."""
    reward: str | None = None
    """Identity of the reward that scored the samples."""
    trained_on: Mapping[str, str | None] = field(default_factory=dict)
    """model -> identity of the reward it was trained on."""
    text_metrics: TextMetrics | None = None


def score_samples(
    samples: SampleSource | Sequence[SampleRecord], spec: EvaluationSpec, context: ScoringContext
) -> dict[str, Any]:
    """The contents of metrics.json.

    A k for which a prompt has samples but too few scored ones is left out, with a warning. Raises ConfigError for an
    unknown selector or baseline, DataError for prompts without enough samples or models that were not asked the same
    prompts.
    """
    source = SampleList(samples) if isinstance(samples, Sequence) else samples
    models = source.models
    baseline = _checked_baseline(context.baseline, models)
    ks, notes = _estimable(spec.ks, source)
    spec = spec.model_copy(update={"ks": ks})
    settings = _settings(spec, context)
    order = source.task_ids(baseline)
    tables = [
        compute_table(model, source, _same_prompts(source, order, model, baseline), settings)
        for model in models
    ]
    reference = next(table for table in tables if table.model == baseline)
    _check_same_dataset(tables, reference)
    bootstrap = ClusterBootstrap.draw(
        reference.clusters, spec.bootstrap_resamples, spec.confidence, context.seed
    )
    graded = any(table.graded for table in tables)
    values = {table.model: _model_values(table, settings, bootstrap, graded) for table in tables}
    return {
        "dataset_sha256": _hash(reference.asked),
        "n_problems": len(order),
        "n_clusters": bootstrap.num_clusters,
        "n_samples": max(table.num_samples for table in tables),
        "seed": context.seed,
        "selector": spec.selector,
        "selectors": _selector_notes(settings),
        "baseline": baseline,
        "confidence": spec.confidence,
        "bootstrap_resamples": spec.bootstrap_resamples,
        "pass_threshold": context.pass_threshold,
        "threshold": dict(context.threshold_source),
        "reward": context.reward,
        "warnings": [*notes, *_warnings(values)],
        "models": values,
        "comparisons": compare_tables(tables, baseline, spec, context.seed),
    }


def _estimable(ks: tuple[int, ...], source: SampleSource) -> tuple[tuple[int, ...], list[str]]:
    """The ks that every prompt has enough scored samples for, and a warning about the others."""
    sampled, scored = zip(
        *(
            (len(group), sum(sample.reward == sample.reward for sample in group))
            for group in all_groups(source)
        ),
        strict=True,
    )
    lost = [k for k in ks if min(scored) < k <= min(sampled)]
    if not lost or len(lost) == len(ks):
        return ks, []
    found = ", ".join(map(str, lost))
    return tuple(k for k in ks if k not in lost), [
        f"k = {found} left out: a prompt has only {min(scored)} scored samples, too few for an unbiased estimate"
    ]


def _hash(asked: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(set(asked))).encode()).hexdigest()


def _settings(spec: EvaluationSpec, context: ScoringContext) -> MetricSettings:
    names = list(dict.fromkeys([spec.selector, *spec.more_selectors]))
    selectors: dict[str, Selector] = {name: get_selector(name) for name in names}
    refused = {} if spec.allow_self_selection else refusals(names, context.reward, context.trained_on)
    return MetricSettings(
        spec.ks, spec.selector, selectors, context.pass_threshold, refused, context.text_metrics
    )


def _selector_notes(settings: MetricSettings) -> dict[str, Any]:
    """name -> hash of its definition and, where picks were refused, of which models and why."""
    notes: dict[str, Any] = {}
    for name, selector in settings.selectors.items():
        refused = {model: reasons[name] for model, reasons in settings.refused.items() if name in reasons}
        notes[name] = {"sha256": selector.sha256, **({"refused": refused} if refused else {})}
    return notes


def _checked_baseline(baseline: str | None, models: Sequence[str]) -> str:
    if baseline is None:
        return models[0]
    if baseline not in models:
        raise ConfigError(f"compare_to={baseline!r} is none of the sampled models: {', '.join(models)}")
    return baseline


def _same_prompts(source: SampleSource, order: Sequence[str], model: str, baseline: str) -> Sequence[str]:
    """The baseline's order; pairing needs equal sets."""
    different = sorted(set(source.task_ids(model)) ^ set(order))
    if different:
        raise DataError(
            f"{model} and {baseline} were not asked the same prompts: {len(different)} differ, the first is "
            f"{different[0]}; evaluate all models on one set"
        )
    return order


def _check_same_dataset(tables: Sequence[PromptTable], reference: PromptTable) -> None:
    for table in tables:
        for mine, other in zip(table.asked, reference.asked, strict=True):
            if mine != other:
                task_id = mine.partition("\t")[0]
                raise DataError(
                    f"{task_id} is another prompt for {table.model} than for {reference.model} (prompt_sha256 "
                    "differs): the samples belong to two data sets; sample both on one"
                )


def _model_values(
    table: PromptTable, settings: MetricSettings, bootstrap: ClusterBootstrap, graded: bool
) -> dict[str, dict[str, dict[str, Any]]]:
    keys = [key for key in table.values if key[0] != "best_at_k" or graded]
    bounds = bootstrap.intervals(np.stack([table.values[key] for key in keys], axis=1))
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for (metric, k), mean, low, high in zip(keys, *bounds, strict=True):
        metrics.setdefault(metric, {})[k] = as_entry(mean, low, high)
    usq_metrics = [metric for metric in metrics if metric.startswith("usq_at_k")]
    return metrics | derived_values(table, settings.ks, usq_metrics, bootstrap)


def _warnings(values: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> list[str]:
    """Numbers that say less than they seem to."""
    found = []
    for model, metrics in values.items():
        saturated = [k for k, entry in metrics["pass_at_k"].items() if entry["value"] > SATURATED]
        if saturated:
            found.append(
                f"{model}: pass@{saturated[0]} is above {SATURATED:g}, so larger k and other models can hardly be "
                "told apart by it; read best@k, distinct-correct@k and USQ@k, or take harder prompts"
            )
    return found
