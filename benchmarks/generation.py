"""Measures the generation service on this machine, with a random model of about 90 M parameters and an adapter.

The judged figures are ratios and differences of one run. The bare engine is vLLM with the service's own arguments and
adapter, in a process of its own; the two take turns and never run at the same time.

  throughput   16 callers with one completion each, against the bare engine with as many sequences
  latency      what HTTP, Serve and the service add to one token
  candidates   k = 8 candidates against one completion with n = 8
  soak         100 clients, completions and candidates, whole and streamed: answered, or refused with 429

  python -m benchmarks generation
  python -m benchmarks generation --only latency candidates --out generation.json
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import REFERENCE_SPEED, conclude, machine
from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK, ConfigError

PARTS = ("throughput", "latency", "candidates", "soak")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks generation", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts instead of all")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput part (default: 3)")
    parser.add_argument("--soak-seconds", type=float, default=60, help="of the soak (default: 60)")
    parser.add_argument("--check", action="store_true", help="validate, print what will run and exit")
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    options = parser.parse_strictly(argv)
    if options.rounds < 1 or options.soak_seconds <= 0:
        raise ConfigError(
            f"--rounds {options.rounds} --soak-seconds {options.soak_seconds:g}: at least one round, and seconds "
            "above 0, are needed"
        )
    if options.check:
        print(f"parts: {', '.join(options.only)}")
        return EXIT_OK

    import ray

    from benchmarks.generation_parts import BareEngine, prepare, run_parts
    from polyray.orchestrator.resources import OUTSIDE_ANY_GROUP, ray_session
    from polyray.runs.progress import ProgressDisplay
    from polyray.serving.generation.run import start_generation_service, stop_generation_service
    from polyray.serving.generation.tokens import TokenBook

    before = machine()
    with tempfile.TemporaryDirectory(prefix="polyray-") as scratch, ProgressDisplay() as display:
        config, model_dir, adapter_dir = prepare(Path(scratch))
        with ray_session(config.ray):
            display.update(phase="starting the service and the bare engine")
            address = start_generation_service(config, TokenBook())
            bare: Any = (
                ray.remote(BareEngine)
                .options(
                    num_cpus=1,
                    scheduling_strategy=OUTSIDE_ANY_GROUP,
                    runtime_env={"env_vars": {"OMP_NUM_THREADS": str(config.engine.threads)}},
                )
                .remote(str(model_dir), config, str(adapter_dir))
            )
            try:
                measures = run_parts(
                    address.url, bare, options.only, options.rounds, options.soak_seconds, display
                )
            finally:
                ray.kill(bare)
                stop_generation_service(config)
    after = machine()
    print(
        f"a core ran {before['core_speed']} and then {after['core_speed']} million loop turns/s (the limit of "
        f"milliseconds: {REFERENCE_SPEED:g})"
    )
    return conclude(measures, {"machine": before, "machine_after": after}, options.out)
