"""Definition of a pass without a verifier: a quality, and a threshold fixed before the measurement.

    quality_of = build_quality(spec, task)             or, for a reward or a judge, the job's own
    threshold = fix_threshold(spec, task, quality_of)  on validation prompts: never on what is evaluated
    passes(quality, threshold)                         threshold.as_json() is stored beside the number

The threshold is a quantile of the quality of human texts for the validation prompts, so "passes" reads
"at least as good as half of the human texts, by this measure". Called by evaluation and by training metrics.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from polyray.config.checker import CheckerSpec, ReferenceCheckerSpec, VerifierCheckerSpec
from polyray.errors import ConfigError, DataError
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.models.text_encoder import cosine_similarity
from polyray.tasks.base import Task
from polyray.types import Prompt

QualityOf = Callable[[Sequence[tuple[Prompt, str]]], Sequence[float]]
"""(prompt, text) pairs -> one quality in [0, 1] each, in order; NaN = could not be scored."""


@runtime_checkable
class HasHumanTexts(Protocol):
    """A task that knows more than one human text per validation prompt."""

    def human_texts(self, prompt: Prompt) -> Sequence[str]:
        """Human texts for a validation prompt, best first."""
        ...


@dataclass(frozen=True, slots=True)
class FixedThreshold:
    """A threshold and where it comes from.

    Example:
        FixedThreshold(value=0.876, checker="heuristic", source="validation", quantile=0.5, n_validation=1114,
                       n_unscored=0, dataset_sha256="9f86d081...")
    """

    value: float
    checker: str
    source: Literal["verifier", "given", "validation"]
    quantile: float | None = None
    n_validation: int = 0
    """Human texts with a quality that counts."""
    n_unscored: int = 0
    """Human texts that could not be scored and are not among them."""
    dataset_sha256: str | None = None
    """sha256 of the validation prompts and human texts, scored or not."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def build_quality(spec: CheckerSpec, task: Task) -> QualityOf:
    """The quality of checkers that need nothing but the task: verifier, heuristic, reference.

    Raises ConfigError for reward_threshold and judge, because the job must give their quality.
    """
    if isinstance(spec, ReferenceCheckerSpec):
        return lambda items: [reference_similarity(spec, prompt.reference, text) for prompt, text in items]
    if spec.type in ("verifier", "heuristic"):
        return lambda items: [task.reward(prompt, text) for prompt, text in items]
    raise ConfigError(
        f"checker.type={spec.type} needs the scores of a {spec.type.split('_')[0]}, which the job asks for; "
        "checker.type=heuristic or reference needs none"
    )


def reference_similarity(spec: ReferenceCheckerSpec, reference: str | None, text: str) -> float:
    """ROUGE-L F1 (ASCII words, no stemming) or cosine within [0, 1]; NaN for a prompt without a reference."""
    if reference is None:
        return math.nan
    if spec.measure == "embedding":
        return max(0.0, cosine_similarity(spec.encoder, reference, text))
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"]).score(reference, text)["rougeL"].fmeasure)


def fix_threshold(spec: CheckerSpec, task: Task, quality_of: QualityOf) -> FixedThreshold:
    """The configured threshold, or the configured quantile of the human texts' quality on validation prompts.

    For the reference checker a prompt's reference itself is left out: it would score 1. `quality_of` is called
    once, and only if there is no configured threshold. Raises ConfigError for a verifier checker on a task
    without one, DataError where there is nothing to fix a threshold on.
    """
    if isinstance(spec, VerifierCheckerSpec):
        if not task.has_verifier:
            raise ConfigError(
                f"checker.type=verifier: task {task.name} has no verifier; set checker.type to heuristic, "
                "reward_threshold, judge or reference"
            )
        return FixedThreshold(PASS_THRESHOLD, spec.type, "verifier")
    if spec.threshold is not None:
        return FixedThreshold(spec.threshold, spec.type, "given")
    items = _validation_texts(task, without_reference=isinstance(spec, ReferenceCheckerSpec))
    if not items:
        raise DataError(
            f"checker.type={spec.type}: the validation prompts of task {task.name} have no human texts to fix a "
            "threshold on; set checker.threshold, or give the task data with such texts"
        )
    qualities = _checked(quality_of(items), len(items))
    scored = qualities[np.isfinite(qualities)]
    if not len(scored):
        raise DataError(
            f"checker.type={spec.type}: none of the {len(items)} human texts for the validation prompts of "
            f"{task.name} could be scored; see why, or set checker.threshold"
        )
    return FixedThreshold(
        value=float(np.quantile(scored, spec.threshold_quantile)),
        checker=spec.type,
        source="validation",
        quantile=spec.threshold_quantile,
        n_validation=len(scored),
        n_unscored=len(items) - len(scored),
        dataset_sha256=_sha256(items),
    )


def _validation_texts(task: Task, *, without_reference: bool) -> list[tuple[Prompt, str]]:
    items: list[tuple[Prompt, str]] = []
    for prompt in task.validation_prompts():
        reference = task.reference(prompt)
        texts = task.human_texts(prompt) if isinstance(task, HasHumanTexts) else ()
        if not texts and reference is not None:
            texts = (reference,)
        items += [(prompt, text) for text in texts if not (without_reference and text == reference)]
    return items


def _checked(qualities: Sequence[float], expected: int) -> np.ndarray:
    values = np.asarray(qualities, dtype=np.float64)
    if values.shape != (expected,):
        raise ValueError(f"quality_of answered {values.shape} values for {expected} texts; give one per text")
    scored = values[~np.isnan(values)]
    if ((scored < 0) | (scored > 1)).any():
        raise ValueError(
            f"quality_of answered values from {scored.min()} to {scored.max()}; all must be in [0, 1]"
        )
    return values


def _sha256(items: Sequence[tuple[Prompt, str]]) -> str:
    lines = [json.dumps([prompt.prompt_id, prompt.text, text]) for prompt, text in items]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
