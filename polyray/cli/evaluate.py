"""Compares models on held-out prompts: pass@k, distinct-correct@k, USQ@k, diversity, with intervals and tests.

Reads an EvaluateConfig (configs/evaluate/): any number of arms, each the base or an adapter, asked in the task's own
words or by a template of configs/prompts/ (zero-shot, few-shot, instructed). Writes runs/NAME/evaluation/:
samples.jsonl (every sample), results.jsonl (verdicts), metrics.json (values, intervals, paired comparisons). After a
kill at any moment the same command resumes; a finished run prints its paths.

  polyray evaluate configs/evaluate/hidden_trap_grid.yaml
  polyray evaluate configs/evaluate/hidden_trap_grid.yaml evaluation.num_prompts=200 name=small
  polyray evaluate score SAMPLES.jsonl --task code --problems HumanEval.jsonl.gz \\
      --allow-code-execution --out DIR
  polyray evaluate score runs/NAME/evaluation/samples.jsonl --selector reward
  polyray evaluate reward configs/evaluate/reward_replies.yaml

`score` needs neither Ray nor torch; `score --help` explains its options. `reward` validates reward models on
held-out engagement; `reward --help` explains it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from polyray.cli import evaluate_reward, evaluate_score
from polyray.cli.arguments import JobArguments, parse
from polyray.config.base import as_json
from polyray.config.evaluation import ExportName
from polyray.config.loader import build_config
from polyray.config.run import EvaluateConfig
from polyray.errors import EXIT_OK
from polyray.launch.evaluate import derived_sizes, run_evaluate
from polyray.launch.plan import check_evaluation


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
            inputs=lambda: check_evaluation(args.config),
        )
    run_evaluate(args.config)
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
