"""Analysis of training results: evaluations, adapters by layer, attention and hidden states.

polyray analyze evaluation runs/quickstart --out runs/analysis
polyray analyze lora runs/quickstart/drgrpo runs/quickstart/polychromic --out runs/analysis
polyray analyze ablation configs/evaluate/hidden_trap_grid.yaml --adapter runs/a/adapter name=ablation
polyray analyze mechanistic runs/quickstart/evaluation-seed0 --out runs/mechanistic
polyray analyze figures runs/quickstart --out runs/figures
polyray analyze lora --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from polyray.cli import (
    analyze_ablation,
    analyze_evaluation,
    analyze_figures,
    analyze_lora,
    analyze_mechanistic,
)
from polyray.cli.arguments import JobParser

SUBCOMMANDS = {
    "lora": analyze_lora.analyze,
    "ablation": analyze_ablation.analyze_ablation,
    "mechanistic": analyze_mechanistic.analyze_mechanistic,
    "evaluation": analyze_evaluation.analyze_evaluation,
    "figures": analyze_figures.analyze_figures,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: which of SUBCOMMANDS, then its own arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    names = ", ".join(SUBCOMMANDS)
    parser = JobParser("analyze", __doc__, usage="polyray analyze lora ADAPTER [ADAPTER ...] --out DIR")
    parser.add_argument("subcommand", help=names)
    given = parser.parse_strictly(arguments).subcommand
    parser.error(f"unknown subcommand {given!r}; known: {names}")
