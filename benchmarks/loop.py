"""Measures the training loop on this machine: agreement, throughput, latency, determinism, memory.

Trains two short runs of one seed, then samples on one rollout worker and on bare vLLM in turns; each figure
is a median with its spread, held against a limit where there is one. Runs go to a temporary directory. Reads
a TrainConfig; a warm start that does not exist is left out, an embedded model that does not exist is built.
Other programs on the machine spoil the seconds: the load is printed.

  python -m benchmarks loop
  python -m benchmarks loop configs/train/hidden_trap_grid.yaml algorithm=@drgrpo seed=1 --steps 40 --out loop.json
  python -m benchmarks loop --memory
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import REFERENCE_SPEED, Measure, conclude, machine
from benchmarks.memory import quickstart_measures
from benchmarks.rollout import rollout_measures
from benchmarks.training import WARM_UP_STEPS, run_twice
from polyray.capacity.derived import derived_sizes
from polyray.cli.arguments import parse
from polyray.config.base import as_json
from polyray.config.loader import load_config
from polyray.config.model import EMBEDDED, ModelSpec
from polyray.config.run import PretrainConfig, TrainConfig
from polyray.errors import ConfigError

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

DEFAULT_CONFIG = "configs/train/hidden_trap_grid.yaml"
PRETRAIN_CONFIG = "configs/pretrain.yaml"
QUICKSTART_CONFIG = "configs/quickstart.yaml"
PARTS = ("training", "rollout")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(
        argv,
        job="benchmarks loop",
        description=__doc__,
        config_model=TrainConfig,
        default_config=DEFAULT_CONFIG,
        extra=_add_options,
    )
    options = args.namespace
    if options.steps <= WARM_UP_STEPS or options.pairs < 1 or options.completions < 1:
        raise ConfigError(
            f"--steps {options.steps} --pairs {options.pairs} --completions {options.completions}: at least "
            f"{WARM_UP_STEPS + 1} steps (the first {WARM_UP_STEPS} warm up), 1 pair and 1 completion are "
            "needed"
        )
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as runs_dir:
        config = benchmark_config(args.config, options.steps, runs_dir)
        if args.check:
            return args.print_check(derived=lambda: derived_sizes(config))
        before = machine()
        parts = [options.only] if options.only else PARTS
        measures = _measure(config, parts, options.completions, options.pairs)
        if options.memory:
            measures += _quickstart(Path(runs_dir))
    after = machine()
    print(
        f"{before['cores']} cores that together do {before['cores_together']} times the work of one, load "
        f"{before['load_1_min']} at the start; a core ran {before['core_speed']} and "
        f"then {after['core_speed']} million loop turns/s (the limits of seconds: {REFERENCE_SPEED:g})"
    )
    return conclude(
        measures, {"machine": before, "machine_after": after, "config": as_json(config)}, options.out
    )


def benchmark_config(config: TrainConfig, steps: int, runs_dir: str) -> TrainConfig:
    """Short, synchronous, into `runs_dir`, and without a warm start that is not there."""
    learner = config.learner.model_copy(update={"steps": steps})
    rollout = config.rollout.model_copy(update={"max_staleness": 0})
    warm_start = config.model.warm_start
    missing = warm_start is not None and not Path(warm_start).is_dir()
    model = ModelSpec.model_validate(
        config.model.model_dump() | ({"warm_start": None, "warm_start_mode": "continue"} if missing else {})
    )
    return config.model_copy(
        update={"learner": learner, "rollout": rollout, "model": model, "runs_dir": runs_dir}
    )


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=23, help="steps of each training run (default: 23)")
    parser.add_argument(
        "--completions", type=int, default=4096, help="completions per throughput turn (default: 4096)"
    )
    parser.add_argument("--pairs", type=int, default=5, help="interleaved throughput pairs (default: 5)")
    parser.add_argument("--only", choices=PARTS, help="one part instead of both")
    parser.add_argument(
        "--memory", action="store_true", help="also run the whole quickstart and watch its memory"
    )
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")


def _measure(config: TrainConfig, parts: Sequence[str], completions: int, pairs: int) -> list[Measure]:
    from polyray.launch.fleet import open_ray
    from polyray.runs.progress import ProgressDisplay

    measures: list[Measure] = []
    with ProgressDisplay() as display:
        if config.model.warm_start is None:
            display.note("no warm start: training begins with a fresh adapter")
        ensure_embedded(config.model, display)
        with open_ray(config.ray, display):
            if "training" in parts:
                measures += run_twice(config, display)
            if "rollout" in parts:
                measures += rollout_measures(config, completions, pairs, display)
    return measures


def ensure_embedded(model: ModelSpec, display: ProgressDisplay) -> None:
    """Builds the embedded model where `model` is that and it is not there yet."""
    from polyray.learner.embedded import build_embedded
    from polyray.models.base_files import find_embedded

    if model.path != EMBEDDED:
        return
    try:
        find_embedded(Path(model.cache_dir))
    except ConfigError:
        display.update(phase="building the embedded model")
        build_embedded(load_config(PretrainConfig, PRETRAIN_CONFIG, [f"cache_dir={model.cache_dir}"]))


def _quickstart(runs_dir: Path) -> list[Measure]:
    from polyray.runs.progress import ProgressDisplay

    with ProgressDisplay() as display:
        return quickstart_measures(QUICKSTART_CONFIG, runs_dir, display)
