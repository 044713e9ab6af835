"""Pictures of a sweep, each a go.Figure without a title, from results.json alone.

A setting has one colour everywhere, from blue to ochre as its weight grows; the baseline is grey and dashed. Titles
and captions belong to the page. Called by report.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from polyray.report.figures import DECORATION, empty_figure, plain
from polyray.report.sweep.values import metric_key, metric_words

MAX_SETTINGS = 12
"""Settings above which curves have a colour bar in place of names, and no bands."""
BASELINE_COLOUR = "rgb(122, 127, 135)"
SCALE = [
    [0.0, "rgb(0, 114, 178)"],
    [0.25, "rgb(142, 107, 191)"],
    [0.5, "rgb(194, 56, 122)"],
    [0.75, "rgb(213, 94, 0)"],
    [1.0, "rgb(168, 134, 0)"],
]
"""Hues, not lightness: everywhere on it the contrast is at least 3 to 1 on white and on the dark page."""
LOG_RATIO = 50.0
"""Values that span more than this are drawn on a logarithmic axis."""


def setting_colours(results: Mapping[str, Any]) -> dict[str, str]:
    """label -> colour, by the rank of the swept value."""
    ranks = sorted({entry["value"] for entry in results["settings"]} - {results["baseline"]})
    places = {value: rank / max(1, len(ranks) - 1) for rank, value in enumerate(ranks)}
    return {
        entry["setting"]: BASELINE_COLOUR
        if entry["value"] == results["baseline"]
        else str(sample_colorscale(SCALE, [places[entry["value"]]])[0])
        for entry in results["settings"]
    }


def curve_figure(results: Mapping[str, Any], metric: str) -> go.Figure:
    """`metric` over k, a line per setting; bands are intervals over seeds and prompts."""
    figure = empty_figure("k, candidates shown", height=340)
    colours = setting_colours(results)
    is_many = len(results["settings"]) > MAX_SETTINGS
    for entry in results["settings"]:
        curve, colour = entry["curves"][metric], colours[entry["setting"]]
        ks = [int(k) for k in curve]
        if not is_many:
            low, high = ([point[end] for point in curve.values()] for end in ("low", "high"))
            figure.add_scatter(
                x=[*ks, *reversed(ks)],
                y=[*high, *reversed(low)],
                name=plain(entry["setting"]),
                fill="toself",
                fillcolor=_faint(colour),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
            )
        figure.add_scatter(
            x=ks,
            y=[point["value"] for point in curve.values()],
            name=plain(entry["setting"]),
            mode="lines" if is_many else "lines+markers",
            line={
                "color": colour,
                "width": 1.4 if is_many else 2.6,
                "dash": "dash" if entry["value"] == results["baseline"] else "solid",
            },
            hovertemplate=f"%{{y:.3f}}<extra>{plain(entry['setting'])}</extra>",
        )
    figure.update_xaxes(type="log", tickvals=results["ks"], ticktext=[str(k) for k in results["ks"]])
    if is_many:
        _add_colour_bar(figure, results)
    else:
        figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    return figure


def frontier_figure(results: Mapping[str, Any]) -> go.Figure:
    """Diversity over quality: large points are means over seeds with intervals, small ones single seeds."""
    quality, diversity = (metric_words(metric_key(results[name])) for name in ("quality", "diversity"))
    figure = empty_figure(plain(quality), height=420)
    colours = setting_colours(results)
    front = [entry for entry in results["settings"] if entry["setting"] in results["pareto"]["front"]]
    points = sorted((entry["quality"]["value"], entry["diversity"]["value"]) for entry in front)
    figure.add_scatter(
        x=[point[0] for point in points],
        y=[point[1] for point in points],
        mode="lines",
        line={"shape": "vh", "color": "#7a7f87", "width": 1.6, "dash": "dot"},
        hoverinfo="skip",
        meta=DECORATION,
    )
    for entry in results["settings"]:
        colour = colours[entry["setting"]]
        if len(entry["per_seed"]) > 1:
            figure.add_scatter(
                x=[row["quality"] for row in entry["per_seed"]],
                y=[row["diversity"] for row in entry["per_seed"]],
                name=f"{plain(entry['setting'])}, single seeds",
                mode="markers",
                marker={"color": colour, "size": 6, "opacity": 0.45},
                hovertext=[f"{plain(entry['setting'])}, seed {row['seed']}" for row in entry["per_seed"]],
                hoverinfo="x+y+text",
            )
        figure.add_scatter(
            x=[entry["quality"]["value"]],
            y=[entry["diversity"]["value"]],
            name=plain(entry["setting"]),
            error_x=_error_bar(entry["quality"], colour),
            error_y=_error_bar(entry["diversity"], colour),
            mode="markers+text",
            text=[plain(entry["setting"])] if len(results["settings"]) <= MAX_SETTINGS else None,
            textposition="top left",
            marker={"color": colour, "size": 12, "symbol": "diamond" if entry in front else "circle"},
            hovertemplate=f"%{{x:.3f}}, %{{y:.3f}}<extra>{plain(entry['setting'])}</extra>",
        )
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(title={"text": plain(diversity)}, automargin=True)
    return figure


def criterion_figure(results: Mapping[str, Any]) -> go.Figure:
    """The criterion by value with intervals; shaded: the range near the best, dotted: the margin below it."""
    recommendation = results["recommendation"]
    figure = _by_value(results, {entry["setting"]: entry["criterion"] for entry in results["settings"]})
    figure.update_yaxes(
        title={"text": plain(metric_words(metric_key(results["criterion"])))}, automargin=True
    )
    figure.add_hline(
        y=recommendation["best"]["mean"] - recommendation["margin"], line={"dash": "dot", "color": "#7a7f87"}
    )
    positions, _ = _positions(results)
    low, high = (positions[recommendation["range"][end]] for end in ("low", "high"))
    wide = 0.0 if _is_numeric(results) else 0.35
    figure.add_vrect(x0=low - wide, x1=high + wide, fillcolor="#009e73", opacity=0.12, line_width=0)
    return figure


def share_figure(results: Mapping[str, Any]) -> go.Figure | None:
    """Share of the advantages' variance that diversity has, by value; None where no run logged it."""
    entries = {
        entry["setting"]: {"value": entry["advantage_share_diversity"]["mean"]}
        for entry in results["settings"]
        if entry["advantage_share_diversity"]["mean"] is not None
    }
    if not entries:
        return None
    figure = _by_value(results, entries, "advantage_share_diversity")
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    return figure


