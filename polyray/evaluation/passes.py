"""Scorer of an evaluation's samples, and the score from which a sample passes.

    verifier            the configured reward; a pass is a reward of 1
    heuristic           the task's own quality           reward_threshold   the configured reward, or another one
    reference           closeness to the reference       judge              the score of an LLM judge

All but the first need a threshold, which is fixed on validation data before sampling, and kept in
threshold.json. Called by pipeline.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from polyray.config.base import as_json
from polyray.config.checker import (
    CheckerSpec,
    HeuristicCheckerSpec,
    JudgeCheckerSpec,
    RewardThresholdCheckerSpec,
    VerifierCheckerSpec,
)
from polyray.config.reward import VerifierRewardSpec
from polyray.config.run import EvaluateConfig
from polyray.evaluation.arms import reward_name
from polyray.evaluation.checkers import FixedThreshold, QualityOf, build_quality, fix_threshold
from polyray.evaluation.sampling import EvaluationPaths
from polyray.evaluation.scorers import UNSCORED, Scored, Scorer, build_scorer
from polyray.extensions import find
from polyray.runs.atomic import atomic_write_json
from polyray.tasks.base import Task
from polyray.types import Prompt

THRESHOLD_FILE = "threshold.json"
CHECKER_CACHE = "checker_answers.jsonl"


@dataclass(frozen=True)
class Passes:
    """Scorer of samples, and the threshold of a pass.

    Example:
        Passes(scorer=RewardScorer(reward), threshold=FixedThreshold(0.999999999, "verifier", "verifier"))
    """

    scorer: Scorer
    threshold: FixedThreshold


class QualityScorer:
    """A quality instead of a reward; classes are the task's partition of the group."""

    def __init__(self, quality_of: QualityOf, task: Task) -> None:
        self._quality_of = quality_of
        self._task = task

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[Scored]:
        """See Scorer."""
        classes = self._task.partition(prompt, texts)
        qualities = self._quality_of([(prompt, text) for text in texts])
        return [
            Scored(float(quality), class_id, UNSCORED if math.isnan(quality) else None)
            for quality, class_id in zip(qualities, classes, strict=True)
        ]


def checker_of(config: EvaluateConfig, task: Task) -> CheckerSpec:
    """The configured checker; else the verifier, or the heuristic quality of a task without one."""
    if config.checker is not None:
        return config.checker
    return VerifierCheckerSpec() if task.has_verifier else HeuristicCheckerSpec()


def scorer_name(config: EvaluateConfig, task: Task) -> str:
    """The reward that gives samples their scores, as `reward_name`: what `selector=reward` picks by."""
    spec = checker_of(config, task)
    if isinstance(spec, VerifierCheckerSpec):
        reward = config.reward
    elif isinstance(spec, RewardThresholdCheckerSpec):
        reward = spec.reward or config.reward
    elif isinstance(spec, HeuristicCheckerSpec):
        reward = VerifierRewardSpec()  # on a task without a verifier it is this quality
    else:
        return f"checker {spec.type}"
    return reward_name(as_json(reward), as_json(config.task))


@contextmanager
def open_passes(config: EvaluateConfig, task: Task, paths: EvaluationPaths) -> Iterator[Passes]:
    """The scorer and its threshold; a judge that is one of them ends with the block."""
    spec = checker_of(config, task)
    if isinstance(spec, VerifierCheckerSpec):
        quality_of = build_quality(spec, task)
        yield Passes(build_scorer(config.reward, config.task), fix_threshold(spec, task, quality_of))
    elif isinstance(spec, RewardThresholdCheckerSpec):
        scorer = build_scorer(spec.reward or config.reward, config.task)
        yield Passes(scorer, _fixed(spec, task, _quality_of_scorer(scorer), paths))
    elif isinstance(spec, JudgeCheckerSpec):
        with find("checker", "judge")(config, paths.judge / CHECKER_CACHE) as quality_of:
            yield Passes(QualityScorer(quality_of, task), _fixed(spec, task, quality_of, paths))
    else:
        quality_of = build_quality(spec, task)
        yield Passes(QualityScorer(quality_of, task), _fixed(spec, task, quality_of, paths))


def _fixed(spec: CheckerSpec, task: Task, quality_of: QualityOf, paths: EvaluationPaths) -> FixedThreshold:
    """The threshold of an earlier start, else one that is fixed now and written down."""
    file = paths.evaluation / THRESHOLD_FILE
    if file.is_file():
        return FixedThreshold(**json.loads(file.read_text(encoding="utf-8")))
    threshold = fix_threshold(spec, task, quality_of)
    paths.evaluation.mkdir(parents=True, exist_ok=True)
    atomic_write_json(file, threshold.as_json())
    return threshold


def _quality_of_scorer(scorer: Scorer) -> QualityOf:
    return lambda items: [scorer(prompt, [text])[0].reward for prompt, text in items]
