"""Quality and diversity over time: trajectories through SFT and RL, seeds as bands, and alarms.

Trajectories are from dynamics.jsonl alone. SFT is left of 0, the start of RL; both ask the same prompts, each with
seeds of its own. Figures in the style of figures.py; called by report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from polyray.config.monitors import MonitorSpec
from polyray.report.arms import Arm
from polyray.report.figures import Panel, band, empty_figure, line, plain
from polyray.report.numbers import is_number
from polyray.report.run_data import TrainingRun

PANELS = (
    Panel("pass_at_1", "pass@1", "chance that one candidate is correct"),
    Panel("pass_at_8", "pass@8", "chance that one of 8 candidates is correct"),
    Panel(
        "distinct_correct_at_8", "Different correct answers", "distinct correct classes among 8 candidates"
    ),
    Panel("diversity", "Diversity", "mean distance of two candidates, as the run measures it"),
    Panel("semantic_diversity", "Diversity of meaning", "1 - cosine of sentence embeddings, mean over pairs"),
    Panel("sequence_entropy", "Output entropy", "nats per completion, from the log-probs of samples"),
    Panel("distinct_classes", "Distinct classes", "among all candidates of a prompt"),
    Panel("reward_mean", "Reward", "mean over candidates"),
    Panel("distinct_1", "distinct-1", "different words / words, over the candidates of a prompt"),
    Panel("distinct_2", "distinct-2", "different word pairs / word pairs"),
    Panel("distinct_3", "distinct-3", "different word triples / word triples"),
    Panel("self_bleu", "self-BLEU", "how alike the candidates are in their words; 1: equal"),
)
FIRST_PANELS = 6
"""Panels that are shown at once; the others are shown on request."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One measure of one arm over time.

    Example:
        Trajectory(steps=(0, 12, 24), mean=(.31, .35, .36), low=(.30, .33, .36), high=(.32, .36, .37), seeds=2)
    """

    steps: tuple[int, ...]
    """Completed ones; of SFT counted back from its end, so <= 0."""
    mean: tuple[float, ...]
    """Mean over the seeds that have a value there."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int


def trajectory(runs: Sequence[TrainingRun], key: str) -> Trajectory:
    """Trajectory of the runs of one arm, which differ in their seed alone.

    Steps at which only some have a value are kept.
    """
    values: dict[int, list[float]] = {}
    for run in runs:
        end = max((int(entry["step"]) for entry in run.dynamics), default=0) if run.is_supervised else 0
        for entry in run.dynamics:
            if is_number(entry.get(key)):
                values.setdefault(int(entry["step"]) - end, []).append(float(entry[key]))
    steps = tuple(sorted(values))
    return Trajectory(
        steps,
        tuple(float(np.mean(values[step])) for step in steps),
        tuple(min(values[step]) for step in steps),
        tuple(max(values[step]) for step in steps),
        sum(bool(run.dynamics) for run in runs),
    )


def available_dynamics(arms: Sequence[Arm]) -> list[Panel]:
    """The panels for which some run has numbers that are not 0 throughout."""
    lines = [entry for arm in arms for run in arm.runs for entry in run.dynamics]
    return [
        panel
        for panel in PANELS
        if any(is_number(entry.get(panel.key)) and entry[panel.key] != 0 for entry in lines)
    ]


def dynamics_figure(arms: Sequence[Arm], panel: Panel) -> go.Figure:
    """One measure over the steps of SFT and RL: lines are means over seeds, bands reach from the least to the
    largest seed."""
    figure = empty_figure("steps of RL; SFT before 0", height=230)
    for arm in arms:
        for part in (True, False):
            found = trajectory([run for run in arm.runs if run.is_supervised == part], panel.key)
            if not found.steps:
                continue
            if found.seeds > 1:
                figure.add_trace(band(found.steps, found.low, found.high, arm))
            trace = line(found.steps, found.mean, arm, width=2.2)
            trace.update(mode="lines+markers", marker={"symbol": arm.symbol, "size": 6, "color": arm.colour})
            figure.add_trace(trace.update(hovertemplate=f"%{{y:.4g}}<extra>{plain(arm.label)}</extra>"))
    if any(run.is_supervised and run.dynamics for arm in arms for run in arm.runs):
        figure.add_vline(x=0, line={"color": "#8a929c", "width": 1, "dash": "dot"})
        figure.update_xaxes(title={"text": "← SFT | RL, steps →"})
    return figure


def alarm_lines(arms: Sequence[Arm]) -> list[str]:
    """Message about every monitor that raised its alarm in a run."""
    return [
        f"{arm.label} ({run.name}): {told}" for arm in arms for run in arm.runs for told in _alarms_of(run)
    ]


def _alarms_of(run: TrainingRun) -> list[str]:
    told = []
    for spec in map(MonitorSpec.model_validate, run.config.get("monitors", [])):
        lines = run.dynamics if spec.of_rounds else run.rows
        steps = [int(entry["step"]) for entry in lines if entry.get(spec.key)]
        if steps:
            over = "" if steps[-1] == lines[-1]["step"] else f" until step {steps[-1]}"
            told.append(f"{spec.condition}; from step {steps[0]} on{over}")
    return told


def cost_share(runs: Sequence[TrainingRun]) -> float | None:
    """Seconds that training waited for rounds over all its seconds, without the round before the first step; None
    where nothing was measured."""
    waited, all_s = 0.0, 0.0
    for run in runs:
        for row in run.rows:
            rounds_s = float(row["validation_s"]) if is_number(row.get("validation_s")) else 0.0
            step_s = float(row["step_s"]) if is_number(row.get("step_s")) else 0.0
            waited += rounds_s
            all_s += step_s + (rounds_s if run.is_supervised else 0.0)
    return waited / all_s if waited > 0 and all_s > 0 else None
