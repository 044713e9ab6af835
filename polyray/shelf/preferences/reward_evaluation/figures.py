"""Plotly figures of a reward validation: go.Figure without titles, which belong to the page. Reads no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from polyray.shelf.preferences.reward_evaluation.held_out import Texts
from polyray.shelf.preferences.reward_evaluation.scorers import text_lengths

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8e6bbf", "#e0a30b", "#56b4e9")
BASELINE_COLOUR = "#8a929c"
POINTS_SHOWN = 1500
ROW_HEIGHT = 26


def colours(models: Sequence[str]) -> dict[str, str]:
    """Model -> colour, the same in every figure."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(models)}


def accuracy_figure(metrics: Mapping[str, Any], palette: Mapping[str, str]) -> go.Figure:
    """Pairwise accuracy of every scorer with its interval; the line is a coin."""
    names = list(metrics["models"])
    figure = _empty("share of pairs in which the better one scores higher", 90 + 34 * len(names))
    for name in names:
        entry = metrics["models"][name]["pairwise_accuracy"]["value"]
        figure.add_trace(_dot([entry], [_plain(name)], palette.get(name, BASELINE_COLOUR), name))
    figure.add_vline(x=0.5, line={"color": "#c9ccd1", "dash": "dot"})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(margin={"l": 130, "r": 16, "t": 10, "b": 44})
    return figure


def reliability_figure(metrics: Mapping[str, Any], palette: Mapping[str, str]) -> go.Figure:
    """Stated against observed probability that the predicted winner wins, in bins of equal mass."""
    figure = _empty("stated probability of the predicted winner", 380)
    figure.add_trace(
        go.Scatter(
            x=[0.5, 1], y=[0.5, 1], mode="lines", line={"color": "#c9ccd1", "dash": "dot"}, hoverinfo="skip"
        )
    )
    for name, colour in palette.items():
        bins = metrics["calibration"].get(name, {}).get("bins", [])
        figure.add_trace(
            go.Scatter(
                x=[part["confidence"] for part in bins],
                y=[part["accuracy"] for part in bins],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [part["high"] - part["accuracy"] for part in bins],
                    "arrayminus": [part["accuracy"] - part["low"] for part in bins],
                    "thickness": 1.2,
                    "width": 0,
                },
                customdata=[part["num_pairs"] for part in bins],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 7},
                hovertemplate="said %{x:.2f}, was %{y:.2f}, %{customdata} pairs<extra>"
                + _plain(name)
                + "</extra>",
            )
        )
    figure.update_yaxes(title={"text": "how often it won", "standoff": 6})
    figure.update_layout(hovermode="closest", margin={"l": 64, "r": 16, "t": 10, "b": 44})
    return figure


def slice_figure(rows: Sequence[Mapping[str, Any]], palette: Mapping[str, str]) -> go.Figure:
    """Accuracy with interval for every slice, models only."""
    labels = list(dict.fromkeys(_slice_label(row) for row in rows))
    figure = _empty("pairwise accuracy", 90 + ROW_HEIGHT * len(labels))
    for name, colour in palette.items():
        chosen = [row for row in rows if row["scorer"] == name]
        figure.add_trace(_dot(chosen, [_slice_label(row) for row in chosen], colour, name))
    figure.add_vline(x=0.5, line={"color": "#c9ccd1", "dash": "dot"})
    figure.update_yaxes(autorange="reversed", showgrid=False, nticks=len(labels), automargin=True)
    figure.update_layout(margin={"l": 300, "r": 16, "t": 10, "b": 44})
    return figure


def probe_figure(probes: Mapping[str, Mapping[str, Any]], palette: Mapping[str, str]) -> go.Figure:
    """Share of altered texts that score higher than before; the tick is the limit."""
    tested = {
        model: {name: probe for name, probe in found.items() if probe["n"]} for model, found in probes.items()
    }
    names = list(dict.fromkeys(name for found in tested.values() for name in found))
    figure = _empty("share of altered texts that score higher than the original", 90 + 30 * len(names))
    for model, colour in palette.items():
        found = tested.get(model, {})
        figure.add_trace(
            _dot(list(found.values()), [name.replace("_", " ") for name in found], colour, model)
        )
    limits = {name: probe["max_share"] for found in tested.values() for name, probe in found.items()}
    figure.add_trace(
        go.Scatter(
            x=list(limits.values()),
            y=[name.replace("_", " ") for name in limits],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 14, "color": "#a3262a"},
            hovertemplate="limit %{x:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(margin={"l": 170, "r": 16, "t": 10, "b": 44})
    return figure


def length_figure(scores: Mapping[str, np.ndarray], texts: Texts, palette: Mapping[str, str]) -> go.Figure:
    """Score against length of the completion: a thin cloud is a score that is length. Each model in its own units
    of standard deviation."""
    figure = _empty("characters of the completion", 340)
    chosen = np.linspace(0, len(texts) - 1, min(len(texts), POINTS_SHOWN)).astype(int)
    lengths = np.maximum(text_lengths(texts.completions)[chosen], 1)
    for name, values in scores.items():
        spread = values.std() or 1.0
        figure.add_trace(
            go.Scattergl(
                x=lengths,
                y=np.round((values[chosen] - values.mean()) / spread, 3),
                mode="markers",
                marker={"size": 4, "opacity": 0.35, "color": palette[name]},
                hovertemplate="%{x} characters, %{y:.2f} sd<extra>" + _plain(name) + "</extra>",
            )
        )
    figure.update_xaxes(type="log")
    figure.update_yaxes(title={"text": "score, standard deviations", "standoff": 6})
    figure.update_layout(hovermode="closest", margin={"l": 64, "r": 16, "t": 10, "b": 44})
    return figure


def _slice_label(row: Mapping[str, Any]) -> str:
    return _plain(f"{row['property']}: {row['slice']} (n = {row['n_pairs']:,})")


def _dot(entries: Sequence[Mapping[str, Any]], labels: Sequence[str], colour: str, name: str) -> go.Scatter:
    return go.Scatter(
        x=[entry["value"] for entry in entries],
        y=list(labels),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [entry["high"] - entry["value"] for entry in entries],
            "arrayminus": [entry["value"] - entry["low"] for entry in entries],
            "thickness": 1.4,
            "width": 0,
        },
        mode="markers",
        marker={"size": 8, "color": colour},
        hovertemplate="%{y}: %{x:.3f}<extra>" + _plain(name) + "</extra>",
    )


def _empty(x_title: str, height: int) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        showlegend=False,
        hovermode="closest",
        font={"family": FONT, "size": 12, "color": "#3d434b"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#d8dce1", "font": {"family": FONT, "size": 12}},
    )
    line = {"gridcolor": "#e9ebee", "zeroline": False, "linecolor": "#c9ccd1", "ticks": ""}
    figure.update_xaxes(title={"text": x_title, "standoff": 8}, showgrid=True, showline=True, **line)
    figure.update_yaxes(showgrid=True, **line)
    return figure


def _plain(text: str) -> str:
    """Plotly reads a subset of HTML in its texts: names are shown as they are written."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