def _by_value(
    results: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]], per_seed: str = "criterion"
) -> go.Figure:
    """Means, intervals where there are some, and single seeds, over the swept value; a line per block."""
    figure = empty_figure(plain(results["symbol"]), height=340)
    positions, ticks = _positions(results)
    colours = setting_colours(results)
    shown = [entry for entry in results["settings"] if entry["setting"] in entries]
    for block in dict.fromkeys(entry["block"] for entry in shown):
        own = [entry for entry in shown if entry["block"] == block]
        figure.add_scatter(
            x=[positions[entry["value"]] for entry in own],
            y=[entries[entry["setting"]]["value"] for entry in own],
            mode="lines",
            line={"color": "#8a929c", "width": 1.5},
            hoverinfo="skip",
            meta=DECORATION,
        )
    for entry in shown:
        seeds = (
            entry["advantage_share_diversity"]["per_seed"]
            if per_seed != "criterion"
            else [row["criterion"] for row in entry["per_seed"]]
        )
        point, colour = entries[entry["setting"]], colours[entry["setting"]]
        known = [value for value in seeds if value is not None]
        figure.add_scatter(
            x=[positions[entry["value"]]] * len(known),
            y=known,
            name=f"{plain(entry['setting'])}, single seeds",
            mode="markers",
            marker={"color": colour, "size": 6, "opacity": 0.45},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[positions[entry["value"]]],
            y=[point["value"]],
            name=plain(entry["setting"]),
            error_y=_error_bar(point, colour) if "low" in point else None,
            mode="markers",
            marker={"color": colour, "size": 11},
            hovertemplate=f"%{{y:.3f}}<extra>{plain(entry['setting'])}</extra>",
        )
    figure.update_layout(hovermode="closest")
    return figure.update_xaxes(**ticks)


def _positions(results: Mapping[str, Any]) -> tuple[dict[float, float], dict[str, Any]]:
    """Position of each value on the axis, and the axis' settings: few values are spaced evenly."""
    values = sorted({entry["value"] for entry in results["settings"]})
    if not _is_numeric(results):
        ticks = {"tickvals": list(range(len(values))), "ticktext": [f"{value:g}" for value in values]}
        return {value: float(place) for place, value in enumerate(values)}, ticks
    is_log = values[0] > 0 and values[-1] / values[0] > LOG_RATIO
    return {value: value for value in values}, {"type": "log"} if is_log else {}


def _is_numeric(results: Mapping[str, Any]) -> bool:
    return len({entry["value"] for entry in results["settings"]}) > MAX_SETTINGS


def _add_colour_bar(figure: go.Figure, results: Mapping[str, Any]) -> None:
    """The colours go by rank, so the bar's ticks name the values at its ends and in its middle."""
    values = sorted({entry["value"] for entry in results["settings"]} - {results["baseline"]})
    places = sorted({0, len(values) // 2, len(values) - 1})
    figure.add_scatter(
        x=[None],
        y=[None],
        meta=DECORATION,
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [0],
            "cmin": 0,
            "cmax": max(1, len(values) - 1),
            "colorscale": SCALE,
            "showscale": True,
            "colorbar": {
                "title": {"text": plain(results["symbol"])},
                "thickness": 12,
                "tickvals": places,
                "ticktext": [f"{values[place]:.3g}" for place in places],
            },
        },
    )


def _error_bar(entry: Mapping[str, Any], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [entry["high"] - entry["value"]],
        "arrayminus": [entry["value"] - entry["low"]],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _faint(colour: str) -> str:
    return colour.replace("rgb(", "rgba(").replace(")", ", 0.14)")
