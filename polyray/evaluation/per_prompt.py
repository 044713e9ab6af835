"""Sample records of one model -> one array per metric with an entry per prompt: the unit of every statistic.

Unscored samples (NaN reward) leave the set: a prompt's n shrinks, and all estimators stay unbiased for their
k. They stay in the shares that describe the samples themselves (length, truncated, unscored). Called by
scoring.py and, for paired questions of its own, by polyray/analysis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.selectors import Selector
from polyray.metrics.pass_at_k import best_at_k, distinct_correct_at_k, pass_at_k
from polyray.metrics.selection import usq_at_k

PASS_THRESHOLD = 1.0 - 1e-9
"""Rewards at or above it are passes: a verifier says 1, and sums of shares may miss it by rounding."""

MetricKey = tuple[str, str]
"""(metric, k as text, or "value"), e.g. ("pass_at_k", "8"): the two inner keys of metrics.json."""


@dataclass(frozen=True, slots=True)
class PromptTable:
    """What one model did on each of P prompts.

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


def group_by_model(records: Iterable[SampleRecord]) -> dict[str, dict[str, list[SampleRecord]]]:
    """model -> task_id -> samples in order of their index; models and prompts in order of appearance.

    Raises DataError where a sample occurs twice.
    """
    grouped: dict[str, dict[str, list[SampleRecord]]] = {}
    for record in records:
        grouped.setdefault(record.model, {}).setdefault(record.task_id, []).append(record)
    for model, prompts in grouped.items():
        for task_id, samples in prompts.items():
            samples.sort(key=lambda sample: sample.sample_index)
            indices = [sample.sample_index for sample in samples]
            if len(set(indices)) < len(indices):
                twice = next(index for index in indices if indices.count(index) > 1)
                raise DataError(
                    f"sample {twice} of {task_id} ({model}) occurs twice; each sample belongs in one line"
                )
    return grouped


def has_graded_rewards(records: Iterable[SampleRecord], pass_threshold: float = PASS_THRESHOLD) -> bool:
    """True where some scored reward is neither 0 nor a pass: then the best of k says more than pass@k."""
    return any(abs(record.reward) > 1e-9 and record.reward < pass_threshold for record in records)


def compute_table(
    model: str,
    prompts: Mapping[str, Sequence[SampleRecord]],
    *,
    ks: Sequence[int],
    selector: Selector,
    graded: bool,
    pass_threshold: float = PASS_THRESHOLD,
) -> PromptTable:
    """All per-prompt metrics of one model; `graded` adds best_at_k.

    Raises DataError naming the first prompt with fewer scored samples than the largest k.
    """
    scored = [
        [sample for sample in samples if sample.reward == sample.reward] for samples in prompts.values()
    ]
    for task_id, kept in zip(prompts, scored, strict=True):
        if len(kept) < max(ks):
            raise DataError(
                f"{task_id} has {len(kept)} scored samples of {model} ({len(prompts[task_id])} in all), "
                f"fewer than k={max(ks)}: pass@k has no unbiased estimate; sample more or lower "
                "evaluation.ks"
            )
    values = _described(list(prompts.values()), scored)
    values |= _passes(scored, ks, pass_threshold)
    values |= _selections(scored, ks, selector, graded)
    return PromptTable(
        model=model,
        task_ids=tuple(prompts),
        clusters=tuple(samples[0].cluster for samples in prompts.values()),
        num_samples=max(len(samples) for samples in prompts.values()),
        values=values,
    )


def _described(
    samples_P: Sequence[Sequence[SampleRecord]], scored_P: Sequence[Sequence[SampleRecord]]
) -> dict[MetricKey, np.ndarray]:
    """Mean reward of the scored samples; length, truncated and unscored shares of all samples."""
    columns: dict[MetricKey, list[float]] = {
        ("mean_reward", "value"): [float(np.mean([s.reward for s in kept])) for kept in scored_P],
        ("completion_length_mean", "value"): [
            float(np.mean([s.num_tokens for s in all_])) for all_ in samples_P
        ],
        ("truncated_share", "value"): [
            float(np.mean([s.finish_reason == "length" for s in all_])) for all_ in samples_P
        ],
        ("unscored_share", "value"): [
            1.0 - len(kept) / len(all_) for kept, all_ in zip(scored_P, samples_P, strict=True)
        ],
    }
    return {key: np.array(column, dtype=np.float64) for key, column in columns.items()}


def _passes(
    scored_P: Sequence[Sequence[SampleRecord]], ks: Sequence[int], pass_threshold: float
) -> dict[MetricKey, np.ndarray]:
    """pass_at_k and distinct_correct_at_k of the scored samples."""
    correct_PG = [np.array([s.reward >= pass_threshold for s in kept], dtype=bool) for kept in scored_P]
    classes_PG = [np.array([s.class_id for s in kept], dtype=np.int64) for kept in scored_P]
    num_samples_P = np.array([len(correct_G) for correct_G in correct_PG])
    num_correct_P = np.array([int(correct_G.sum()) for correct_G in correct_PG])
    values: dict[MetricKey, np.ndarray] = {}
    for k in ks:
        values["pass_at_k", str(k)] = np.asarray(pass_at_k(num_samples_P, num_correct_P, k))
        values["distinct_correct_at_k", str(k)] = np.array(
            [distinct_correct_at_k(c, ok, k) for c, ok in zip(classes_PG, correct_PG, strict=True)],
            dtype=np.float64,
        )
    return values


def _selections(
    scored_P: Sequence[Sequence[SampleRecord]], ks: Sequence[int], selector: Selector, graded: bool
) -> dict[MetricKey, np.ndarray]:
    """usq_at_k, and best_at_k where rewards are graded."""
    quality_PG = [np.array([s.reward for s in kept], dtype=np.float64) for kept in scored_P]
    scores_PG = [selector(kept) for kept in scored_P]
    values: dict[MetricKey, np.ndarray] = {}
    for k in ks:
        values["usq_at_k", str(k)] = np.array(
            [usq_at_k(s, q, k) for s, q in zip(scores_PG, quality_PG, strict=True)], dtype=np.float64
        )
        if graded:
            values["best_at_k", str(k)] = np.array([best_at_k(q, k) for q in quality_PG], dtype=np.float64)
    return values
