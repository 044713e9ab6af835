"""Validates reward models on held-out engagement: right, calibrated, better than length, hard to fool.

Reads a RewardValidationConfig (configs/evaluate/reward_*.yaml): held-out records (a run of polyray curate data, or a
file of records or of {prompt, chosen, rejected}), any number of models, and the baselines they must beat (length,
log-probability, chance, a heuristic). Writes runs/NAME/: report.html with the verdict in words,
evaluation/metrics.json, slices.csv, mistakes.jsonl and scores/. After a kill the same command resumes; a finished run
prints its paths.

  polyray evaluate reward configs/evaluate/reward_replies.yaml
  polyray evaluate reward configs/evaluate/reward_replies.yaml --check            how much is scored
  polyray evaluate reward configs/evaluate/reward_replies.yaml name=other \\
      'models={mine: {type: engagement, path: runs/mine/model}}'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyray.cli.arguments import parse
from polyray.config.reward_validation import RewardValidationConfig
from polyray.errors import EXIT_OK

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

RESUMABLE_KEYS = ("runs_dir", "ray.*", "max_unscored_share")
"""Keys that may differ on a resume."""


def reward(argv: Sequence[str]) -> int:
    """The command line of `polyray evaluate reward`."""
    args = parse(argv, job="evaluate reward", description=__doc__, config_model=RewardValidationConfig)
    if args.check:
        from polyray.shelf.preferences.reward_evaluation.pipeline import derived_sizes

        return args.print_check(
            derived=lambda: derived_sizes(args.config), inputs=lambda: check_inputs(args.config)
        )
    from polyray.launch.cost import DRIVER, account, show_cost
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory, RunPaths
    from polyray.shelf.preferences.reward_evaluation.pipeline import check_finished

    if not RunPaths(args.config.run_dir).done.is_file():
        check_inputs(args.config)
    with ProgressDisplay() as display, RunDirectory.open(args.config, RESUMABLE_KEYS) as directory:
        if not directory.finished:
            with account("evaluate reward", args.config, DRIVER):
                validate_rewards(args.config, directory, display)
        else:
            check_finished(args.config, directory.paths.evaluation)
        show(directory, display)
        show_cost(directory.paths.root, display)
    return EXIT_OK


def check_inputs(config: RewardValidationConfig) -> None:
    """Check data and models before there is a run directory. Raises ConfigError or DataError."""
    from polyray.shelf.preferences.reward_evaluation.held_out import read_held_out
    from polyray.shelf.preferences.reward_evaluation.seen import check_unseen, seen_by_models

    data = read_held_out(config.data, config.seed, seen_by_models(config.scorers.values()))
    check_unseen(config, data)


def validate_rewards(
    config: RewardValidationConfig, directory: RunDirectory, display: ProgressDisplay
) -> None:
    """Scores, measures, writes evaluation/, report.html and DONE."""
    from polyray.shelf.preferences.reward_evaluation.pipeline import validate

    def progress(name: str, done: int, total: int) -> None:
        display.update(phase=name, step=done, total=total)

    paths = directory.paths
    validate(config, paths.evaluation, paths.report, progress)
    directory.mark_done({"evaluation": str(paths.evaluation), "report": str(paths.report)})


def show(directory: RunDirectory, display: ProgressDisplay) -> None:
    """Show the numbers of a finished validation, the verdict, and the paths of the files."""
    import json

    from polyray.shelf.preferences.reward_evaluation.pipeline import ValidationFiles
    from polyray.shelf.preferences.reward_evaluation.statement import summary_table

    files = ValidationFiles(directory.paths.evaluation)
    metrics = json.loads(files.metrics.read_text(encoding="utf-8"))
    display.note(summary_table(metrics))
    display.note("\n".join(metrics["statement"]))
    display.note(f"report    {directory.paths.report}\nmetrics   {files.metrics}\nslices    {files.slices}")
