"""Figures of the research for a directory of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.cli.analyze_figures import analyze_figures
from polyray.report.arms import collect_arms
from polyray.report.run_data import load_report_data
from polyray.shelf.research.evaluated import theory
from polyray.shelf.research.figures import research_figures, usq_figure
from tests.unit.report.report_fixtures import write_evaluation, write_training_run

MODELS = {"A": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], "B": [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory, "REFITS", 5)
    monkeypatch.setattr(theory, "TEST_RESAMPLES", 9)


def test_usq_figure_has_a_point_per_k(tmp_path: Path) -> None:
    data = load_report_data([write_evaluation(tmp_path / "e", MODELS)])
    figure = usq_figure(data.evaluations, collect_arms(data)).to_dict()
    models = data.evaluations[0].metrics["models"]
    for trace in figure["data"]:
        model = models[trace["name"]]
        assert trace["x"] == [model["pass_at_k"][k]["value"] for k in ("1", "2")]
        assert trace["y"] == [model["usq_at_k"][k]["value"] for k in ("1", "2")]
        assert trace["text"] == ["k=1", "k=2"]
    assert [trace["name"] for trace in figure["data"]] == ["A", "B"]


def test_research_figures_follow_what_the_runs_have(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "runs" / "a-seed0", {"type": "grpo"})
    assert list(research_figures([run])) == ["1-method"]
    lines = [{"step": step, "pass_at_1": 0.3, "diversity": 0.2} for step in (0, 4)]
    (run / "dynamics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_evaluation(tmp_path / "runs" / "e", MODELS, baseline="A")
    names = list(research_figures([tmp_path / "runs"]))
    assert names[:4] == ["1-method", "2-dynamics-pass_at_1", "2-dynamics-diversity", "3-pareto"]
    assert {"5-cross-domain", "6-usq-against-pass", "significance", "collapse"} <= set(names)
    assert list(research_figures([run, tmp_path / "runs" / "e"])) == names


def test_analyze_figures_writes_the_data_of_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyray.shelf.research.figure_files._write_images", lambda *_: "no browser here")
    write_evaluation(tmp_path / "e", MODELS, baseline="A")
    assert analyze_figures([str(tmp_path / "e"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "no browser here" in said
    written = {path.stem for path in (tmp_path / "out").iterdir()}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv"}
    assert {"1-method", "5-cross-domain", "6-usq-against-pass"} <= written
