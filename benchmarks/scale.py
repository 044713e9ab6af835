"""Measures the coordination of a run, at sizes that no single machine has: 1 to 256 rollout workers, simulated.

Coordinator, pool, staleness gates, ledger, registry and deliveries are the real ones and run on a real Ray; engines
and learner only wait, as long as real ones would take (polyray/rollout/simulated_engine.py). Many workers share a
process. The ideal is the same engines, each with a new group the moment one is complete. Then few and many workers
with engines that take no time: the coordinator's cost of a group as workers and batch grow, its largest throughput,
and whether its memory grows.

  python -m benchmarks scale
  python -m benchmarks scale --workers 16 64 --steps 10 --out scale.json
  python -m benchmarks scale --check
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure, conclude, machine
from polyray.cli.arguments import JobParser
from polyray.config.run import RaySpec
from polyray.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from benchmarks.simulated_measures import Figures

WORKERS = (1, 4, 16, 64, 256)
WARM_UP_STEPS = 2
GROUPS_PER_WORKER = 4
JUDGED_AT = 64
SMALL, LARGE = 16, 256
LIMITS = {"share_of_ideal": 0.95, "cost_ratio": 1.5, "growth_bytes_per_group": 1024.0}
"""The share is judged at 64 workers; the cost of a group at 256 against that at 16; growth at full speed."""
LOAD: dict[str, Any] = {
    "max_staleness": 2,
    "group_size": 4,
    "max_sequences": 8,
    "max_completion_tokens": 160,
    "learn_s": 2.0,
    "simulation": {
        "step_s": 0.06,
        "sequence_s": 0.005,
        "mean_length": 40,
        "keeps_versions": True,
        "poll_s": 0.1,
    },
}
"""A worker completes about half a group a second: 256 of them are at the limit of two cores, simulated or not."""
FULL_SPEED: dict[str, Any] = {
    **LOAD,
    "learn_s": 0.0,
    "simulation": {"mean_length": 5, "keeps_versions": True},
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks scale", __doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), help="sizes to measure")
    parser.add_argument("--steps", type=int, default=8, help="steps of each size (default: 8)")
    parser.add_argument(
        "--full-speed",
        type=int,
        nargs="*",
        default=[SMALL, LARGE],
        help=f"sizes to measure without latencies (default: {SMALL} {LARGE})",
    )
    parser.add_argument(
        "--full-speed-groups", type=int, default=8192, help="groups of each such run (default: 8192)"
    )
    parser.add_argument("--check", action="store_true", help="validate, print what will run and exit")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    options = parser.parse_strictly(argv)
    _check_options(options)
    if options.check:
        print(json.dumps({"job": "benchmarks scale", "workers": options.workers, "load": LOAD}, indent=2))
        return EXIT_OK
    before = machine()
    measures = _measure(options)
    return conclude(measures, {"machine": before, "machine_after": machine(), "load": LOAD}, options.out)


def _check_options(options: Namespace) -> None:
    sizes = [*options.workers, *options.full_speed]
    if min(sizes) < 1:
        raise ConfigError(f"{min(sizes)} workers: at least 1 is needed")
    if options.steps <= WARM_UP_STEPS:
        raise ConfigError(
            f"--steps {options.steps}: at least {WARM_UP_STEPS + 1} are needed (the first {WARM_UP_STEPS} warm up)"
        )
    needed = 2 * GROUPS_PER_WORKER * max(options.full_speed, default=0)
    if options.full_speed_groups < needed:
        raise ConfigError(
            f"--full-speed-groups {options.full_speed_groups}: at least {needed} are needed, two steps of "
            f"{max(options.full_speed)} workers"
        )


def _measure(options: Namespace) -> list[Measure]:
    from polyray.launch.fleet import open_ray
    from polyray.runs.progress import ProgressDisplay

    measures: list[Measure] = []
    by_size: dict[int, Figures] = {}
    total = len(options.workers) + len(options.full_speed)
    with ProgressDisplay() as display, open_ray(RaySpec(dashboard=False), display):
        for number, workers in enumerate(options.workers, start=1):
            display.section(f"{workers} simulated workers", number, total)
            measures += size_measures(workers, _figures(workers, options.steps, WARM_UP_STEPS, LOAD))
        for number, workers in enumerate(options.full_speed, start=len(options.workers) + 1):
            display.section(f"{workers} simulated workers without latencies", number, total)
            steps = options.full_speed_groups // (GROUPS_PER_WORKER * workers)
            by_size[workers] = _figures(workers, steps, steps // 2, FULL_SPEED)
            measures += full_speed_measures(workers, by_size[workers])
    return measures + comparison(by_size)


def _figures(workers: int, steps: int, warm_up: int, load: Mapping[str, Any]) -> Figures:
    from benchmarks.simulated_measures import figures_of
    from benchmarks.simulated_run import SimulatedLoad, run_simulated

    batch = GROUPS_PER_WORKER * workers
    return figures_of(
        run_simulated(SimulatedLoad(num_workers=workers, prompts_per_step=batch, steps=steps, **load)),
        warm_up,
    )


def size_measures(workers: int, figures: Figures) -> list[Measure]:
    """The lines of one size."""
    limit = LIMITS["share_of_ideal"] if workers == JUDGED_AT else None
    name = f"{workers:3} workers: "
    return [
        Measure(f"{name}throughput", (figures.groups_per_s,), "groups/s"),
        Measure(f"{name}share of the ideal", (figures.share_of_ideal,), "", limit, "at least"),
        Measure(f"{name}coordinator, CPU per group", (1e3 * figures.cpu_s_per_group,), "ms"),
        Measure(f"{name}coordinator, share of a core", (figures.cpu_share,)),
        *_quantiles(f"{name}group done -> the next one there", figures.refill_s),
        *_quantiles(f"{name}scored -> consumed", figures.wait_s),
        *_quantiles(f"{name}event loop late", figures.lag_s),
        Measure(f"{name}published -> last worker proved it", figures.fan_out_s or (float("nan"),), "s"),
        Measure(f"{name}engines idle", (figures.idle_engines,)),
        Measure(f"{name}learner idle", (figures.idle_learner,)),
        Measure(f"{name}staleness, mean", (figures.staleness,)),
    ]


def full_speed_measures(workers: int, figures: Figures) -> list[Measure]:
    """Limits of the coordinator at full speed, and its memory growth per group."""
    limit = LIMITS["growth_bytes_per_group"] if workers == SMALL else None
    name = f"{workers:3} workers at full speed: "
    return [
        Measure(f"{name}throughput of all", (figures.groups_per_s,), "groups/s"),
        Measure(f"{name}coordinator, CPU per group", (1e3 * figures.cpu_s_per_group,), "ms"),
        Measure(f"{name}coordinator, share of a core", (figures.cpu_share,)),
        Measure(f"{name}coordinator grows per group", (figures.growth_bytes_per_group,), "B", limit),
        Measure(f"{name}coordinator, resident", (figures.resident_bytes / 2**20,), "MiB"),
    ]


def comparison(by_size: dict[int, Figures]) -> list[Measure]:
    """The cost of a group at full speed with many workers against few; nothing where one was not measured."""
    if not {SMALL, LARGE} <= set(by_size):
        return []
    ratio = by_size[LARGE].cpu_s_per_group / by_size[SMALL].cpu_s_per_group
    name = f"CPU per group with {LARGE} workers over {SMALL}"
    return [Measure(name, (ratio,), "", LIMITS["cost_ratio"])]


def _quantiles(name: str, values: Sequence[float]) -> list[Measure]:
    from benchmarks.simulated_measures import percentile

    return [
        Measure(f"{name}, {label}", (percentile(values, share),), "s")
        for label, share in (("median", 0.5), ("p99", 0.99))
    ]
