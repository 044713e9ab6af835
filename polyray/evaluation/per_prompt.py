"""Sample records of one model -> one array per metric with an entry per prompt: the unit of every statistic.

Unscored samples (NaN reward) leave the set: a prompt's n shrinks, and all estimators stay unbiased for their
k. They stay in the shares that describe the samples themselves (length, truncated, unscored). Groups are read one
at a time. Called by scoring.py and, for paired questions of its own, by polyray/report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleSource
from polyray.evaluation.selectors import Selector
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.metrics.pass_at_k import best_curve, distinct_correct_curve

MetricKey = tuple[str, str]
"""(metric, k as text, or "value"), e.g. ("pass_at_k", "8"): the two inner keys of metrics.json."""
TextMetrics = Callable[[Sequence[SampleRecord]], Mapping[str, float]]
"""Samples of one prompt -> values of metrics that read their texts."""


@dataclass(frozen=True)
class MetricSettings:
    """Settings of the metrics of every prompt.

    Example:
        MetricSettings(ks=(1, 2, 4, 8), selector="logprob", selectors={"logprob": get_selector("logprob")})
    """

    ks: Sequence[int]
    selector: str
    """Selector of the picks of usq_at_k; the others are usq_at_k/NAME."""
    selectors: Mapping[str, Selector]
    pass_threshold: float = PASS_THRESHOLD
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """model -> selector -> why its picks are not reported."""
    text_metrics: TextMetrics | None = None


@dataclass(frozen=True, slots=True)
class PromptTable:
    """Metrics of one model on each of P prompts.

    Example:
        PromptTable(model="Dr.GRPO", task_ids=("eval-37|b1>e4=",), clusters=("b1>e4",), num_samples=16,
                    values={("pass_at_k", "1"): np.array([0.4375])})
    """

    model: str
    task_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    num_samples: int
    """The most samples any prompt has, unscored ones included."""
    values: Mapping[MetricKey, np.ndarray]
    """[P] float64 each."""
    graded: bool
    """Whether some reward is neither 0 nor a pass: then the best of k says more than pass@k."""
    num_scored_P: np.ndarray
    num_correct_P: np.ndarray
    asked: tuple[str, ...]
    """[P] task_id and hash of the prompt: what the data set's hash is made of."""


def compute_table(
    model: str, source: SampleSource, task_ids: Sequence[str], settings: MetricSettings
) -> PromptTable:
    """All per-prompt metrics of one model, in the order of `task_ids`.

    Raises DataError naming the first prompt with fewer scored samples than the largest k.
    """
    columns: dict[MetricKey, list[float]] = {}
    clusters: list[str] = []
    asked: list[str] = []
    counts: list[tuple[int, int]] = []
    graded, num_samples = False, 0
    for task_id in task_ids:
        samples = source.group(model, task_id)
        scored = [sample for sample in samples if sample.reward == sample.reward]
        _check_enough(task_id, model, len(scored), len(samples), max(settings.ks))
        for key, value in _prompt_values(samples, scored, settings).items():
            columns.setdefault(key, []).append(value)
        clusters.append(samples[0].cluster)
        asked.append(f"{task_id}\t{samples[0].prompt_sha256}")
        counts.append((len(scored), sum(s.reward >= settings.pass_threshold for s in scored)))
        num_samples = max(num_samples, len(samples))
        graded = graded or any(abs(s.reward) > 1e-9 and s.reward < settings.pass_threshold for s in scored)
    values = {key: np.array(column, dtype=np.float64) for key, column in columns.items()}
    num_scored_P, num_correct_P = np.array(counts, dtype=np.int64).T
    return PromptTable(
        model=model,
        task_ids=tuple(task_ids),
        clusters=tuple(clusters),
        num_samples=num_samples,
        values=values,
        graded=graded,
        num_scored_P=num_scored_P,
        num_correct_P=num_correct_P,
        asked=tuple(asked),
    )


def _check_enough(task_id: str, model: str, num_scored: int, num_samples: int, k: int) -> None:
    if num_scored < k:
        raise DataError(
            f"{task_id} has {num_scored} scored samples of {model} ({num_samples} in all), "
            f"fewer than k={k}: pass@k has no unbiased estimate; sample more or lower "
            "evaluation.ks"
        )


def _prompt_values(
    samples: Sequence[SampleRecord], scored: Sequence[SampleRecord], settings: MetricSettings
) -> dict[MetricKey, float]:
    qualities_G = np.array([sample.reward for sample in scored], dtype=np.float64)
    correct_G = qualities_G >= settings.pass_threshold
    classes_G = np.array([sample.class_id for sample in scored], dtype=np.int64)
    values: dict[MetricKey, float] = {
        ("mean_reward", "value"): float(qualities_G.mean()),
        ("completion_length_mean", "value"): float(np.mean([s.num_tokens for s in samples])),
        ("truncated_share", "value"): float(np.mean([s.finish_reason == "length" for s in samples])),
        ("unscored_share", "value"): 1.0 - len(scored) / len(samples),
    }
    curves = {
        "pass_at_k": best_curve(correct_G, settings.ks),  # of qualities 0 and 1
        "distinct_correct_at_k": distinct_correct_curve(classes_G, correct_G, settings.ks),
        "best_at_k": best_curve(qualities_G, settings.ks),
    }
    for metric, curve in curves.items():
        values |= {(metric, str(k)): value for k, value in zip(settings.ks, curve, strict=True)}
    for name, selector in settings.selectors.items():
        if name in settings.refused.get(samples[0].model, {}):
            continue
        metric = "usq_at_k" if name == settings.selector else f"usq_at_k/{name}"
        for k, picked in selector.usq(scored, qualities_G, settings.ks).items():
            values[metric, str(k)] = picked
    if settings.text_metrics is not None:
        for metric, value in settings.text_metrics(samples).items():
            values[metric, "value"] = value
    return values
