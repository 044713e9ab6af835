"""One self-contained HTML page from run directories: metrics, intervals, candidates side by side.

polyray report runs/quickstart                     a directory of runs, with their evaluation
polyray report runs/my-run                         one run
polyray report runs/a runs/b --out compare.html    several runs
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build the page, print its path."""
    args = _parse(argv)
    out = Path(args.out) if args.out else default_out(args.runs)
    if args.check:
        return _print_check(args.runs, out)
    from polyray.report.run_report import write_report

    path = write_report(args.runs, out)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB, opens without a network)")
    return EXIT_OK


def default_out(runs: Sequence[str]) -> Path:
    """report.html in the run's directory; for several runs in the directory that holds them all."""
    if len(runs) == 1:
        return Path(runs[0]) / "report.html"
    return Path(os.path.commonpath([Path(path).resolve().parent for path in runs])) / "report.html"


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = JobParser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="a run directory, or a directory of them")
    parser.add_argument(
        "--out", metavar="FILE", help="default: report.html in RUN_DIR, or above several of them"
    )
    parser.add_argument("--check", action="store_true", help="print what would be reported as JSON and exit")
    return parser.parse_strictly(argv)


def _print_check(runs: Sequence[str], out: Path) -> int:
    from polyray.report.run_data import load_report_data

    data = load_report_data(runs)
    found = {
        "job": "report",
        "out": str(out),
        "training_runs": {str(entry.path): len(entry.rows) for entry in data.training},
        "evaluations": {str(entry.path): list(entry.metrics["models"]) for entry in data.evaluations},
    }
    print(json.dumps(found, indent=2))
    return EXIT_OK
