"""Measures the reward service on this machine: throughput, latency, correctness under load, memory, a killed replica.

Every figure comes from one run, and the judged ones are ratios: other programs on the machine spoil seconds, and the
load is printed. The texts of the throughput and latency parts are all different, so that no cache helps; the same
model is called directly in this process, on one thread like the replica, in turns with the service.

  throughput   32 callers with groups of 8, and with single items, against direct batches of the same size
  latency      groups of 8 at random times at half of that throughput: p99 against p50
  soak         200 callers for 60 s: statuses, every score against a direct call, memory of the replica
  kill         two replicas, callers that retry, one replica killed: every request is scored, and rightly

  python -m benchmarks reward
  python -m benchmarks reward --only latency --out latency.json
  python -m benchmarks reward 'reward={type: engagement, path: runs/reward-train/model, service: {port: 0}}'
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

from benchmarks.measure import Measure, conclude, machine
from polyray.cli.arguments import parse
from polyray.config.base import as_json
from polyray.config.serve import RewardServeConfig
from polyray.errors import ConfigError

DEFAULT_CONFIG = "configs/serve/benchmark.yaml"
PARTS = ("throughput", "latency", "soak", "kill")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(
        argv,
        job="benchmarks reward",
        description=__doc__,
        config_model=RewardServeConfig,
        default_config=DEFAULT_CONFIG,
        extra=_add_options,
    )
    options = args.namespace
    if options.seconds <= 0 or options.rounds < 1 or options.soak_seconds <= 0 or options.requests < 100:
        raise ConfigError(
            f"--seconds {options.seconds:g} --rounds {options.rounds} --soak-seconds {options.soak_seconds:g} "
            f"--requests {options.requests}: seconds must be above 0, at least 1 round and 100 requests (for a p99) "
            "are needed"
        )
    config: RewardServeConfig = args.config
    if len(config.specs) != 1:
        raise ConfigError(
            f"models names {len(config.specs)} reward models; the benchmark measures one: set reward"
        )
    if args.check:
        return args.print_check(derived=lambda: {"parts": [options.only] if options.only else list(PARTS)})

    from benchmarks.reward_parts import RewardBenchmark
    from polyray.orchestrator.resources import ray_session
    from polyray.runs.progress import ProgressDisplay

    before = machine()
    measures: list[Measure] = []
    with ProgressDisplay() as display, ray_session(config.ray):
        display.update(phase="loading the model")
        benchmark = RewardBenchmark(config, display)
        parts = [options.only] if options.only else PARTS
        if "throughput" in parts or "latency" in parts:
            measures += benchmark.speed(options.rounds, options.seconds, options.requests, parts)
        if "soak" in parts:
            measures += benchmark.soak(options.soak_seconds)
        if "kill" in parts:
            measures += benchmark.kill()
    after = machine()
    print(
        f"{before['cores']} cores that together do {before['cores_together']} times the work of one, load "
        f"{before['load_1_min']} at the start and {after['load_1_min']} at the end"
    )
    return conclude(
        measures, {"machine": before, "machine_after": after, "config": as_json(config)}, options.out
    )


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, help="one part instead of all")
    parser.add_argument("--rounds", type=int, default=3, help="throughput rounds of each kind (default: 3)")
    parser.add_argument("--seconds", type=float, default=15, help="of one throughput round (default: 15)")
    parser.add_argument("--requests", type=int, default=300, help="of the latency part (default: 300)")
    parser.add_argument("--soak-seconds", type=float, default=60, help="of the soak (default: 60)")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
