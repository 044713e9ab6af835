"""Measures what overlap is worth: steps per minute at staleness 0 and 1, with simulated parts.

Completions are exponential in length with mean/limit 0.2, and learning takes about as long as generating. The
coordinator, ledger, gates and deliveries are the real ones; parts that only wait share no cores, so a step may take
as long as its slower half and no longer. Both ways of delivery: engines that keep versions (adapters), and such that
finish their groups before they load (merged weights). Staleness 0 and 1 take turns.

recovery: the same with a rollout worker killed on the way (recovery.py).

  python -m benchmarks async
  python -m benchmarks async --steps 50 --out async.json
"""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure, conclude, machine
from polyray.cli.arguments import JobParser
from polyray.config.run import RaySpec
from polyray.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from benchmarks.simulated_run import SimulatedRun
    from polyray.runs.progress import ProgressDisplay

PARTS = ("overlap", "recovery")
WARM_UP_STEPS = 2
LIMITS = {"speed_up": 1.25, "step_over_slower_half": 1.15}
LOAD: dict[str, Any] = {
    "num_workers": 4,
    "prompts_per_step": 16,
    "group_size": 8,
    "max_sequences": 16,
    "max_completion_tokens": 200,
    "learn_s": 1.5,
    "score_s": 0.01,
}
SIMULATION: dict[str, Any] = {"step_s": 0.005, "sequence_s": 0.00025, "mean_length": 40, "load_s": 0.02}
DELIVERIES = {"adapter": True, "merged": False}
"""Name -> whether engines load while groups run."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks async", __doc__)
    parser.add_argument("--steps", type=int, default=14, help="steps of each run (default: 14)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each kind, in turns (default: 1)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="validate, print what will run and exit")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    options = parser.parse_strictly(argv)
    if options.steps <= WARM_UP_STEPS or options.rounds < 1:
        raise ConfigError(
            f"--steps {options.steps} --rounds {options.rounds}: at least {WARM_UP_STEPS + 1} steps (the first "
            f"{WARM_UP_STEPS} warm up) and 1 round are needed"
        )
    if options.check:
        print(
            json.dumps(
                {"job": "benchmarks async", "parts": options.parts, "load": LOAD, "simulation": SIMULATION},
                indent=2,
            )
        )
        return EXIT_OK
    before = machine()
    return conclude(
        _measure(options), {"machine": before, "machine_after": machine(), "load": LOAD}, options.out
    )


def _measure(options: Namespace) -> list[Measure]:
    from benchmarks.recovery import recovery_measures
    from polyray.launch.fleet import open_ray
    from polyray.runs.progress import ProgressDisplay

    measures: list[Measure] = []
    with ProgressDisplay() as display, open_ray(RaySpec(dashboard=False), display):
        if "overlap" in options.parts:
            for delivery in DELIVERIES:
                measures += _simulated(delivery, options, display)
        if "recovery" in options.parts:
            load = {**LOAD, "simulation": SIMULATION}
            measures += recovery_measures(load, options.steps, options.rounds, display)
    return measures


def _simulated(delivery: str, options: Namespace, display: ProgressDisplay) -> list[Measure]:
    from benchmarks.simulated_run import SimulatedLoad, run_simulated

    simulation = {**SIMULATION, "keeps_versions": DELIVERIES[delivery]}
    runs: dict[int, list[SimulatedRun]] = {0: [], 1: []}
    for number in range(2 * options.rounds):
        staleness = number % 2
        display.section(f"{delivery}, staleness {staleness}", number + 1, 2 * options.rounds)
        load = SimulatedLoad(**LOAD, max_staleness=staleness, simulation=simulation, steps=options.steps)
        runs[staleness].append(run_simulated(load))
    return overlap_measures(delivery, runs[0], runs[1])


def overlap_measures(
    delivery: str, synchronous: Sequence[SimulatedRun], overlapped: Sequence[SimulatedRun]
) -> list[Measure]:
    """Steps per minute of both, and the overlapped step against the slower of what a synchronous step is made of."""
    before, after = _step_s(synchronous), _step_s(overlapped)
    generate = tuple(step.generate_s for run in synchronous for step in run.steps[WARM_UP_STEPS:])
    learn = tuple(step.learned - step.got for run in overlapped for step in run.steps[WARM_UP_STEPS:])
    slower = max(statistics.median(generate), statistics.median(learn))
    idle = tuple(
        1 - sum(step.learned - step.got for step in run.steps[WARM_UP_STEPS:-1]) / sum(_step_s([run]))
        for run in overlapped
    )
    return [
        Measure(f"{delivery}: a step at S = 0", before, "s"),
        Measure(f"{delivery}:   of which generate", generate, "s"),
        Measure(f"{delivery}: a step at S = 1", after, "s"),
        Measure(f"{delivery}:   of which learn", learn, "s"),
        Measure(f"{delivery}:   learner idle", idle),
        Measure(
            f"{delivery}: steps per minute, S = 1 over S = 0",
            (statistics.mean(before) / statistics.mean(after),),
            limit=LIMITS["speed_up"],
            bound="at least",
        ),
        Measure(
            f"{delivery}: step at S = 1 over max(generate, learn)",
            (statistics.median(after) / slower,),
            limit=LIMITS["step_over_slower_half"],
        ),
    ]


def _step_s(runs: Sequence[SimulatedRun]) -> tuple[float, ...]:
    return tuple(
        later.got - sooner.got
        for run in runs
        for sooner, later in zip(run.steps[WARM_UP_STEPS:], run.steps[WARM_UP_STEPS + 1 :], strict=False)
    )
