"""The benchmark of the report on small files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.analysis import reported, write_run_of_length
from polyray.report.run_data import load_report_data
from polyray.report.thinning import MAX_POINTS


def test_the_report_of_long_runs_draws_every_curve_with_few_points(tmp_path: Path) -> None:
    for seed in range(2):
        write_run_of_length(tmp_path / f"arm-seed{seed}", 400, seed)
    runs = load_report_data([tmp_path]).training
    assert [(len(run.rows), len(run.dynamics)) for run in runs] == [(400, 40), (400, 40)]
    seconds, num_bytes = reported(str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert seconds > 0 and num_bytes == len(page.encode())
    assert page.count("400 of 400 steps") == 2
    # 6 main panels, 3 of the mismatch, 16 more, 12 of the rounds, the times, and the front of checkpoints.
    assert page.count('class="plot"') == 6 + 3 + 16 + 12 + 1 + 1
    found = re.search(
        r'id="figure-rl-entropy".*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    assert found is not None
    curves = json.loads(found[1])["data"]
    assert [len(curve["x"]) <= MAX_POINTS for curve in curves] == [True] * 4, "two runs, raw and smooth"
    values = [row["entropy"] for row in runs[0].rows]
    assert max(curves[0]["y"]) == float(f"{max(values):.5g}") and min(curves[0]["y"]) == float(
        f"{min(values):.5g}"
    )
