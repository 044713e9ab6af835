"""Pictures of where adapters work, each a go.Figure without a title, from lora_results alone.

Titles and captions belong to the page. Called by page.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from polyray.report.arms import DASHES, PALETTE
from polyray.report.figures import empty_figure, plain

ROW_PX = 18
TOP_AND_BOTTOM_PX = 130
OUTSIDE = "outside layers"
SHOWN = 0.05
"""An adjusted p-value below this is marked with a star."""


def heatmap(
    entries: Sequence[Mapping[str, Any]], key: str, signed: bool = False, p_values: str | None = None
) -> go.Figure:
    """One number of every module, layers from the first (below) to the last (above); missing modules stay empty.

    `signed` puts 0 in the middle of a scale with two colours that are safe for colour-blind readers.
    `p_values` names a key: it is said of each module, and those below SHOWN have a star.
    """
    layers = sorted({entry["layer"] for entry in entries})
    modules = list(dict.fromkeys(entry["module"] for entry in entries))
    places = {(entry["layer"], entry["module"]): entry for entry in entries}
    grid = [[places.get((layer, module), {}).get(key) for module in modules] for layer in layers]
    figure = _cells(
        [plain(_short(module, modules)) for module in modules],
        [OUTSIDE if layer < 0 else str(layer) for layer in layers],
        grid,
        signed,
        "layer %{y}, %{x}: %{z:.4g}%{customdata}",
    )
    if p_values is not None:
        found = [[places.get((layer, module), {}).get(p_values) for module in modules] for layer in layers]
        figure.update_traces(
            customdata=[["" if p is None else f", p = {p:.3g}" for p in row] for row in found],
            text=[["*" if p is not None and p < SHOWN else "" for p in row] for row in found],
            texttemplate="%{text}",
        )
    figure.update_yaxes(title={"text": "layer"})
    return figure


def similarity_figure(pairs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> go.Figure:
    """Mean cosine over modules of every two adapters; an adapter and itself have 1."""
    labels = short_names(names)
    at = {name: place for place, name in enumerate(names)}
    grid: list[list[float | None]] = [[1.0 if i == j else None for j in at.values()] for i in at.values()]
    for pair in pairs:
        known = [row["cosine"] for row in pair["modules"] if row["cosine"] is not None]
        first, second = at[pair["first"]], at[pair["second"]]
        grid[first][second] = grid[second][first] = sum(known) / len(known) if known else None
    ticks = [plain(labels[name]) for name in names]
    return _cells(ticks, ticks, grid, True, "%{y} and %{x}: %{z:.3f}", largest=1.0)


def drift_figure(drift: Mapping[str, Any]) -> go.Figure:
    """Distance from the first checkpoint by module, over layers together (root of the sum of squares), and of all."""
    labels = short_names(drift["checkpoints"])
    ticks = [plain(labels[name]) for name in drift["checkpoints"]]
    modules = list(dict.fromkeys(entry["module"] for entry in drift["modules"]))
    figure = empty_figure("checkpoint", height=380)
    groups = {_short(name, modules): [e for e in drift["modules"] if e["module"] == name] for name in modules}
    for number, (name, entries) in enumerate([*groups.items(), ("all modules", drift["modules"])]):
        is_all = number == len(groups)
        figure.add_scatter(
            x=list(range(len(ticks))),
            y=[
                math.sqrt(sum(entry["from_first"][place] ** 2 for entry in entries))
                for place in range(len(ticks))
            ],
            name=plain(name),
            mode="lines+markers",
            line={
                "color": "#7a7f87" if is_all else PALETTE[number % len(PALETTE)],
                "width": 3 if is_all else 2,
                "dash": "solid" if is_all else DASHES[number % len(DASHES)],
            },
            hovertemplate=f"%{{y:.4g}}<extra>{plain(name)}</extra>",
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    figure.update_xaxes(tickvals=list(range(len(ticks))), ticktext=ticks)
    figure.update_yaxes(title={"text": "distance from the first"})
    return figure


def short_names(names: Sequence[str]) -> dict[str, str]:
    """name -> its last parts, as few as tell it from the others: runs/a/adapter and runs/b/adapter are a/adapter and
    b/adapter."""
    parts = {name: [part for part in name.split("/") if part] or [name] for name in names}
    longest = max((len(own) for own in parts.values()), default=1)
    for count in range(1, longest + 1):
        found = {name: "/".join(own[-count:]) for name, own in parts.items()}
        if len(set(found.values())) == len(found):
            return found
    return {name: name for name in names}


def _cells(
    x: Sequence[str],
    y: Sequence[str],
    grid: Sequence[Sequence[float | None]],
    signed: bool,
    hover: str,
    largest: float | None = None,
) -> go.Figure:
    if largest is None:
        largest = max((abs(value) for row in grid for value in row if value is not None), default=0.0)
    figure = empty_figure("", height=TOP_AND_BOTTOM_PX + ROW_PX * max(4, len(y)))
    figure.add_trace(
        go.Heatmap(
            x=list(x),
            y=list(y),
            z=[list(row) for row in grid],
            customdata=[["" for _ in row] for row in grid],
            colorscale="PuOr" if signed else "Cividis",
            zmin=-largest if signed else 0,
            zmax=largest,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate=f"{hover}<extra></extra>",
            colorbar={"thickness": 12},
        )
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(type="category", automargin=True)
    figure.update_yaxes(type="category", automargin=True, showgrid=False, nticks=0)
    return figure


def _short(module: str, modules: Sequence[str]) -> str:
    """'self_attn.q_proj' -> 'q_proj' where no other module ends so."""
    last = module.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in modules) == 1 else module
