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


def page_without_plotly(path: Path) -> str:
    page = path.read_text()
    short, count = PLOTLY.subn("", page)
    assert count == 1, "plotly.js must be inlined exactly once"
    return short


def test_quickstart_page_holds_the_numbers(quickstart: Path) -> None:
    page = page_without_plotly(write_report([quickstart], quickstart / "report.html"))
    metrics = json.loads((quickstart / "evaluation-seed0/evaluation/metrics.json").read_text())
    for model in MODELS:
        entry = metrics["models"][model]["pass_at_k"]["2"]
        assert f'<div class="value">{entry["value"]:.3f}</div>' in page
        assert f"[{entry['low']:.3f}, {entry['high']:.3f}]" in page
    assert "Poly against GRPO" in page and "Poly against the SFT" in page and "Execution of Poly" in page
    assert "nearly free here" in page
    assert page.count("<svg viewBox") == 2 * 3, "two example prompts, three arms"
    for figure in ("curve-pass_at_k", "rl-entropy", "rl-mean_advantage_correct", "times", "sft-loss"):
        assert page.count(f'id="figure-{figure}"') == 1


def test_page_loads_nothing(quickstart: Path) -> None:
    page = page_without_plotly(write_report([quickstart], quickstart / "report.html"))
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page and "<link" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_same_runs_give_the_same_page(quickstart: Path) -> None:
    first = write_report([quickstart], quickstart / "a.html").read_bytes()
    assert write_report([quickstart], quickstart / "b.html").read_bytes() == first


def test_text_from_runs_is_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    write_evaluation(tmp_path / "q" / "e", {f"A{evil}": [[1, 0]], "</script><b>": [[1, 0]]}, completion=evil)
    page = page_without_plotly(write_report([tmp_path / "q"], tmp_path / "report.html"))
    assert evil not in page and "</script><b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_training_run_alone_is_a_page_without_results(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "first", {"type": "grpo"})
    group = {"step": 2, "group_id": 4, "policy": 2, "prompt": "37|b1>e4=", "completions": [
        {"text": "RRRUUU", "reward": 1.0, "class": 5}, {"text": "RR", "reward": 0.0, "class": -1},
        {"text": "R", "reward": None, "class": -1},
    ]}  # fmt: skip
    (run / "rollouts.jsonl").write_text(json.dumps(group) + "\n")
    page = page_without_plotly(write_report([run], run / "report.html"))
    assert "Results on held-out prompts" not in page
    assert "1 of 3 correct, 1 different" in page and "step 2, map 37, from b1 to e4" in page
    assert 'class="unscored"' in page


def test_seeds_of_one_experiment_share_a_table_and_others_are_named(quickstart: Path) -> None:
    write_evaluation(quickstart / "evaluation-seed1", MODELS, seed=1, baseline="GRPO")
    write_evaluation(quickstart / "evaluation-x", {"Other": [[1, 0]]})
    page = page_without_plotly(write_report([quickstart], quickstart / "report.html"))
    assert "means over 2 seeds" in page and "seed 1: " in page
    assert "differ from the first evaluation: evaluation-x" in page


def test_candidates_are_spread_over_the_prompts_and_merged(quickstart: Path) -> None:
    data = load_report_data([quickstart])
    rows = candidate_rows(data.evaluations[0], collect_arms(data), num_prompts=2, k=3)
    assert [row.prompt for row in rows] == ["37|b1>e4=", "55|h8>f5="]
    cell = rows[0].cells[2]
    assert cell.arm.label == "Poly" and cell.caption == "2 of 3 correct, 2 different"
    assert [(answer.text, answer.count, answer.mark) for answer in cell.answers] == [
        ("RRRUUU", 2, "right"), ("RRRUUU", 1, "wrong"),
    ]  # fmt: skip


def test_goal_share_ignores_traps(quickstart: Path) -> None:
    shares = goal_shares(load_report_data([quickstart]).evaluations[0])
    assert shares["GRPO"] == {"test-37|b1>e4=": 1.0, "test-12|a1>c3=": 0.0, "test-55|h8>f5=": 0.0}
