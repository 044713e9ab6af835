"""The page of runs: it holds the numbers, loads nothing and escapes text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyray.report.arms import collect_arms
from polyray.report.candidates import candidate_rows, goal_shares
from polyray.report.run_data import load_report_data
from polyray.report.run_report import write_report
from tests.unit.report.report_fixtures import write_evaluation, write_training_run

MODELS = {
    "SFT": [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]],
    "GRPO": [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]],
    "Poly": [[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]],
}
PLOTLY = re.compile(r"<script>/\*\*\n\* plotly.js.*?</script>", re.DOTALL)


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    root = tmp_path / "quickstart"
    write_training_run(root / "sft-seed0", None)
    write_training_run(root / "grpo-seed0", {"type": "grpo", "kl_coefficient": 0.0})
    write_training_run(root / "poly-seed0", {"type": "polychromic"})
    write_evaluation(root / "evaluation-seed0", MODELS, baseline="GRPO")
    return root


def page_without_plotly(*paths: Path) -> str:
    page = write_report(paths, paths[0] / "report.html").read_text()
    short, count = PLOTLY.subn("", page)
    assert count == 1, "plotly.js must be inlined exactly once"
    return short


def test_page_holds_the_numbers_and_loads_nothing(quickstart: Path) -> None:
    page = page_without_plotly(quickstart)
    metrics = json.loads((quickstart / "evaluation-seed0/evaluation/metrics.json").read_text())
    for model in MODELS:
        entry = metrics["models"][model]["pass_at_k"]["2"]
        assert f'<div class="value">{entry["value"]:.3f}</div>' in page
        assert f"[{entry['low']:.3f}, {entry['high']:.3f}]" in page
    for words in ("Poly against GRPO", "Poly against the SFT", "Execution of Poly", "nearly free here"):
        assert words in page
    assert page.count("<svg viewBox") == 2 * 3, "two example prompts, three arms"
    for figure in ("curve-pass_at_k", "rl-entropy", "rl-mean_advantage_correct", "times", "sft-loss"):
        assert page.count(f'id="figure-{figure}"') == 1
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page and "<link" not in page and "url(" not in page
    assert "default-src 'none'" in page
    assert page_without_plotly(quickstart) == page


def test_page_escapes_text_from_runs(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    write_evaluation(tmp_path / "q" / "e", {f"A{evil}": [[1, 0]], "</script><b>": [[1, 0]]}, completion=evil)
    page = page_without_plotly(tmp_path / "q")
    assert evil not in page and "</script><b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_page_of_a_training_run_alone_shows_rollouts(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "first", {"type": "grpo"})
    group = {"step": 2, "group_id": 4, "policy": 2, "prompt": "37|b1>e4=", "completions": [
        {"text": "RRRUUU", "reward": 1.0, "class": 5}, {"text": "RR", "reward": 0.0, "class": -1},
        {"text": "R", "reward": None, "class": -1},
    ]}  # fmt: skip
    (run / "rollouts.jsonl").write_text(json.dumps(group) + "\n")
    page = page_without_plotly(run)
    assert "Results on held-out prompts" not in page
    assert "1 of 3 correct, 1 different" in page and "step 2, map 37, from b1 to e4" in page
    assert 'class="unscored"' in page


def test_page_averages_seeds_of_one_experiment_and_names_others(quickstart: Path) -> None:
    write_evaluation(quickstart / "evaluation-seed1", MODELS, seed=1, baseline="GRPO")
    write_evaluation(quickstart / "evaluation-x", {"Other": [[1, 0]]})
    page = page_without_plotly(quickstart)
    assert "means over 2 seeds" in page and "seed 1: " in page
    assert "differ from the first evaluation: evaluation-x" in page
    write_evaluation(quickstart / "evaluation-y", MODELS, seed=1, baseline="GRPO")  # a seed counts once
    page = page_without_plotly(quickstart)
    assert "means over 2 seeds" in page and "evaluation-x, evaluation-y" in page


def test_candidates_are_spread_over_prompts_and_merged_and_goals_ignore_traps(quickstart: Path) -> None:
    data = load_report_data([quickstart])
    rows = candidate_rows(data.evaluations[0], collect_arms(data), num_prompts=2, k=3)
    assert [row.prompt for row in rows] == ["37|b1>e4=", "55|h8>f5="]
    cell = rows[0].cells[2]
    assert (cell.arm.label, cell.caption) == ("Poly", "2 of 3 correct, 2 different")
    assert [(answer.text, answer.count, answer.mark) for answer in cell.answers] == [
        ("RRRUUU", 2, "right"), ("RRRUUU", 1, "wrong"),
    ]  # fmt: skip
    shares = goal_shares(data.evaluations[0])["GRPO"]
    assert shares == {"test-37|b1>e4=": 1.0, "test-12|a1>c3=": 0.0, "test-55|h8>f5=": 0.0}
