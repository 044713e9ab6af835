"""Trains an adapter by reinforcement learning: rollout workers, reward service and learner on Ray.

Reads a TrainConfig (configs/train/), writes runs/NAME/: config.json, metrics.jsonl (one line a step),
rollouts.jsonl (groups in full), checkpoints/, versions/, cost.json, and at the end adapter/ (PEFT format, loads
on the original base) and DONE. The same command resumes from the last checkpoint; a finished run
prints its paths. With `evaluation` it validates while it trains: dynamics.jsonl, best/ (the best version's
adapter), and with evaluation.patience it ends early. `tracking` shows metrics.jsonl elsewhere too.
`algorithm=@NAME` is a preset; --list-algorithms names all of them, algorithm.KEY=VALUE behind it changes one.

  polyray train configs/train/hidden_trap_grid.yaml algorithm=@polychromic algorithm.set_size=8
  polyray train configs/train/hidden_trap_grid.yaml algorithm=@drgrpo name=first learner.steps=20 seed=3
  polyray train configs/train/hidden_trap_grid.yaml algorithm=@drgrpo evaluation.every=10 evaluation.patience=3
  polyray train configs/train/hidden_trap_grid.yaml algorithm=@drgrpo --check
"""

from __future__ import annotations

from argparse import Action, ArgumentParser
from collections.abc import Sequence
from typing import Any

from polyray.capacity.derived import derived_sizes
from polyray.cli.arguments import parse
from polyray.config.presets import listing
from polyray.config.run import TrainConfig
from polyray.launch.plan import check_training
from polyray.launch.train import run_training


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(argv, job="train", description=__doc__, config_model=TrainConfig, extra=_add_options)
    if args.check:
        return args.print_check(
            derived=lambda: derived_sizes(args.config),
            inputs=lambda: check_training(args.config),
        )
    run_training(args.config)
    return 0


class _ListAlgorithms(Action):
    """Option that prints the presets and ends the process, like --help."""

    def __call__(self, parser: ArgumentParser, *_: Any) -> None:
        """Prints the list."""
        print(listing())
        parser.exit()


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--list-algorithms",
        action=_ListAlgorithms,
        nargs=0,
        help="list the presets of algorithm=@NAME and exit",
    )
