"""Outcomes of all samples of an evaluation, as arrays: pass, class, length.

All models have the same prompts in the same order and the same number of samples: the first scored ones of every
prompt, as many as the prompt with the fewest has, samples of even and of odd index by turns. Texts stay in
samples.jsonl, which is read a prompt at a time. Called by theory.py and conditions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleSource
from polyray.metrics.arrays import Floats, Integers
from polyray.metrics.groups import PASS_THRESHOLD

EVEN, ODD, ALL = slice(0, None, 2), slice(1, None, 2), slice(None)
"""Columns of Outcomes, which are samples of even and odd index: two independent measurements of exchangeable samples.
Models share seeds by index, so one model's EVEN samples are not independent of another model's EVEN samples."""
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Outcomes:
    """P prompts and N samples each of one model.

    Example:
        Outcomes(model="GRPO", task_ids=("he-0",), clusters=("he-0",), passed_PN=np.array([[True, False]]),
                 classes_PN=np.array([[77, -1]]), tokens_PN=np.array([[31, 40]]), prompt_chars_P=np.array([212.]))
    """

    model: str
    task_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    passed_PN: np.ndarray
    """[P, N] bool."""
    classes_PN: Integers
    tokens_PN: Integers
    """Tokens of the completion; 0 if the samples do not say."""
    prompt_chars_P: Floats
    """0 where the samples do not say."""

    @property
    def num_samples(self) -> int:
        """N."""
        return self.passed_PN.shape[1]

    def num_correct(self, which: slice = ALL) -> Integers:
        """[P] how many of these samples passed."""
        return self.passed_PN[:, which].sum(axis=1).astype(np.int64)

    def num_taken(self, which: slice = ALL) -> int:
        """Number of samples of a prompt in this part."""
        return len(range(self.num_samples)[which])


def read_outcomes(source: SampleSource, metrics: Mapping[str, Any]) -> dict[str, Outcomes]:
    """model -> outcomes, for the models of metrics.json.

    Raises DataError where the samples are not those that metrics.json was computed from.
    """
    models = list(metrics["models"])
    missing = [model for model in models if model not in source.models]
    if missing:
        raise DataError(f"samples.jsonl has no samples of {missing[0]}, which metrics.json has; score again")
    order = source.task_ids(models[0])
    threshold = float(metrics.get("pass_threshold", PASS_THRESHOLD))
    read: dict[str, list[_Prompt]] = {}
    for model in models:
        if set(source.task_ids(model)) != set(order):
            raise DataError(f"{model} and {models[0]} were not asked the same prompts; score them apart")
        read[model] = [_prompt(source.group(model, task_id), threshold) for task_id in order]
        _check_same(model, read[model], metrics)
    halves = [prompt.halves for prompts in read.values() for prompt in prompts]
    num_even, num_odd = (min(len(pair[which]) for pair in halves) for which in (0, 1))
    counts = min(num_even, num_odd + 1), min(num_even, num_odd)
    return {model: _outcomes(model, order, prompts, counts) for model, prompts in read.items()}


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The scored samples of one model for one prompt, without their texts."""

    cluster: str
    prompt_chars: int
    indices_G: np.ndarray
    passed_G: np.ndarray
    classes_G: np.ndarray
    tokens_G: np.ndarray

    @property
    def halves(self) -> tuple[Integers, Integers]:
        """Positions of the samples of even and of odd index."""
        odd_G = self.indices_G % 2 == 1
        return np.flatnonzero(~odd_G), np.flatnonzero(odd_G)

    def columns(self, counts: tuple[int, int]) -> Integers:
        """Samples of even and odd index by turns, `counts` of them; the first sample where there are no halves."""
        even, odd = (half[:count] for half, count in zip(self.halves, counts, strict=True))
        if not len(even):
            return np.array([0])
        chosen = np.empty(len(even) + len(odd), dtype=np.int64)
        chosen[EVEN], chosen[ODD] = even, odd
        return chosen


def _prompt(samples: Sequence[SampleRecord], threshold: float) -> _Prompt:
    scored = [sample for sample in samples if sample.reward == sample.reward]
    if not scored:
        raise DataError(f"{samples[0].task_id} has no scored sample of {samples[0].model}; score again")
    return _Prompt(
        cluster=scored[0].cluster,
        prompt_chars=len(scored[0].prompt),
        indices_G=np.array([sample.sample_index for sample in scored]),
        passed_G=np.array([sample.reward >= threshold for sample in scored]),
        classes_G=np.array([sample.class_id for sample in scored], dtype=np.int64),
        tokens_G=np.array([sample.num_tokens for sample in scored], dtype=np.int64),
    )


def _check_same(model: str, prompts: Sequence[_Prompt], metrics: Mapping[str, Any]) -> None:
    """pass@1 of the samples must be what metrics.json says."""
    said = (metrics["models"][model]["pass_at_k"].get("1") or {}).get("value")
    found = float(np.mean([prompt.passed_G.mean() for prompt in prompts]))
    if said is not None and abs(found - said) > TOLERANCE:
        raise DataError(
            f"pass@1 of {model} is {found:.6f} by samples.jsonl and {said:.6f} by metrics.json: the samples are "
            "others; run `polyray evaluate score` on them"
        )


def _outcomes(
    model: str, order: Sequence[str], prompts: Sequence[_Prompt], counts: tuple[int, int]
) -> Outcomes:
    columns = [prompt.columns(counts) for prompt in prompts]
    return Outcomes(
        model=model,
        task_ids=tuple(order),
        clusters=tuple(prompt.cluster for prompt in prompts),
        passed_PN=np.stack([prompt.passed_G[at] for prompt, at in zip(prompts, columns, strict=True)]),
        classes_PN=np.stack([prompt.classes_G[at] for prompt, at in zip(prompts, columns, strict=True)]),
        tokens_PN=np.stack([prompt.tokens_G[at] for prompt, at in zip(prompts, columns, strict=True)]),
        prompt_chars_P=np.array([prompt.prompt_chars for prompt in prompts], dtype=np.float64),
    )
