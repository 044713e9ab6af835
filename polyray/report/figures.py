"""Plotly figures from metrics.jsonl rows and metrics.json, each a go.Figure without title or arm legend.

The page has one legend of arms for all of them (report.py), so colours and symbols mean the same everywhere.
Titles and captions belong to the page. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from polyray.report.arms import Arm
from polyray.report.numbers import is_number
from polyray.report.run_data import Evaluation, TrainingRun
from polyray.report.thinning import rounded, thinned

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
DECORATION = "decoration"
"""The `meta` of what repeats or joins other traces: it has no rows in the table of its figure."""
SMOOTHING_STEPS = 5
"""Training curves are drawn as running means over so many steps, with the raw values faint behind them."""

TIME_PARTS = (
    ("generate_s", "generate", "#0072b2"),
    ("score_s", "score", "#a88600"),
    ("learn_s", "learn", "#009e73"),
    ("deliver_s", "deliver and prove", "#8e6bbf"),
)
OTHER_COLOUR = "#8a929c"


@dataclass(frozen=True, slots=True)
class Panel:
    """One training curve: a key of metrics.jsonl, what it is called, what it tells.

    Example:
        Panel("entropy", "Entropy", "nats per token; at 0 there is one answer only")
    """

    key: str
    title: str
    caption: str
    log: bool = False
    smoothing: int = SMOOTHING_STEPS


MAIN_PANELS = (
    Panel("reward_mean", "Reward", "mean over the completions of a step"),
    Panel("pass_at_1", "pass@1 on training prompts", "each step asks other prompts, hence the noise"),
    Panel("pass_at_8", "pass@8 on training prompts", "chance that one of 8 candidates is correct"),
    Panel("distinct_classes", "Different correct answers", "distinct classes per group"),
    Panel("entropy", "Entropy", "nats per token; at 0 there is one answer only"),
    Panel(
        "mean_advantage_correct",
        "Advantage of correct samples",
        "below 0, correct answers are pushed down",
    ),
)
MISMATCH_PANELS = (
    Panel(
        "kl_rollout",
        "Mismatch of engine and learner",
        "KL between sampling and training log-probs, nats",
        log=True,
    ),
    Panel("ess", "Effective sample size", "1: importance weights change nothing"),
    Panel("monitor/mismatch", "Alarm: mismatch", "1: they have drifted apart, or are about to", smoothing=1),
    Panel("monitor/low_ess", "Alarm: low sample size", "1: it is too small, or falls", smoothing=1),
)
MORE_PANELS = (
    Panel(
        "reward/second_opinion", "Second opinion", "a reward that is not optimised; null where it is missing"
    ),
    Panel(
        "second_opinion_gap",
        "Reward ahead of second opinion",
        "standard deviations; above 0 the policy pleases its reward more than anyone else",
    ),
    Panel("second_opinion_correlation", "Agreement of the two", "correlation within groups"),
    Panel(
        "monitor/over_optimisation",
        "Alarm: over-optimisation",
        "1: the reward rose and the second opinion fell",
    ),
    Panel("diversity", "Diversity", "as the run's configuration defines it, 0 to 1"),
    Panel("gradient/all/cosine", "Quality and diversity", "cosine of their gradients; below 0 they disagree"),
    Panel("gradient/all/quality_norm", "Gradient of quality", "norm, measured at some steps"),
    Panel("gradient/all/diversity_norm", "Gradient of diversity", "norm, measured at some steps"),
    Panel("loss", "Loss", "has no meaning across objectives"),
    Panel("grad_norm", "Gradient norm", "before clipping"),
    Panel("kl_reference", "KL to the warm start", "nats per token"),
    Panel("zero_advantage_share", "Groups without signal", "share of groups whose advantages are all 0"),
    Panel("completion_length_mean", "Completion length", "tokens"),
    Panel("truncated_share", "Truncated", "share of completions cut at the limit"),
    Panel("staleness_mean", "Staleness", "versions between sampling and training"),
    Panel("lr", "Learning rate", ""),
)


def curve_figure(evaluations: Sequence[Evaluation], arms: Sequence[Arm], metric: str) -> go.Figure:
    """`metric` over k for every evaluated arm: bands are intervals; of several seeds each is a thin line."""
    figure = empty_figure("k, candidates shown", height=320)
    ks: list[int] = []
    for arm in (arm for arm in arms if arm.evaluated):
        of_arm = [evaluation for evaluation in evaluations if arm.label in evaluation.metrics["models"]]
        curves = [evaluation.metrics["models"][arm.label][metric] for evaluation in of_arm]
        ks = sorted(int(k) for k in curves[0])
        if len(curves) == 1:
            low = [curves[0][str(k)]["low"] for k in ks]
            high = [curves[0][str(k)]["high"] for k in ks]
            figure.add_trace(band(ks, low, high, arm))
        several = zip(of_arm, curves, strict=True) if len(curves) > 1 else ()
        for evaluation, curve in several:
            thin = line(ks, [curve[str(k)]["value"] for k in ks], arm, width=1, opacity=0.35)
            figure.add_trace(thin.update(name=f"{plain(arm.label)}, seed {evaluation.seed}"))
        means = [float(np.mean([curve[str(k)]["value"] for curve in curves])) for k in ks]
        trace = line(ks, means, arm, width=2.6)
        trace.update(mode="lines+markers", marker={"symbol": arm.symbol, "size": 8, "color": arm.colour})
        figure.add_trace(trace.update(hovertemplate=f"%{{y:.3f}}<extra>{plain(arm.label)}</extra>"))
    figure.update_xaxes(type="log", tickvals=ks, ticktext=[str(k) for k in ks])
    return figure


def available_panels(panels: Sequence[Panel], runs: Sequence[TrainingRun]) -> list[Panel]:
    """Panels for which some run has values other than 0."""
    return [
        panel
        for panel in panels
        if any(is_number(row.get(panel.key)) and row[panel.key] != 0 for run in runs for row in run.rows)
    ]


def training_figure(arms: Sequence[Arm], panel: Panel, *, supervised: bool = False) -> go.Figure:
    """One key of metrics.jsonl over steps, thinned; several seeds of an arm share its colour."""
    figure = empty_figure("step", height=230)
    for arm in arms:
        for run in (run for run in arm.runs if run.is_supervised == supervised):
            points = [(row["step"], row[panel.key]) for row in run.rows if is_number(row.get(panel.key))]
            if panel.log:
                points = [(step, value) for step, value in points if value > 0]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            name = plain(arm.label if len(arm.runs) == 1 else f"{arm.label}, {run.name}")
            raw = _thin_line(steps, values, arm, width=1, opacity=0.22)
            figure.add_trace(raw.update(name=f"{name}, single steps", meta=DECORATION))
            smooth = _thin_line(steps, running_mean(values, panel.smoothing), arm, width=2.2)
            smooth.update(name=name, hovertemplate=f"%{{y:.4g}}<extra>{name}</extra>", hoverinfo=None)
            figure.add_trace(smooth)
    if panel.log:
        figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    return figure


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Means over the last `width` values, fewer at the start: a point never depends on later steps."""
    array = np.asarray(values, dtype=np.float64)
    head = [float(array[:end].mean()) for end in range(1, min(width, len(array) + 1))]
    if len(array) < width:
        return head
    return head + np.lib.stride_tricks.sliding_window_view(array, width).mean(axis=1).tolist()


