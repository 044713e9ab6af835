"""Pictures of where adapters work: layer by module. Each a go.Figure with its own title; from lora_results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from polyray.analysis.figures import FONT, plain

ROW_PX = 18
TOP_AND_BOTTOM_PX = 150
OUTSIDE = "outside layers"


def heatmap(entries: Sequence[Mapping[str, Any]], key: str, title: str, signed: bool = False) -> go.Figure:
    """One number of every module, layers from the first (below) to the last (above); what does not exist stays empty.

    `signed` puts 0 in the middle of a scale with two colours, which people who are colour-blind tell apart too.
    """
    layers = sorted({entry["layer"] for entry in entries})
    modules = list(dict.fromkeys(entry["module"] for entry in entries))
    values = {(entry["layer"], entry["module"]): entry[key] for entry in entries}
    grid = [[values.get((layer, module)) for module in modules] for layer in layers]
    largest = max((abs(value) for row in grid for value in row if value is not None), default=0.0)
    figure = go.Figure(
        go.Heatmap(
            x=[plain(_short(module, modules)) for module in modules],
            y=[OUTSIDE if layer < 0 else str(layer) for layer in layers],
            z=grid,
            colorscale="PuOr" if signed else "Cividis",
            zmin=-largest if signed else 0,
            zmax=largest,
            hoverongaps=False,
            hovertemplate="layer %{y}, %{x}: %{z:.4g}<extra></extra>",
        )
    )
    figure.update_layout(
        title={"text": plain(title), "font": {"size": 15}},
        font={"family": FONT, "size": 13},
        height=TOP_AND_BOTTOM_PX + ROW_PX * max(4, len(layers)),
        margin={"l": 60, "r": 20, "t": 50, "b": 90},
        yaxis={"type": "category", "title": "layer"},
        xaxis={"type": "category"},
        template="plotly_white",
    )
    return figure


def _short(module: str, modules: Sequence[str]) -> str:
    """'self_attn.q_proj' -> 'q_proj' where no other module ends so."""
    last = module.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in modules) == 1 else module
