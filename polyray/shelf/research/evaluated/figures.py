"""Pictures of finished evaluations, each a go.Figure without a title, in the style of the report's.

Titles and captions are in drawings.py. Nothing here reads files. Called by drawings.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from polyray.report.arms import DASHES, PALETTE, SYMBOLS, Arm, collect_arms
from polyray.report.figures import band, empty_figure, line, plain
from polyray.report.headline import metric_label
from polyray.report.numbers import is_number
from polyray.report.run_data import ReportData
from polyray.shelf.research.evaluated.collapse import collapse_point, der
from polyray.shelf.research.evaluated.inputs import EvaluatedRun

ZERO_LINE = {"color": "#8a929c", "width": 1, "dash": "dot"}
ROW_PX = 26
BESIDE = 0.12
"""Distance between models within a bin."""
DOMAINS_PER_ROW = 3
ALPHA = 0.05
Bounds = tuple[float, float | None, float | None]


def model_arms(runs: Sequence[EvaluatedRun]) -> dict[str, Arm]:
    """model -> its colour and symbol, those of the report; models that share an adapter get one each."""
    arms = {arm.label: arm for arm in collect_arms(ReportData([], [run.evaluation for run in runs]))}
    for model in (model for run in runs for model in run.models):
        if model not in arms:
            number = len(arms)
            colour, dash, symbol = (kind[number % len(kind)] for kind in (PALETTE, DASHES, SYMBOLS))
            arms[model] = Arm(model, model, colour, dash, symbol)
    return arms


def theory_figure(theory: Mapping[str, Any], arms: Mapping[str, Arm]) -> go.Figure:
    """pass@k over k: predictions as lines with bands, measurements as points with error bars."""
    figure = empty_figure("k, candidates shown", height=340)
    ks = list(range(1, theory["n_samples"] + 1))
    for name, model in theory["models"].items():
        points, arm = model["curve"], arms[name]
        if all(point["predicted_low"] is not None for point in points):
            low, high = ([point[end] for point in points] for end in ("predicted_low", "predicted_high"))
            figure.add_trace(band(ks, low, high, arm))
        if model["fit_half"] is not None:
            trace = line(ks, [point["predicted"] for point in points], arm, width=2.2)
            text = f"predicted %{{y:.3f}}<extra>{plain(name)}</extra>"
            figure.add_trace(trace.update(hoverinfo=None, hovertemplate=text))
        figure.add_scatter(
            x=ks,
            y=[point["measured"] for point in points],
            mode="markers",
            marker={"color": arm.colour, "symbol": arm.symbol, "size": 7},
            error_y=_error_bar([(p["measured"], p["low"], p["high"]) for p in points], arm.colour),
            hovertemplate=f"measured %{{y:.3f}}<extra>{plain(name)}</extra>",
        )
    return figure.update_xaxes(**_log_ticks(ks))


def condition_figure(condition: Mapping[str, Any], gain: str, arms: Mapping[str, Arm]) -> go.Figure:
    """`gain` of every model by bin, with intervals where a bin has one."""
    figure = empty_figure(plain(condition["label"]), height=320)
    shown = list(condition["models"].items())
    for number, (name, bins) in enumerate(shown):
        arm = arms[name]
        entries = [each["gains"][gain] for each in bins]
        beside = (number - (len(shown) - 1) / 2) * BESIDE
        figure.add_scatter(
            x=[place + beside for place in range(len(bins))],
            y=[entry["value"] for entry in entries],
            mode="lines+markers",
            line={"color": arm.colour, "width": 1.4, "dash": arm.dash},
            marker={"color": arm.colour, "symbol": arm.symbol, "size": 9},
            error_y=_error_bar([(e["value"], e["low"], e["high"]) for e in entries], arm.colour),
            text=[
                f"{e['says']}, {each['n_problems']} prompts" for e, each in zip(entries, bins, strict=True)
            ],
            hovertemplate=f"%{{y:+.3f}}, %{{text}}<extra>{plain(name)}</extra>",
        )
    bins = shown[0][1] if shown else []
    labels = [bin_label(each) for each in bins]
    figure.update_xaxes(tickvals=list(range(len(bins))), ticktext=labels, automargin=True)
    figure.add_hline(y=0, line=ZERO_LINE)
    return figure.update_layout(hovermode="closest")


def bin_label(entry: Mapping[str, Any]) -> str:
    """0.25 to 0.5; one number where all are the same."""
    low, high = f"{entry['from']:.3g}", f"{entry['to']:.3g}"
    return low if low == high else f"{low} to {high}"


def forest_figure(tested: Sequence[Mapping[str, Any]], arms: Mapping[str, Arm]) -> go.Figure:
    """A row per test: the difference with its interval; filled where it is significant after correction."""
    figure = empty_figure("difference", height=110 + ROW_PX * len(tested))
    for name in dict.fromkeys(str(entry["model"]) for entry in tested):
        own, colour = [entry for entry in tested if entry["model"] == name], arms[name].colour
        figure.add_scatter(
            x=[entry["difference"] for entry in own],
            y=[_row(entry) for entry in own],
            mode="markers",
            marker={
                "color": [colour if is_significant(entry) else "rgba(0,0,0,0)" for entry in own],
                "size": 10,
                "line": {"color": colour, "width": 2},
            },
            error_x=_error_bar([(e["difference"], e["low"], e["high"]) for e in own], colour),
            text=[f"adjusted p {entry['p_adjusted']:.4f}" for entry in own],
            hovertemplate="%{x:+.3f}, %{text}<extra>%{y}</extra>",
        )
    figure.add_vline(x=0, line=ZERO_LINE)
    figure.update_xaxes(showgrid=True)
    rows = [_row(entry) for entry in tested]
    figure.update_yaxes(autorange="reversed", automargin=True, type="category", categoryarray=rows, dtick=1)
    return figure.update_layout(hovermode="closest")


def is_significant(entry: Mapping[str, Any]) -> bool:
    """Whether it is significant after the correction that metrics.json names."""
    return is_number(entry.get("p_adjusted")) and entry["p_adjusted"] < ALPHA


def _row(entry: Mapping[str, Any]) -> str:
    name, _, selector = str(entry["metric"]).partition("/")
    metric = metric_label(name, int(entry["k"])) + (f" ({selector})" if selector else "")
    return plain(f"{entry['model']}: {metric}")


def collapse_figure(run: EvaluatedRun, arms: Mapping[str, Arm]) -> go.Figure:
    """DER over k, dotted its null; a vertical line where another sample adds less than .01 from there on."""
    figure = empty_figure("k, candidates shown", height=320)
    ticks = set(run.ks)
    for model in run.models:
        arm = arms[model]
        ratio, null = (der(run, model, suffix) for suffix in ("", "_null"))
        trace = line(list(ratio), list(ratio.values()), arm, width=2.6)
        trace.update(mode="lines+markers", marker={"symbol": arm.symbol, "size": 8, "color": arm.colour})
        text = f"%{{y:.3f}}<extra>{plain(model)}</extra>"
        figure.add_trace(trace.update(hoverinfo=None, hovertemplate=text))
        figure.add_trace(line(list(null), list(null.values()), arm, width=1.2).update(line={"dash": "dot"}))
        collapse = collapse_point(run, model)
        if collapse is not None:
            ticks.add(collapse)
            figure.add_trace(line([collapse] * 2, [0, 1], arm, width=1.2).update(line={"dash": "dash"}))
    return figure.update_xaxes(**_log_ticks(sorted(ticks)))


def domains_figure(curves: Sequence[Mapping[str, Any]], arms: Mapping[str, Arm]) -> go.Figure:
    """A panel per domain: pass@k over k for every model, with intervals."""
    names = list(dict.fromkeys(curve["domain"] for curve in curves))
    columns = min(DOMAINS_PER_ROW, len(names))
    rows = -(-len(names) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[plain(name) for name in names], shared_yaxes=True)
    style = empty_figure("k, candidates shown", height=60 + 260 * rows)
    look: dict[str, Any] = {name: style.layout[name] for name in ("height", "font", "margin", "hoverlabel")}
    figure.update_layout(look)
    figure.update_layout(
        template="none", showlegend=False, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)"
    )
    figure.update_layout(margin={"t": 30})
    axes = {name: style.layout[name].to_plotly_json() for name in ("xaxis", "yaxis")}
    figure.update_xaxes(**axes["xaxis"]).update_yaxes(**axes["yaxis"])
    for curve in curves:
        place = names.index(curve["domain"])
        at: dict[str, Any] = {"row": place // columns + 1, "col": place % columns + 1}
        arm, ks = arms[curve["model"]], curve["ks"]
        figure.add_trace(band(ks, curve["low"], curve["high"], arm), **at)
        trace = line(ks, curve["value"], arm, width=2.6)
        trace.update(mode="lines+markers", marker={"symbol": arm.symbol, "size": 7, "color": arm.colour})
        text = f"%{{y:.3f}}<extra>{plain(curve['model'])}</extra>"
        figure.add_trace(trace.update(hoverinfo=None, hovertemplate=text), **at)
        figure.update_xaxes(**_log_ticks(ks), **at)
    return figure


def _log_ticks(ks: Sequence[int]) -> dict[str, Any]:
    """Every k of a short list, powers of two of a long one."""
    shown = [k for k in ks if len(ks) <= 8 or k & (k - 1) == 0]
    return {"type": "log", "tickvals": shown, "ticktext": [str(k) for k in shown]}


def _error_bar(points: Sequence[Bounds], colour: str) -> dict[str, Any]:
    """Error bars of (value, low, high); without width if there is no interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if high is None else high - value for value, _, high in points],
        "arrayminus": [0.0 if low is None else value - low for value, low, _ in points],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }
