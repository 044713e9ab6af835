"""Figures as files: their data, and the reason without a renderer."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from polyray.report.figures import DECORATION
from polyray.report.overview import ARROWS, BOXES, overview_figure
from polyray.shelf.research.figure_files import export_figures, figure_data, for_print


def rows(figure: go.Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(figure_data(figure))))


def test_figure_data_has_a_row_per_point_with_error_bars() -> None:
    figure = go.Figure()
    figure.add_trace(go.Scatter(x=np.arange(1, 3), y=np.array([0.5, 0.25]), name="A"))
    error = {"type": "data", "symmetric": False, "array": [0.1], "arrayminus": [0.2]}
    figure.add_trace(go.Bar(x=["a, b"], y=[3], error_y=error))
    figure.add_vline(x=1)
    assert [list(row.values()) for row in rows(figure)] == [
        ["A", "scatter", "1", "0.5", "", ""],
        ["A", "scatter", "2", "0.25", "", ""],
        ["1", "bar", "a, b", "3", "0.1", "0.2"],
    ]
    assert list(rows(figure)[0]) == ["trace", "kind", "x", "y", "y_above", "y_below"]


def test_figure_data_has_a_row_per_cell_for_arrays_and_lists() -> None:
    grid = np.array([[1.5, 2.5], [3.5, 4.5]])
    for z in (grid, grid.tolist()):
        found = rows(go.Figure(go.Heatmap(x=["q", "k"], y=["0", "1"], z=z)))
        assert [row["x"] + row["y"] + row["z"] for row in found] == ["q01.5", "k02.5", "q13.5", "k14.5"]


def test_export_without_kaleido_writes_data_and_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    done = export_figures({"one": go.Figure(go.Scatter(y=[2]))}, tmp_path / "out")
    assert [path.name for path in done.files] == ["one.csv"]
    assert done.trouble is not None and "pip install 'polyray[research]'" in done.trouble
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.csv"]


def test_export_without_a_browser_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")

    def fail_without_a_browser(**_: Any) -> None:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.\nmore")

    monkeypatch.setattr("plotly.io.write_images", fail_without_a_browser)
    done = export_figures({"one": go.Figure(go.Scatter(y=[2]))}, tmp_path)
    assert done.trouble is not None and "Kaleido requires Google Chrome to be installed." in done.trouble


@pytest.mark.slow  # a browser starts
def test_export_with_a_browser_draws_svg_and_pdf(tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], name="λ = 0.25"), layout={"title": {"text": "λ and φ"}})
    done = export_figures({"one": figure}, tmp_path)
    if done.trouble is not None:
        pytest.skip(done.trouble)
    assert "λ and φ" in (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def test_overview_figure_names_every_box_and_arrow() -> None:
    keys = [box.key for box in BOXES]
    assert {end for _, end, _ in ARROWS} == set(keys) - {"prompt"}
    assert {start for start, _, _ in ARROWS} <= set(keys)
    figure = overview_figure()
    assert [row["text"].partition("</b>")[0] for row in rows(figure)] == [f"<b>{box.title}" for box in BOXES]
    layout = figure.to_dict()["layout"]
    assert sum(bool(entry.get("showarrow")) for entry in layout["annotations"]) == len(ARROWS)


def test_for_print_is_black_on_white_with_a_legend_of_lines() -> None:
    figure = go.Figure(layout={"showlegend": False, "paper_bgcolor": "rgba(0,0,0,0)"})
    for name, more in (
        ("A", {}),
        ("B", {}),
        ("A", {}),
        ("A", {"fill": "toself"}),
        ("raw", {"meta": DECORATION}),
    ):
        figure.add_trace(go.Scatter(x=[1, 2], y=[1, 2], mode="lines", name=name, **more))
    before = figure.to_dict()["layout"]
    printed = for_print(figure).to_dict()
    assert (printed["layout"]["paper_bgcolor"], printed["layout"]["font"]["color"]) == ("#ffffff", "#1d2229")
    assert [trace["showlegend"] for trace in printed["data"]] == [True, True, False, False, False]
    assert printed["layout"]["showlegend"] and figure.to_dict()["layout"] == before
    assert "raw" not in {row["trace"] for row in rows(figure)}
    one = go.Figure(go.Scatter(x=[1], y=[1], mode="lines", name="A"), layout={"showlegend": False})
    assert not for_print(one).to_dict()["layout"]["showlegend"]
