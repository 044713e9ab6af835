"""Trains one run many times, over values of its fields and seeds, and says which value is best and how surely.

Reads a SweepConfig (configs/sweep/): a file of polyray train and what varies in it, by dotted path: grid, choice,
uniform, loguniform; every setting with every seed. Settings are planned, or suggested by Optuna one after another
(search.type=optuna), also for several objectives. Trials run on Ray Tune and share one fleet of engines and one
reward service. Writes runs/NAME/: trials/ID/ (a run directory each), trials.jsonl, evaluation/, results.json,
report.html and best/ (the recommended adapter). The same command resumes a stopped sweep; failed trials are tried
again.

  polyray sweep configs/sweep/lambda_seed.yaml
  polyray sweep configs/sweep/lambda_seed.yaml 'seeds=[0,1]' name=first scheduler.type=asha
  polyray sweep configs/sweep/lambda_seed.yaml --check
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace

from polyray.cli.arguments import parse
from polyray.config.sweep import SweepConfig
from polyray.errors import EXIT_FAILURE, EXIT_OK
from polyray.sweeps.plan import derived_sizes, plan_trials, with_default_metric
from polyray.sweeps.study import check_inputs, failed_trials, run_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(argv, job="sweep", description=__doc__, config_model=SweepConfig, extra=_add_options)
    args = replace(args, config=with_default_metric(args.config))
    plans = plan_trials(args.config, allow_many=args.namespace.yes)
    if args.check:
        return args.print_check(
            derived=lambda: derived_sizes(args.config, plans),
            inputs=lambda: check_inputs(args.config, plans, only_look=True),
        )
    run_sweep(args.config, plans)
    return EXIT_FAILURE if failed_trials(args.config) else EXIT_OK


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="start also where there are very many trials")