def step_time_shares(run: TrainingRun) -> dict[str, float]:
    """Mean seconds per step of each part, and what is left of step_s as "other".

    The first step is left out where there are more: it compiles and warms caches.
    """
    rows = run.rows[1:] if len(run.rows) > 1 else run.rows
    seconds = {
        label: float(np.mean([row[key] for row in rows if is_number(row.get(key))] or [0.0]))
        for key, label, _ in TIME_PARTS
    }
    step = float(np.mean([row["step_s"] for row in rows if is_number(row.get("step_s"))] or [0.0]))
    return seconds | {"other": max(0.0, step - sum(seconds.values()))}


def time_figure(arms: Sequence[Arm]) -> go.Figure:
    """Stacked bars: where the wall time of a step goes, one bar per arm (mean over its runs)."""
    shown = [(arm, [run for run in arm.runs if not run.is_supervised]) for arm in arms]
    shown = [(arm, runs) for arm, runs in shown if runs]
    figure = empty_figure("seconds per step", height=110 + 40 * len(shown))
    shares = [[step_time_shares(run) for run in runs] for _, runs in shown]
    labels = [plain(arm.label) for arm, _ in shown]
    for label, colour in [(label, colour) for _, label, colour in TIME_PARTS] + [("other", OTHER_COLOUR)]:
        figure.add_trace(
            go.Bar(
                y=labels,
                x=[float(np.mean([share[label] for share in of_arm])) for of_arm in shares],
                name=label,
                orientation="h",
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate="%{x:.3f} s<extra>" + label + "</extra>",
            )
        )
    figure.update_layout(
        barmode="stack",
        showlegend=True,
        bargap=0.35,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hovermode="closest",
        margin={"l": 110, "r": 12, "t": 36, "b": 44},
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def empty_figure(x_title: str, height: int) -> go.Figure:
    """Axes in the page's style, without data."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        showlegend=False,
        hovermode="x unified",
        font={"family": FONT, "size": 12, "color": "#3d434b"},
        margin={"l": 52, "r": 12, "t": 10, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#d8dce1", "font": {"family": FONT, "size": 12}},
    )
    style = {"gridcolor": "#e9ebee", "zeroline": False, "linecolor": "#c9ccd1", "ticks": ""}
    figure.update_xaxes(title={"text": x_title, "standoff": 8}, showgrid=False, showline=True, **style)
    figure.update_yaxes(showgrid=True, nticks=6, **style)
    return figure


def line(x: Sequence[Any], y: Sequence[float], arm: Arm, *, width: float, opacity: float = 1.0) -> go.Scatter:
    """Line in the arm's colour, with the arm's dashes unless it is thin."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=plain(arm.label),
        mode="lines",
        opacity=opacity,
        line={"color": arm.colour, "width": width, "dash": arm.dash if width > 2 else "solid"},
        hoverinfo="skip",
    )


def _thin_line(
    steps: Sequence[int], values: Sequence[float], arm: Arm, *, width: float, opacity: float = 1.0
) -> go.Scatter:
    kept = thinned(values)
    return line(
        [steps[at] for at in kept], rounded([values[at] for at in kept]), arm, width=width, opacity=opacity
    )


def band(x: Sequence[int], low: Sequence[float], high: Sequence[float], arm: Arm) -> go.Scatter:
    """A faint area of the arm's colour from `low` to `high`."""
    red, green, blue = (int(arm.colour[start : start + 2], 16) for start in (1, 3, 5))
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        name=plain(arm.label),
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )


def plain(text: str) -> str:
    """Plotly reads a subset of HTML in its texts: names are shown as they are written."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
