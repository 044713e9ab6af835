"""Measures polyray on this machine against fixed limits.

  python -m benchmarks quickstart           the whole quickstart: peak memory and duration
  python -m benchmarks objectives           set objectives: time and memory of every closed form
  python -m benchmarks scale                1 to 256 simulated workers: throughput, cost and delays
  python -m benchmarks async                steps per minute at staleness 0 and 1; the cost of a killed worker
  python -m benchmarks sweep                trials on one fleet against fleets of their own; 32 simulated ones
  python -m benchmarks trl                  whole steps beside TRL's GRPOTrainer
  python -m benchmarks gpu                  agreement, delivery and learner throughput on a CUDA device

`python -m benchmarks NAME --help` explains one. Exit code 1 where something is over its limit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import (
    gpu,
    memory,
    objectives,
    overlap,
    scale,
    sweep,
    trl,
)
from polyray.cli.arguments import JobParser, run

SUBCOMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "quickstart": memory.main,
    "gpu": gpu.main,
    "objectives": objectives.main,
    "scale": scale.main,
    "async": overlap.main,
    "sweep": sweep.main,
    "trl": trl.main,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hands the rest of the command line to the subcommand it names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    parser = JobParser("benchmarks", __doc__, usage=f"python -m benchmarks {{{','.join(SUBCOMMANDS)}}} ...")
    parser.add_argument("name", choices=list(SUBCOMMANDS), help="what to measure")
    parser.parse_strictly(arguments)
    return parser.error("the name of the benchmark comes first")


if __name__ == "__main__":
    run(main)
