from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from polyray.report import figures
from polyray.report.arms import Arm, collect_arms
from polyray.report.run_data import TrainingRun, load_report_data
from tests.unit.report.report_fixtures import write_evaluation, write_training_run


def traces(figure: go.Figure) -> list[dict[str, Any]]:
    return figure.to_dict()["data"]


def test_running_mean_never_looks_ahead() -> None:
    assert figures.running_mean([1, 3, 5, 100], 2) == [1, 2, 4, 52.5]


def test_step_time_leaves_out_the_first_step_and_names_the_rest(tmp_path: Path) -> None:
    [run] = load_report_data([write_training_run(tmp_path / "a", {"type": "grpo"})]).training
    shares = figures.step_time_shares(run)
    assert shares == pytest.approx(
        {"generate": 0.2, "score": 0.1, "learn": 0.3, "deliver and prove": 0.1, "other": 0.3}
    )


def test_time_bars_add_up_to_the_step(tmp_path: Path) -> None:
    data = load_report_data([write_training_run(tmp_path / "a", {"type": "grpo"})])
    figure = figures.time_figure(collect_arms(data))
    assert sum(trace["x"][0] for trace in traces(figure)) == pytest.approx(1.0)


def test_curves_hold_the_values_and_bands_the_intervals(tmp_path: Path) -> None:
    data = load_report_data(
        [write_evaluation(tmp_path / "e", {"A": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]})]
    )
    figure = figures.curve_figure(data.evaluations, collect_arms(data), "pass_at_k")
    band, line = traces(figure)
    entry = data.evaluations[0].metrics["models"]["A"]["pass_at_k"]
    assert line["y"] == [entry["1"]["value"], entry["2"]["value"]]
    assert band["y"] == [entry["1"]["high"], entry["2"]["high"], entry["2"]["low"], entry["1"]["low"]]
    layout = figure.to_dict()["layout"]
    assert layout["xaxis"]["ticktext"] == ["1", "2"] and layout["showlegend"] is False


def test_null_metrics_are_gaps_and_empty_panels_are_left_out() -> None:
    rows = [{"step": 0, "entropy": None, "loss": 0.0}, {"step": 1, "entropy": 0.5, "loss": 0.0}]
    run = TrainingRun(Path("a"), {"algorithm": {}}, rows)
    panels = figures.available_panels(figures.MAIN_PANELS + figures.MORE_PANELS, [run])
    assert [panel.key for panel in panels] == ["entropy"]
    raw, smooth = traces(figures.training_figure([Arm("a", "a", runs=[run])], panels[0]))
    assert raw["x"] == smooth["x"] == [1] and smooth["y"] == [0.5]


def test_names_in_figures_are_plain_text() -> None:
    run = TrainingRun(Path("a"), {"algorithm": {}}, [{"step": 0, "entropy": 0.5}])
    figure = figures.training_figure([Arm("a", "<b>x</b>", runs=[run])], figures.Panel("entropy", "", ""))
    assert traces(figure)[1]["hovertemplate"] == "%{y:.4g}<extra>&lt;b&gt;x&lt;/b&gt;</extra>"
