"""Trains an adapter by reinforcement learning: rollout workers, reward service and learner on Ray.

Reads a TrainConfig (configs/train/), writes runs/NAME/: config.json, metrics.jsonl (one line a step),
rollouts.jsonl (groups in full), checkpoints/, versions/, cost.json, and at the end adapter/ (PEFT format, loads
on the original base) and DONE. Starting the same command again goes on from the last checkpoint; a finished run
prints its paths. With `evaluation` it validates while it trains: dynamics.jsonl, best/ (the best version's
adapter), and with evaluation.patience it ends early. `tracking` shows metrics.jsonl elsewhere too.

  polyray train configs/train/hidden_trap_grid_polychromic.yaml
  polyray train configs/train/hidden_trap_grid_drgrpo.yaml name=first learner.steps=20 seed=3
  polyray train configs/train/hidden_trap_grid_drgrpo.yaml evaluation.every=10 evaluation.patience=3
  polyray train configs/train/hidden_trap_grid_drgrpo.yaml --check
"""

from __future__ import annotations

from collections.abc import Sequence

from polyray.capacity.derived import derived_sizes
from polyray.cli.arguments import parse
from polyray.config.run import TrainConfig
from polyray.launch.inputs import check_training
from polyray.launch.train import run_training


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(argv, job="train", description=__doc__, config_model=TrainConfig)
    if args.check:
        return args.print_check(
            derived=lambda: derived_sizes(args.config),
            inputs=lambda: check_training(args.config, only_look=True),
        )
    run_training(args.config)
    return 0
