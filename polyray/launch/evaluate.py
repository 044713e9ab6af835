"""An evaluation from its configuration to DONE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyray.capacity.placement import evaluation_estimate
from polyray.config.run import EvaluateConfig

if TYPE_CHECKING:
    from polyray.evaluation.sampling import Sample
    from polyray.launch.plan import FleetPlan
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory


def run_evaluate(config: EvaluateConfig) -> None:
    """The evaluation of a configuration from wherever it stands to DONE, on a Ray and engines of its own."""
    from polyray.launch.cost import show_cost
    from polyray.launch.plan import plan_evaluation
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory, RunPaths

    plan = None if RunPaths(config.run_dir).done.is_file() else plan_evaluation(config)
    with ProgressDisplay() as display, RunDirectory.open(config, resumable_keys()) as directory:
        evaluate_on_engines(config, plan, directory, display)
        show(directory, display)
        show_cost(directory.paths.root, display)


def evaluate_on_engines(
    config: EvaluateConfig, plan: FleetPlan | None, directory: RunDirectory, display: ProgressDisplay
) -> None:
    """Evaluates on a Ray and engines of its own; a finished evaluation must still fit the configuration.

    `plan` may be None for a finished one only.
    """
    from polyray.launch.cost import evaluation_account
    from polyray.launch.fleet import open_ray, open_sampler

    if directory.finished:
        check_finished(config, directory)
        return
    assert plan is not None
    with (
        evaluation_account(config),
        open_ray(config.ray, display),
        open_sampler(config, plan) as sample,
    ):
        evaluate(config, directory, sample, display)


def resumable_keys() -> tuple[str, ...]:
    """Keys that may differ on resume. A larger budget lets a stopped judge continue."""
    from polyray.config.judge import RESUMABLE_KEYS as JUDGE_KEYS
    from polyray.runs.run_directory import RESUMABLE_KEYS

    judging = (f"judging.{key}" for key in JUDGE_KEYS if key.startswith("judge."))
    return (*RESUMABLE_KEYS, *judging, "reward.workers")


def derived_sizes(config: EvaluateConfig) -> dict[str, Any]:
    """How much is sampled. What arms ask is checked on the way: templates, few-shot leaks, the task's files."""
    from polyray.evaluation.arms import resolve_arms
    from polyray.tasks import build_task

    task = build_task(config.task)
    prompts = task.held_out_prompts(config.evaluation.num_prompts)
    resolve_arms(config.adapters, prompts, task, config.seed, config.evaluation)
    per_model = len(prompts) * config.evaluation.num_samples
    on_gpus = evaluation_estimate(config)
    return {
        "models": len(config.adapters),
        "prompts": len(prompts),
        "completions_per_model": per_model,
        "completions": per_model * len(config.adapters),
        "max_tokens": per_model * len(config.adapters) * config.rollout.max_completion_tokens,
        **({"gpu_estimate": on_gpus} if on_gpus else {}),
    }


def evaluate(
    config: EvaluateConfig, directory: RunDirectory, sample: Sample, display: ProgressDisplay
) -> None:
    """Samples with `sample`, scores in this process, and writes evaluation/ and DONE."""
    from polyray.evaluation.pipeline import run_evaluation
    from polyray.evaluation.sampling import EvaluationPaths

    run_evaluation(
        config,
        EvaluationPaths(directory.paths.evaluation, directory.paths.judge),
        sample,
        progress=lambda name, done, total: display.update(phase=f"evaluating {name}", step=done, total=total),
    )
    directory.mark_done({"evaluation": str(directory.paths.evaluation)})


def check_finished(config: EvaluateConfig, directory: RunDirectory) -> None:
    """Raises ConfigError where the adapters, the base or the data of a finished evaluation are others by now."""
    from polyray.evaluation import pipeline
    from polyray.evaluation.sampling import EvaluationPaths

    paths = EvaluationPaths(directory.paths.evaluation, directory.paths.judge)
    pipeline.check_finished(config, paths)


def show(directory: RunDirectory, display: ProgressDisplay) -> None:
    """The numbers of a finished evaluation and where its files lie."""
    import json

    from polyray.evaluation.sampling import EvaluationFiles
    from polyray.evaluation.summary import summary_table

    files = EvaluationFiles(directory.paths.evaluation)
    display.note(summary_table(json.loads(files.metrics.read_text(encoding="utf-8"))))
    display.note(f"samples   {files.samples}\nmetrics   {files.metrics}")
    display.note(f"report    polyray report {directory.paths.root}")
