"""Compares models on held-out prompts: pass@k, distinct-correct@k, USQ@k, diversity, with intervals and tests.

Reads an EvaluateConfig (configs/evaluate/): any number of arms, each the base or an adapter, asked in the task's own
words or by a template of configs/prompts/ (zero-shot, few-shot, instructed). Writes runs/NAME/evaluation/:
samples.jsonl (every sample), results.jsonl (verdicts), metrics.json (values, intervals, paired comparisons). Killed
at any moment and started again it goes on where it was; a finished run prints its paths.

  python -m jobs.evaluate configs/evaluate/hidden_trap_grid.yaml
  python -m jobs.evaluate configs/evaluate/hidden_trap_grid.yaml evaluation.num_prompts=200 name=small
  python -m jobs.evaluate score SAMPLES.jsonl --task code --problems HumanEval.jsonl.gz \\
      --allow-code-execution --out DIR
  python -m jobs.evaluate score runs/NAME/evaluation/samples.jsonl --selector reward
  python -m jobs.evaluate reward configs/evaluate/reward_replies.yaml

`score` needs neither Ray nor torch; `score --help` explains its options. `reward` validates reward models on
held-out engagement; `reward --help` explains it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from polyray.capacity.placement import evaluation_estimate
from polyray.cli import evaluate_reward, evaluate_score
from polyray.cli.arguments import JobArguments, parse
from polyray.config.base import as_json
from polyray.config.evaluation import ExportName
from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig
from polyray.errors import EXIT_OK, MissingFiles

if TYPE_CHECKING:
    from polyray.evaluation.sampling import Sample
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of all forms."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["score"]:
        return evaluate_score.score(arguments[1:])
    if arguments[:1] == ["reward"]:
        return evaluate_reward.reward(arguments[1:])
    args = _with_options(
        parse(arguments, job="evaluate", description=__doc__, config_model=EvaluateConfig, extra=_add_options)
    )
    if args.check:
        return args.print_check(
            derived=lambda: derived_sizes(args.config),
            inputs=lambda: check_inputs(args.config, only_look=True),
        )
    from polyray.launch.cost import evaluation_account, show_cost
    from polyray.launch.fleet import open_ray, open_sampler
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory, RunPaths

    if not RunPaths(args.config.run_dir).done.is_file():
        check_inputs(args.config)
    with ProgressDisplay() as display, RunDirectory.open(args.config, resumable_keys()) as directory:
        if not directory.finished:
            with (
                evaluation_account(args.config) as cost,
                open_ray(args.config.ray, display),
                open_sampler(args.config) as sample,
            ):
                cost.enter("evaluate")
                evaluate(args.config, directory, sample, display)
        else:
            check_finished(args.config, directory)
        show(directory, display)
        show_cost(directory.paths.root, display)
    return EXIT_OK


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--export",
        action="append",
        default=[],
        choices=get_args(ExportName),
        help="also write the samples in this tool's format (evaluation.exports)",
    )
    parser.add_argument(
        "--allow-self-selection",
        action="store_true",
        help="report picks of the reward that a model was trained on (evaluation.allow_self_selection)",
    )


def _with_options(args: JobArguments[EvaluateConfig]) -> JobArguments[EvaluateConfig]:
    """The options are short for keys of `evaluation`."""
    spec, options = args.config.evaluation, args.namespace
    changes = {
        "exports": tuple(dict.fromkeys([*spec.exports, *options.export])),
        "allow_self_selection": spec.allow_self_selection or options.allow_self_selection,
    }
    config = args.config.model_copy(update={"evaluation": spec.model_copy(update=changes)})
    return replace(args, config=build_config(EvaluateConfig, as_json(config), "--export"))


def resumable_keys() -> tuple[str, ...]:
    """What may differ when an evaluation is started again: with a larger budget a stopped judge goes on."""
    from polyray.cli.judge import RESUMABLE_KEYS as JUDGE_KEYS
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
    display.note(f"report    python -m jobs.report {directory.paths.root}")
