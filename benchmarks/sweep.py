"""Measures the gain when the trials of a sweep share one fleet of engines.

real: the trials of a sweep on the default task (2 λ x 2 seeds), as polyray sweep runs them: all at the same
time on one
shared fleet, then one after another, each with a fleet of its own; on one Ray, wall times with the starts of engines
and rewards, as a user waits for them. One-time costs of a process (Serve) fall on the shared fleet, which comes
first. Engine memory is the resident memory (RSS) of the processes of engines. There is one fleet at a time either
way, so the memory at one time says nothing; the sum over all fleets that were needed is judged.
The trials must also have come out equal in both ways.

simulated: 1 and 32 trials at staleness 0 on 8 simulated engines, with more work than the engines can do; keepers,
coordinators, turns and deliveries are the real ones (coordinators share processes), engines and learners only wait.
Both ways of delivery: engines that keep versions (adapter), and such that hold one at a time (merged), where a
trial's turn may begin with a load that only brings its weights back. An engine counts as busy while it decodes.

  python -m benchmarks sweep
  python -m benchmarks sweep --parts real --steps 60
  python -m benchmarks sweep --parts simulated --trials 32 --rounds 4 --out sweep.json
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Measure, conclude, machine
from polyray.cli.arguments import JobParser
from polyray.config.run import RaySpec
from polyray.errors import EXIT_OK, ConfigError

PARTS = ("real", "simulated")
TRIALS = (1, 32)
LOAD: dict[str, Any] = {
    "num_workers": 8,
    "max_staleness": 0,
    "prompts_per_step": 8,
    "group_size": 16,
    "max_sequences": 16,
    "max_completion_tokens": 200,
    "learn_s": 4.0,
}
"""One group an engine and step, about a second of decoding: 32 trials have 32 s of work for 4 s of learning."""
SIMULATION: dict[str, Any] = {"step_s": 0.003, "sequence_s": 0.00025, "mean_length": 40, "load_s": 0.02}
"""A load takes what one of merged weights takes with the embedded model."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks sweep", __doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=12, help="real: steps of each trial (default: 12)")
    parser.add_argument(
        "--trials", type=int, nargs="+", default=list(TRIALS), help="simulated: numbers of trials to measure"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="simulated: steps of the slowest trial (default: 3)"
    )
    parser.add_argument("--check", action="store_true", help="validate, print what will run and exit")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    options = parser.parse_strictly(argv)
    if min(options.steps, options.rounds, *options.trials) < 1:
        raise ConfigError(
            f"--steps {options.steps} --rounds {options.rounds} --trials {' '.join(map(str, options.trials))}: "
            "each must be at least 1"
        )
    if options.check:
        plan = {"job": "benchmarks sweep", "parts": options.parts, "load": LOAD, "simulation": SIMULATION}
        print(json.dumps(plan, indent=2))
        return EXIT_OK
    before = machine()
    measures = _measure(options)
    return conclude(measures, {"machine": before, "machine_after": machine(), "load": LOAD}, options.out)


def _measure(options: Namespace) -> list[Measure]:
    from polyray.launch.fleet import open_ray
    from polyray.runs.progress import ProgressDisplay

    measures: list[Measure] = []
    with ProgressDisplay() as display, open_ray(RaySpec(dashboard=False), display):
        if "real" in options.parts:
            from benchmarks.sweep_trials import real_measures

            measures += real_measures(options.steps, display)
        if "simulated" in options.parts:
            from benchmarks.simulated_sweep import simulated_measures

            measures += simulated_measures(LOAD, SIMULATION, options.trials, options.rounds, display)
    return measures
