"""Figures as files: their data, and the reason without a renderer."""

from __future__ import annotations

import builtins
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from polyray.report.figures import DECORATION
from polyray.shelf.research.figure_files import export_figures, figure_data, for_print


def rows(figure: go.Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(figure_data(figure))))


def test_a_line_per_point_with_its_error_bars() -> None:
    figure = go.Figure()
    figure.add_trace(go.Scatter(x=[1, 2], y=[0.5, 0.25], name="A"))
    error = {"type": "data", "symmetric": False, "array": [0.1], "arrayminus": [0.2]}
    figure.add_trace(go.Bar(x=["a, b"], y=[3], error_y=error))
    figure.add_vline(x=1)
    assert rows(figure) == [
        {"trace": "A", "kind": "scatter", "x": "1", "y": "0.5", "y_above": "", "y_below": ""},
        {"trace": "A", "kind": "scatter", "x": "2", "y": "0.25", "y_above": "", "y_below": ""},
        {"trace": "1", "kind": "bar", "x": "a, b", "y": "3", "y_above": "0.1", "y_below": "0.2"},
    ]


def test_rows_have_a_line_per_cell_for_arrays_and_lists() -> None:
    grid = np.array([[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]])
    expected = [("q", "0", "1.5"), ("k", "0", "2.5"), ("q", "1", "3.5"), ("k", "1", "4.5"), ("q", "2", "5.5"),
                ("k", "2", "6.5")]  # fmt: skip
    for z in (grid, grid.tolist()):
        found = rows(go.Figure(go.Heatmap(x=["q", "k"], y=["0", "1", "2"], z=z)))
        assert [(row["x"], row["y"], row["z"]) for row in found] == expected
    (row, *_) = rows(go.Figure(go.Scatter(x=np.arange(3), y=np.array([0.1, 0.2, 0.3]))))
    assert (row["x"], row["y"]) == ("0", "0.1")


def test_print_is_black_on_white_and_the_page_keeps_its_figure() -> None:
    figure = go.Figure(go.Scatter(y=[1]), layout={"paper_bgcolor": "rgba(0,0,0,0)"})
    printed = for_print(figure).to_dict()["layout"]
    assert (printed["paper_bgcolor"], printed["font"]["color"]) == ("#ffffff", "#1d2229")
    assert figure.to_dict()["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_export_without_kaleido_writes_data_and_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **options: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    done = export_figures({"one": go.Figure(go.Scatter(y=[2]))}, tmp_path / "out")
    assert [path.name for path in done.files] == ["one.csv"]
    assert done.trouble is not None and "pip install 'polyray[research]'" in done.trouble
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.csv"]


def test_a_browser_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")

    def fail_without_a_browser(**_: Any) -> None:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.\nmore")

    monkeypatch.setattr("plotly.io.write_images", fail_without_a_browser)
    done = export_figures({"one": go.Figure(go.Scatter(y=[2]))}, tmp_path)
    assert done.trouble is not None and "Kaleido requires Google Chrome to be installed." in done.trouble


@pytest.mark.slow  # a browser starts
def test_browser_draws_svg_and_pdf(tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], name="λ = 0.25"), layout={"title": {"text": "λ and φ"}})
    done = export_figures({"one": figure}, tmp_path)
    if done.trouble is not None:
        pytest.skip(done.trouble)
    assert "λ and φ" in (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def test_the_picture_of_the_method_names_every_station() -> None:
    from polyray.report.overview import ARROWS, BOXES, overview_figure

    keys = [box.key for box in BOXES]
    assert all(start in keys and end in keys for start, end, _ in ARROWS)
    assert {end for _, end, _ in ARROWS} == set(keys) - {"prompt"}
    figure = overview_figure()
    assert [row["text"].partition("</b>")[0] for row in rows(figure)] == [f"<b>{box.title}" for box in BOXES]
    layout = figure.to_dict()["layout"]
    assert sum(bool(entry.get("showarrow")) for entry in layout["annotations"]) == len(ARROWS)


def test_on_paper_lines_have_a_legend_and_no_name_comes_twice() -> None:
    figure = go.Figure(layout={"showlegend": False})
    for name in ("A", "B", "A"):
        figure.add_trace(go.Scatter(x=[1, 2], y=[1, 2], mode="lines", name=name))
    figure.add_trace(go.Scatter(x=[1, 2], y=[1, 2], mode="lines", name="A", fill="toself"))
    figure.add_trace(go.Scatter(x=[1, 2], y=[1, 2], mode="lines", name="raw", meta=DECORATION))
    printed = for_print(figure).to_dict()
    assert [trace["showlegend"] for trace in printed["data"]] == [True, True, False, False, False]
    assert printed["layout"]["showlegend"] and not figure.to_dict()["layout"]["showlegend"]
    assert "raw" not in {row["trace"] for row in rows(figure)}
    one = go.Figure(go.Scatter(x=[1], y=[1], mode="lines", name="A"), layout={"showlegend": False})
    assert not for_print(one).to_dict()["layout"]["showlegend"]
