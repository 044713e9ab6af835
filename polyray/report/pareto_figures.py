"""The plane of quality and diversity: every point by its name, the front as a line, its band behind it.

Called by report_figures.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from polyray.report.arms import Arm
from polyray.report.figures import DECORATION, empty_figure, plain
from polyray.report.numbers import Interval, percent
from polyray.report.pareto import Front, Point

FRONT_COLOUR = "#7a7f87"
MAX_NAMES = 12
"""Largest number of names in the figure; more would overlap and are in the hover text and the table."""


def front_figure(front: Front, arms: Sequence[Arm], *, paths: bool = False) -> go.Figure:
    """Diversity over quality; `paths` joins the points of an arm in their order, as its checkpoints have one."""
    figure = empty_figure(plain(front.quality), height=420)
    looks = {arm.label: arm for arm in arms}
    if front.band:
        figure.add_scatter(
            x=[*(x for x, _, _ in front.band), *(x for x, _, _ in reversed(front.band))],
            y=[*(high for _, _, high in front.band), *(low for _, low, _ in reversed(front.band))],
            name="the front",
            fill="toself",
            fillcolor="rgba(122,127,135,0.18)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    corners = sorted((point.quality.value, point.diversity.value) for point in front.points if point.on_front)
    figure.add_scatter(
        x=[x for x, _ in corners],
        y=[y for _, y in corners],
        mode="lines",
        line={"shape": "vh", "color": FRONT_COLOUR, "width": 1.6, "dash": "dot"},
        hoverinfo="skip",
        meta=DECORATION,
    )
    for label in dict.fromkeys(point.arm for point in front.points):
        own = [point for point in front.points if point.arm == label]
        figure.add_trace(_points(own, label, looks, paths, len(front.points) <= MAX_NAMES))
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(title={"text": plain(front.diversity)}, automargin=True)
    return figure


def _points(
    own: Sequence[Point], label: str, looks: Mapping[str, Arm], paths: bool, named: bool
) -> go.Scatter:
    arm = looks.get(label, Arm(label, label))
    return go.Scatter(
        x=[point.quality.value for point in own],
        y=[point.diversity.value for point in own],
        name=plain(label),
        mode=("lines+" if paths else "") + "markers" + ("+text" if named else ""),
        text=[plain(point.name) for point in own],
        textposition="top center",
        line={"color": arm.colour, "width": 1.2},
        marker={
            "color": arm.colour,
            "symbol": ["diamond" if point.on_front else "circle-open" for point in own],
            "size": [12 if point.on_front else 8 for point in own],
        },
        error_x=_errors([point.quality for point in own], arm.colour),
        error_y=_errors([point.diversity for point in own], arm.colour),
        hovertext=[_hover(point) for point in own],
        hoverinfo="text",
    )


def _errors(intervals: Sequence[Interval], colour: str) -> dict[str, Any] | None:
    if all(interval.low == interval.high for interval in intervals):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval.high - interval.value for interval in intervals],
        "arrayminus": [interval.value - interval.low for interval in intervals],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _hover(point: Point) -> str:
    text = f"{plain(point.name)}: {point.quality.value:.3f}, {point.diversity.value:.3f}"
    if point.front_share is not None:
        text += f"; on the front in {percent(point.front_share)} of resamples"
    return text
