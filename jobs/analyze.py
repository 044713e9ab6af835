"""What training did to the network: `lora` says where in it adapters work, and how differently.

python -m jobs.analyze lora runs/quickstart/drgrpo runs/quickstart/polychromic --out runs/analysis
python -m jobs.analyze lora --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs import analyze_lora
from jobs.cli import JobParser, run

SUBCOMMANDS = {"lora": analyze_lora.analyze}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: which of SUBCOMMANDS, then its own arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    names = ", ".join(SUBCOMMANDS)
    parser = JobParser(
        "analyze", __doc__, usage="python -m jobs.analyze lora ADAPTER [ADAPTER ...] --out DIR"
    )
    parser.add_argument("subcommand", help=names)
    given = parser.parse_strictly(arguments).subcommand
    parser.error(f"unknown subcommand {given!r}; known: {names}")


if __name__ == "__main__":
    run(main)
