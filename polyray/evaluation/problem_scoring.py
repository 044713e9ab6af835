"""`polyray evaluate score --task`: samples of any tool against a file of problems, start to end, without Ray.

SAMPLES, task settings -> raw_samples.py -> scorers.py -> score_file.py -> scoring.py -> exporters.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polyray.config.base import StrictModel
from polyray.config.evaluation import EvaluationSpec
from polyray.config.loader import build_config
from polyray.config.reward import SandboxRewardSpec
from polyray.config.task import TaskSpec
from polyray.evaluation.exporters import export_samples, read_verdicts
from polyray.evaluation.raw_samples import read_raw_samples
from polyray.evaluation.sample_source import SampleFile
from polyray.evaluation.sampling import EvaluationFiles
from polyray.evaluation.score_file import ScoreRequest, fitting_ks, score_stream
from polyray.evaluation.scorers import build_stream_scorer
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.runs.data_record import data_files
from polyray.tasks import build_task


class _TaskFields(StrictModel):
    """Carries the union, so that mistakes in it are explained like those of a file."""

    task: TaskSpec


@dataclass(frozen=True, slots=True)
class ProblemScoring:
    """Arguments of `score --task`.

    Example:
        ProblemScoring(samples=Path("samples.jsonl"), task={"type": "code", "path": "HumanEval.jsonl.gz"},
                       out=Path("scored"), allow_code_execution=True)
    """

    samples: Path
    task: dict[str, Any]
    out: Path
    allow_code_execution: bool = False
    timeout_s: float | None = None
    workers: int | None = None
    strict: bool = False
    exports: tuple[str, ...] = ()
    ks: tuple[int, ...] | None = None
    selector: str | None = None
    resamples: int | None = None
    baseline: str | None = None
    pass_threshold: float = PASS_THRESHOLD
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Settings for --check."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def score_problems(request: ProblemScoring, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Judge every sample and return the contents of metrics.json; results are in `request.out`.

    Raises ConfigError for settings, DataError for samples or problems that do not fit.
    """
    task = build_task(_task_spec(request.task))
    problems = {prompt.prompt_id: prompt for prompt in task.held_out_prompts()}
    scorer = build_stream_scorer(task, _sandbox(request))
    files = EvaluationFiles(request.out)
    threshold = request.pass_threshold
    settings = {"task": request.task, "timeout_s": request.timeout_s, "strict": request.strict}
    if threshold != PASS_THRESHOLD:
        settings["pass_threshold"] = threshold
    context = ScoringContext(seed=request.seed, baseline=request.baseline, pass_threshold=threshold)
    score_stream(
        read_raw_samples(request.samples, problems),
        scorer,
        ScoreRequest(request.samples, _problem_files(request), settings, threshold),
        files,
        progress,
    )
    with SampleFile(files.samples) as source:
        metrics = score_samples(source, _spec(request, source), context)
        if request.exports:
            export_samples(
                request.exports, source, read_verdicts(files.results), task, request.out / "export"
            )
    attempted = metrics["n_problems"]
    return metrics | {"n_missing": len(problems) - attempted}


def _sandbox(request: ProblemScoring) -> SandboxRewardSpec:
    """Sandbox settings of the request; raises ConfigError for invalid limits."""
    values: dict[str, Any] = {
        "allow_code_execution": request.allow_code_execution,
        "workers": request.workers or os.cpu_count() or 1,
        "strict": request.strict,
    }
    if request.timeout_s is not None:
        values["timeout_s"] = request.timeout_s
    return build_config(SandboxRewardSpec, values, source="evaluate score")


def _problem_files(request: ProblemScoring) -> dict[str, Path]:
    found = data_files({"task": request.task})
    return {key: file for key, file in found.items() if file.is_file()}


def _task_spec(fields: dict[str, Any]) -> Any:
    """Task settings with every problem of the file, also those that training holds out."""
    whole = dict(fields)
    if whole["type"] == "code":
        whole.setdefault("held_out", "all")
        whole.setdefault("stop", [])  # a file's completions are judged unchanged, as HumanEval's tools do
    return build_config(_TaskFields, {"task": whole}, source="evaluate score").task


def _spec(request: ProblemScoring, source: SampleFile) -> EvaluationSpec:
    """The ks that were asked for, or those that every problem has samples for; the selector likewise."""
    counts = [
        len(source.group(model, task_id)) for model in source.models for task_id in source.task_ids(model)
    ]
    first = source.group(source.models[0], source.task_ids(source.models[0])[0])[0]
    has_logprobs = first.logprob == first.logprob
    values: dict[str, Any] = {
        "ks": fitting_ks(counts, request.ks),
        "num_samples": max(counts),
        "selector": request.selector or ("logprob" if has_logprobs else "first"),
        "exports": request.exports,
    }
    if request.resamples is not None:
        values["bootstrap_resamples"] = request.resamples
    return build_config(EvaluationSpec, values, source="evaluate score")
