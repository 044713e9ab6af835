"""One evaluation from its configuration: arms, checker, judge, sampling, metrics. No Ray: the engines are a callable.

    EvaluateConfig -> arms.py -> sampling.py (+ scorers.py, judge/live.py) -> files -> scoring.py -> metrics.json
                                                                                     -> exporters.py

Called by polyray evaluate and by the quickstart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from polyray.config.run import EvaluateConfig
from polyray.evaluation.arms import Arm, resolve_arms
from polyray.evaluation.exporters import CodeText, export_samples, read_verdicts
from polyray.evaluation.fingerprints import check_unchanged, claim, fingerprints
from polyray.evaluation.passes import Passes, open_passes, scorer_name
from polyray.evaluation.per_prompt import TextMetrics
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleFile, SampleSource
from polyray.evaluation.sampling import (
    EvaluationFiles,
    EvaluationPaths,
    Progress,
    Sample,
    Sampling,
    sample_arms,
)
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.evaluation.text_metrics import build_text_metrics, check_text_metrics
from polyray.extensions import find
from polyray.runs.atomic import atomic_write_json
from polyray.tasks import build_task
from polyray.tasks.base import Task


class LiveJudge(Protocol):
    """Judges samples while others are still being drawn."""

    def feed(self, samples: Sequence[SampleRecord], /) -> None:
        """Takes the samples of one prompt by one model, in the order of samples.jsonl."""

    def finish(self) -> None:
        """Writes the summary once the last answer is there; raises what stopped the judge."""

    def close(self) -> None:
        """Ends the judge's threads."""


def run_evaluation(
    config: EvaluateConfig, paths: EvaluationPaths, sample: Sample, progress: Progress | None = None
) -> dict[str, Any]:
    """Samples what is not there yet, writes metrics.json and returns its contents.

    Raises ConfigError where the samples that are there are of other adapters, and what stopped the judge when all the
    rest is written.
    """
    files = EvaluationFiles(paths.evaluation)
    task, arms = _asked(config)
    check_text_metrics(config.evaluation, _references(config, task))
    claim(paths.evaluation, fingerprints(config, arms))
    with open_passes(config, task, paths) as passes, _judging(config, paths) as judge:
        sampling = _sampling(config, task, sample, passes, progress, judge)
        sample_arms(arms, sampling, files)
        metrics = _write_metrics(config, task, arms, passes, files)
        if judge is not None:
            judge.finish()
    return metrics


def text_metrics_of(config: EvaluateConfig, task: Task, source: SampleSource) -> TextMetrics | None:
    """The text metrics of an evaluation, for its samples of one prompt; None if none is requested."""
    return build_text_metrics(config.evaluation, source, _references(config, task))


def check_finished(config: EvaluateConfig, paths: EvaluationPaths) -> None:
    """Raises ConfigError where a finished evaluation is of other files than its configuration names now."""
    check_unchanged(paths.evaluation, fingerprints(config, _asked(config)[1]))


def _asked(config: EvaluateConfig) -> tuple[Task, list[Arm]]:
    task = build_task(config.task)
    prompts = task.held_out_prompts(config.evaluation.num_prompts)
    return task, resolve_arms(config.adapters, prompts, task, config.seed, config.evaluation)


def _sampling(
    config: EvaluateConfig,
    task: Task,
    sample: Sample,
    passes: Passes,
    progress: Progress | None,
    judge: LiveJudge | None,
) -> Sampling:
    return Sampling(
        prompts=task.held_out_prompts(config.evaluation.num_prompts),
        spec=config.evaluation,
        rollout=config.rollout,
        seed=config.seed,
        domain=config.task.type,
        sample=sample,
        scorer=passes.scorer,
        pass_threshold=passes.threshold.value,
        progress=progress,
        # HumanEval's own tools read samples.jsonl, and know no stop words.
        kept_text=task.judged_text if isinstance(task, CodeText) else None,
        on_group=None if judge is None else judge.feed,
    )


def _write_metrics(
    config: EvaluateConfig, task: Task, arms: Sequence[Arm], passes: Passes, files: EvaluationFiles
) -> dict[str, Any]:
    with SampleFile(files.samples) as source:
        context = ScoringContext(
            seed=config.seed,
            baseline=config.compare_to,
            pass_threshold=passes.threshold.value,
            threshold_source=passes.threshold.as_json(),
            reward=scorer_name(config, task),
            trained_on={arm.name: arm.trained_on for arm in arms},
            text_metrics=text_metrics_of(config, task, source),
        )
        metrics = score_samples(source, config.evaluation, context)
        if config.evaluation.exports:
            verdicts = read_verdicts(files.results)
            export_samples(config.evaluation.exports, source, verdicts, task, files.directory / "export")
    atomic_write_json(files.metrics, metrics)
    return metrics


def _references(config: EvaluateConfig, task: Task) -> dict[str, str]:
    """task_id -> reference, for the metrics that compare with one."""
    if "reference" not in config.evaluation.text_metrics and config.evaluation.bert_score is None:
        return {}
    prompts = task.held_out_prompts(config.evaluation.num_prompts)
    known = {prompt.prompt_id: task.reference(prompt) for prompt in prompts}
    return {task_id: reference for task_id, reference in known.items() if reference is not None}


@contextmanager
def _judging(config: EvaluateConfig, paths: EvaluationPaths) -> Iterator[LiveJudge | None]:
    """The judge of the samples, where one is configured."""
    if config.judging is None:
        yield None
        return
    judge: LiveJudge = find("live_judge", "judge")(config, paths.judge)
    try:
        yield judge
    finally:
        judge.close()
