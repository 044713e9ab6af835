"""The method in one picture: what a step passes through, and where the set comes in."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from polyray.report.figures import FONT

INK = "#1d2229"
FILL = {"engine": "#e5effa", "reward": "#fff3cd", "set": "#e0f3ec", "learner": "#efe8f8", "person": "#f0f1f4"}
HALF_WIDTH, HALF_HEIGHT = 0.92, 0.4


@dataclass(frozen=True, slots=True)
class Box:
    """A station of a step.

    Example:
        Box("score", "Reward", "Ray Serve: quality of each", 6.2, 2.0, "reward")
    """

    key: str
    title: str
    text: str
    x: float
    y: float
    kind: str


BOXES = (
    Box("prompt", "Prompt", "", 0.0, 2.0, "person"),
    Box("sample", "Rollout workers", "vLLM: n candidates", 3.1, 2.0, "engine"),
    Box("score", "Reward model", "Ray Serve: quality r, class, distance", 6.2, 2.0, "reward"),
    Box("sets", "All sets of k", "quality + λ · diversity of each set", 6.2, 0.6, "set"),
    Box("credit", "Credits", "exact share of every candidate", 3.1, 0.6, "set"),
    Box("learn", "Learner", "Ray Train: LoRA update", 0.0, 0.6, "learner"),
    Box("person", "A person picks one of k", "Pass@k, USQ@k", 3.1, 3.2, "person"),
)
ARROWS = (
    ("prompt", "sample", ""),
    ("sample", "score", "group"),
    ("score", "sets", ""),
    ("sets", "credit", ""),
    ("credit", "learn", "advantages"),
    ("learn", "sample", "new policy, proven"),
    ("sample", "person", "evaluation"),
)


def overview_figure() -> go.Figure:
    """Boxes and arrows; what they say is the figure's data, too."""
    places = {box.key: box for box in BOXES}
    figure = go.Figure(
        go.Scatter(
            x=[box.x for box in BOXES],
            y=[box.y for box in BOXES],
            text=[f"<b>{box.title}</b>" + (f"<br>{box.text}" if box.text else "") for box in BOXES],
            mode="text",
            textfont={"family": FONT, "size": 12, "color": INK},
            hoverinfo="skip",
        )
    )
    for box in BOXES:
        figure.add_shape(
            type="rect",
            x0=box.x - HALF_WIDTH - 0.25,
            x1=box.x + HALF_WIDTH + 0.25,
            y0=box.y - HALF_HEIGHT,
            y1=box.y + HALF_HEIGHT,
            fillcolor=FILL[box.kind],
            line={"color": INK, "width": 1},
            layer="below",
        )
    for start, end, label in ARROWS:
        _arrow(figure, places[start], places[end], label)
    figure.update_xaxes(visible=False, range=[-1.3, 7.5])
    figure.update_yaxes(visible=False, range=[0, 3.8])
    figure.update_layout(
        template="none", width=960, height=420, margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False
    )
    return figure


def _arrow(figure: go.Figure, start: Box, end: Box, label: str) -> None:
    """From edge to edge, along the axis on which the two are further apart."""
    sideways = abs(end.x - start.x) > 0 and start.y == end.y
    step = HALF_WIDTH + 0.25 if sideways else HALF_HEIGHT
    sign = 1 if (end.x > start.x if sideways else end.y > start.y) else -1
    tail = (start.x + sign * step, start.y) if sideways else (start.x, start.y + sign * step)
    head = (end.x - sign * step, end.y) if sideways else (end.x, end.y - sign * step)
    figure.add_annotation(
        x=head[0],
        y=head[1],
        ax=tail[0],
        ay=tail[1],
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        showarrow=True,
        arrowhead=2,
        arrowwidth=1.4,
        arrowcolor=INK,
        text="",
    )
    if label:
        figure.add_annotation(
            x=(tail[0] + head[0]) / 2 + (0 if sideways else 0.12),
            y=(tail[1] + head[1]) / 2 + (0.14 if sideways else -0.12 if start.x != end.x else 0),
            text=label,
            showarrow=False,
            xanchor="center" if sideways else "left",
            font={"family": FONT, "size": 11, "color": "#5b636e"},
        )
