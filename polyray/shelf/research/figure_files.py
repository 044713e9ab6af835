"""Figures as files: SVG and PDF for papers, and the data behind each as CSV.

Static export is plotly's own, which needs kaleido and a Chrome or Chromium on this machine, no network. Without
them the data is still written, and the caller is told what to install.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go

from polyray.extensions import install
from polyray.report.figures import DECORATION
from polyray.runs.atomic import atomic_write_text

FORMATS = ("svg", "pdf")
WIDTH, HEIGHT = 700, 420
INSTALL = "install Chrome or Chromium (Debian: apt-get install chromium), or set BROWSER_PATH to one"


@dataclass(frozen=True, slots=True)
class Exported:
    """Written files.

    Example:
        Exported(files=(Path("figures/pareto.svg"), Path("figures/pareto.csv")), trouble=None)
    """

    files: tuple[Path, ...]
    trouble: str | None
    """Reason why there are no SVG and PDF files, and the fix; None if there are."""


def export_figures(figures: Mapping[str, go.Figure], out: Path) -> Exported:
    """Write NAME.svg, NAME.pdf and NAME.csv of every figure into `out`, always on a white background."""
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, figure in figures.items():
        path = out / f"{name}.csv"
        atomic_write_text(path, figure_data(figure))
        files.append(path)
    if not figures:
        return Exported((), None)
    targets = [out / f"{name}.{kind}" for name in figures for kind in FORMATS]
    printed = [for_print(figure) for figure in figures.values() for _ in FORMATS]
    trouble = _write_images(printed, targets)
    return Exported((*files, *(targets if trouble is None else ())), trouble)


def figure_data(figure: go.Figure) -> str:
    """CSV, a line per point: trace (its name or number), x, y, and z, error bars, lows and highs where it has them.

    Heatmaps have a line per cell. Decoration (shapes, annotations) is not data.
    """
    rows: list[dict[str, Any]] = []
    for number, trace in enumerate(figure.to_dict()["data"]):
        if trace.get("meta") == DECORATION:
            continue
        name = trace.get("name") or number
        rows.extend(
            {"trace": name, "kind": trace.get("type", "scatter"), **point} for point in _points(trace)
        )
    columns = ["trace", "kind", *dict.fromkeys(key for row in rows for key in list(row)[2:])]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def for_print(figure: go.Figure) -> go.Figure:
    """A copy in black on white; where several lines have names, with a legend, which the page has beside it."""
    printed = go.Figure(figure)
    printed.update_layout(
        paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", font={"color": "#1d2229"}, width=WIDTH
    )
    if "height" not in figure.to_dict()["layout"]:
        printed.update_layout(height=HEIGHT)
    named: set[str] = set()
    for trace in figure.to_dict()["data"]:
        is_line = trace.get("meta") != DECORATION and "fill" not in trace and "lines" in trace.get("mode", "")
        named |= {trace["name"]} if is_line and trace.get("name") else set()
    if len(named) > 1 and not figure.to_dict()["layout"].get("showlegend"):
        _with_legend(printed, named)
    return printed


def _with_legend(figure: go.Figure, names: set[str]) -> None:
    """An entry for each name, at the first line that has it."""
    left = set(names)
    for trace in cast(Iterable[Any], figure.data):
        is_first = trace.name in left and trace.meta != DECORATION and not getattr(trace, "fill", None)
        trace.update(showlegend=is_first)
        left -= {trace.name} if is_first else set()
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    figure.update_layout(margin={"t": 44})


def _points(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    if trace.get("type") in ("heatmap", "contour"):
        x, y, z = _values(trace.get("x")), _values(trace.get("y")), _values(trace.get("z"))
        return [
            {"x": _at(x, column), "y": _at(y, row), "z": value}
            for row, values in enumerate(z)
            for column, value in enumerate(values)
        ]
    columns = {key: _values(trace.get(key)) for key in ("x", "y", "z", "text")}
    for axis in ("x", "y"):
        error = trace.get(f"error_{axis}") or {}
        columns[f"{axis}_above"] = _values(error.get("array"))
        columns[f"{axis}_below"] = _values(error.get("arrayminus"))
    columns = {key: values for key, values in columns.items() if values}
    length = max((len(values) for values in columns.values()), default=0)
    return [{key: _at(values, index) for key, values in columns.items()} for index in range(length)]


def _values(found: Any) -> list[Any]:
    """Values as a list; plotly keeps numpy's arrays as bytes with a type and a shape."""
    if found is None or isinstance(found, str):
        return []
    if isinstance(found, dict):
        values = np.frombuffer(base64.b64decode(found["bdata"]), np.dtype(found["dtype"]))
        shape = found.get("shape")
        return (values.reshape([int(size) for size in shape.split(",")]) if shape else values).tolist()
    return list(found)


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else ""


def _write_images(figures: Sequence[go.Figure], targets: Sequence[Path]) -> str | None:
    """Write the images; returns the reason if it failed, else None."""
    try:
        import kaleido  # noqa: F401  (plotly's own message about it names another way to install it)
    except ImportError:
        return f"no SVG and PDF files: the package kaleido is missing; {install('research')}, and {INSTALL}"
    import plotly.io

    try:
        plotly.io.write_images(fig=list(figures), file=[str(target) for target in targets])
    except (RuntimeError, OSError) as error:
        return f"no SVG and PDF files: {str(error).strip().splitlines()[0]}; {INSTALL}"
    return None
