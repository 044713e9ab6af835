"""The figures of the research as files: SVG and PDF for a paper, and the points of each as CSV.

RUN is a run directory, or a directory of them (runs/quickstart). Drawn is what the runs have: the method; dynamics
through SFT and RL; quality against diversity; where adapters work; pass@k by domain; USQ against pass@k;
significance, collapse, theory and gains by condition.

  polyray analyze figures runs/quickstart --out runs/figures
  polyray analyze figures runs/code runs/math --out runs/figures       several domains

SVG and PDF are drawn by kaleido with a Chrome or Chromium on this machine, a few seconds each, without a network.
Without a browser the data is written, and the job says what is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from polyray.cli.arguments import JobParser
from polyray.errors import EXIT_OK


def analyze_figures(argv: Sequence[str] | None = None) -> int:
    """Parse, draw, write; print the paths of the files."""
    parser = JobParser("analyze figures", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory, or a directory of them")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where the files go; made if it is missing"
    )
    parser.add_argument("--check", action="store_true", help="print which runs would be read and exit")
    args = parser.parse_strictly(argv)
    if args.check:
        from polyray.report.run_data import load_report_data

        data = load_report_data(args.runs)
        names = {
            "training": [str(run.path) for run in data.training],
            "evaluations": [str(run.path) for run in data.evaluations],
        }
        print(json.dumps({"job": "analyze figures", "out": args.out, **names}, indent=2))
        return EXIT_OK
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as polyray analyze evaluation: thousands of tiny fits
    from polyray.shelf.research.figure_files import export_figures
    from polyray.shelf.research.figures import research_figures

    figures = research_figures(args.runs)
    print(f"drawing {len(figures)} figures: {', '.join(figures)}", flush=True)
    done = export_figures(figures, Path(args.out))
    if done.trouble is not None:
        print(done.trouble)
    print(f"written: {len(done.files)} files in {args.out}")
    return EXIT_OK
