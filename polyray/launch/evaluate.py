"""An evaluation from its configuration to DONE."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.capacity.placement import evaluation_estimate
from polyray.config.run import EvaluateConfig
from polyray.errors import MissingFiles

if TYPE_CHECKING:
    from polyray.evaluation.sampling import Sample
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory


def run_evaluate(config: EvaluateConfig) -> None:
    """The evaluation of a configuration from wherever it stands to DONE, on a Ray and engines of its own."""
    from polyray.launch.cost import evaluation_account, show_cost
    from polyray.launch.fleet import open_ray, open_sampler
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory, RunPaths

    if not RunPaths(config.run_dir).done.is_file():
        check_inputs(config)
    with ProgressDisplay() as display, RunDirectory.open(config, resumable_keys()) as directory:
        if not directory.finished:
            with (
                evaluation_account(config),
                open_ray(config.ray, display),
                open_sampler(config) as sample,
            ):
                evaluate(config, directory, sample, display)
        else:
            check_finished(config, directory)
        show(directory, display)
        show_cost(directory.paths.root, display)


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
    resolve_arms(config.adapters, prompts, task, config.seed)
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


def check_inputs(config: EvaluateConfig, *, only_look: bool = False) -> None:
    """Base, adapters, reward, and the prompts of every arm in tokens: ConfigError or DataError.

    `only_look` is for --check: nothing is fetched or written, and no key is needed.
    """
    from polyray.evaluation.arms import resolve_arms
    from polyray.launch.inputs import check_adapter, check_base
    from polyray.rewards import plan_reward
    from polyray.tasks import build_task

    missing = MissingFiles()
    model_dir = check_base(config.model, missing, only_look)
    for arm in config.adapters.values():
        if arm.adapter is not None:
            check_adapter(Path(arm.adapter), model_dir, missing)
    with missing.noted():
        plan_reward(config.reward, config.task, needs_keys=not only_look)
    missing.raise_if_any()
    if model_dir is None:
        return
    from polyray.launch.prompt_check import check_prompts, usable_tokenizer  # imports torch

    task = build_task(config.task)
    prompts = task.held_out_prompts(config.evaluation.num_prompts)
    tokenizer = usable_tokenizer(model_dir)
    arms = resolve_arms(config.adapters, prompts, task, config.seed)
    for asked_P in {arm.template: arm.asked_P for arm in arms}.values():
        check_prompts(asked_P, task, tokenizer, config.rollout.max_prompt_tokens)


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
