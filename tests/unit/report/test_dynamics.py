"""Trajectories through SFT and RL, bands over seeds, alarms, cost."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from polyray.report.arms import Arm, collect_arms
from polyray.report.dynamics import (
    PANELS,
    alarm_lines,
    available_dynamics,
    cost_share,
    dynamics_figure,
    trajectory,
)
from polyray.report.run_data import ReportData, TrainingRun, load_report_data
from polyray.report.run_report import build_report
from tests.unit.report.report_fixtures import write_training_run

GRPO = {"type": "grpo"}


def traces(figure: go.Figure) -> list[dict[str, Any]]:
    return figure.to_dict()["data"]


def run(name: str, values: dict[int, Any], *, rl: bool = True, rows: Any = (), **config: Any) -> TrainingRun:
    lines = [{"step": step, "diversity": value} for step, value in values.items()]
    given = {"name": name, **({"algorithm": GRPO} if rl else {}), **config}
    return TrainingRun(Path(name), given, list(rows), [], lines)


def test_a_band_reaches_from_the_least_seed_to_the_largest() -> None:
    runs = [
        run("a-seed0", {0: 0.5, 10: 0.4, 20: 0.3}),
        run("a-seed1", {0: 0.7, 10: math.nan, 20: 0.4}),
        run("a-seed2", {}),
    ]
    found = trajectory(runs, "diversity")
    assert found.steps == (0, 10, 20)
    assert found.mean == pytest.approx((0.6, 0.4, 0.35))
    assert (found.low, found.high) == ((0.5, 0.4, 0.3), (0.7, 0.4, 0.4))
    assert found.seeds == 2
    assert trajectory(runs, "pass_at_1").steps == ()


def test_sft_ends_where_rl_begins() -> None:
    runs = [run("sft", {0: 0.1, 40: 0.2, 100: 0.3}, rl=False)]
    assert trajectory(runs, "diversity").steps == (-100, -60, 0)
    arms = [Arm("sft", "warm start", runs=runs, is_warm_start=True), Arm("a", "A", runs=[run("a", {0: 0.3})])]
    figure = dynamics_figure(arms, PANELS[3])
    assert [trace["x"] for trace in traces(figure)] == [[-100, -60, 0], [0]]
    assert figure.to_dict()["layout"]["shapes"][0]["x0"] == 0
    assert "shapes" not in dynamics_figure(arms[1:], PANELS[3]).to_dict()["layout"]


def test_one_seed_has_no_band_and_several_have_one() -> None:
    one = [Arm("a", "A", runs=[run("a-seed0", {0: 0.5, 1: 0.2})])]
    two = [Arm("a", "A", runs=[*one[0].runs, run("a-seed1", {0: 0.4, 1: 0.3})])]
    assert ["fill" in trace for trace in traces(dynamics_figure(one, PANELS[3]))] == [False]
    band, mean = traces(dynamics_figure(two, PANELS[3]))
    assert (band["fill"], band["x"], band["y"]) == ("toself", [0, 1, 1, 0], [0.5, 0.3, 0.2, 0.4])
    assert mean["y"] == pytest.approx([0.45, 0.25])


def test_available_dynamics_lists_only_measured_panels() -> None:
    arms = [Arm("a", "A", runs=[run("a", {0: 0.5})]), Arm("b", "B", runs=[run("b", {})])]
    assert [panel.key for panel in available_dynamics(arms)] == ["diversity"]
    assert available_dynamics([Arm("a", "A", runs=[run("a", {0: 0.0, 1: math.nan})])]) == []


def test_alarm_names_its_first_and_last_step() -> None:
    monitors = [{"preset": "@collapse", "rule": {"share": 0.25}}, "@mismatch"]
    lines = [{"step": step, "monitor/collapse": int(step in (4, 6))} for step in (0, 2, 4, 6, 8)]
    rows = [{"step": step, "monitor/mismatch": int(step > 6)} for step in range(9)]
    arm = Arm("a", "A", runs=[TrainingRun(Path("a-seed0"), {"monitors": monitors}, rows, [], lines)])
    collapse, mismatch = alarm_lines([arm])
    assert re.fullmatch(r"A \(a-seed0\): .*diversity .* 0\.75 .*step 4 .*step 6", collapse)
    assert re.fullmatch(r"A \(a-seed0\): .*kl_rollout .*step 7 on", mismatch)
    other = TrainingRun(Path("a-seed1"), {}, rows, [], lines)
    assert alarm_lines([Arm("a", "A", runs=[other])]) == []


def test_the_cost_is_a_share_of_all_seconds() -> None:
    rl = [{"step_s": 1.0}, {"step_s": 1.5, "validation_s": 0.5}]
    sft = [{"step_s": 0.2}, {"step_s": 0.2, "validation_s": 0.1}]
    assert cost_share([run("a", {}, rows=rl)]) == pytest.approx(0.2)
    assert cost_share([run("s", {}, rl=False, rows=sft)]) == pytest.approx(0.2)
    assert cost_share([run("a", {}, rows=rl[:1])]) is None


def test_page_draws_dynamics_only_of_runs_that_have_any(tmp_path: Path) -> None:
    path = write_training_run(tmp_path / "drgrpo-seed0", GRPO)
    assert 'id="figure-dynamics-' not in build_report(load_report_data([path]), "t")
    lines = [{"phase": "rl", "step": 0, "pass_at_1": 0.3, "diversity": 0.4, "monitor/collapse": 0}]
    lines.append({"phase": "rl", "step": 4, "pass_at_1": 0.4, "diversity": 0.1, "monitor/collapse": 1})
    text = "".join(json.dumps(entry) + "\n" for entry in lines)
    (path / "dynamics.jsonl").write_text(text + '{"phase": "rl", "st')  # a line that is being written
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "monitors": ["@collapse"]}))
    data = load_report_data([path])
    assert [entry["step"] for entry in data.training[0].dynamics] == [0, 4]
    page = build_report(data, "t")
    assert page.count('id="figure-dynamics-') == 2
    assert re.search(r"diversity .* 0\.5 .* step 4", page)
    assert collect_arms(ReportData(data.training, []))[0].label == "drgrpo"
