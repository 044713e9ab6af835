"""The figures of the report, section by section, and what is said in the place of one that cannot be drawn.

Called by report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyray.report import figures
from polyray.report.arms import Arm
from polyray.report.dynamics import FIRST_PANELS, alarm_lines, available_dynamics, cost_share, dynamics_figure
from polyray.report.headline import measured_for_all
from polyray.report.numbers import Interval, bounds, decimal, is_number
from polyray.report.pages import Drawing, drawing
from polyray.report.pareto import Front, checkpoint_front, evaluated_front
from polyray.report.pareto_figures import front_figure
from polyray.report.run_data import Evaluation, TrainingRun

CURVES = (
    ("pass_at_k", "pass@k", "chance that one of k candidates is correct"),
    ("distinct_correct_at_k", "distinct-correct@k", "different correct answers among k candidates"),
    ("usq_at_k", "USQ@k", "quality of the candidate a selector picks"),
    ("best_at_k", "best@k", "quality of the best of k candidates"),
)
SFT_LOSS = figures.Panel("loss", "Loss of the warm start", "cross-entropy on demonstrations, nats per token")
NO_DYNAMICS = (
    "No run asked fixed prompts while it trained, so nothing is known about the course of quality and diversity on "
    "prompts that stay the same; a configuration whose dynamics is not null measures it (dynamics.jsonl)."
)


def curve_drawings(evaluations: Sequence[Evaluation], arms: Sequence[Arm]) -> list[Drawing]:
    """Drawings of every metric over k that all models have."""
    return [
        drawing(f"curve-{metric}", title, caption, figures.curve_figure(evaluations, arms, metric))
        for metric, title, caption in (CURVES if evaluations else ())
        if measured_for_all(evaluations[0], metric)
    ]


def front_drawings(evaluations: Sequence[Evaluation], arms: Sequence[Arm]) -> list[Drawing]:
    """Quality against diversity: of evaluated models, and of checkpoints where rounds were kept."""
    found = []
    models = evaluated_front(evaluations)
    if models is not None:
        caption = f"large diamonds: on the front; grey: its band; {area_text(models)}"
        title = f"{models.diversity} against {models.quality}"
        found.append(drawing("front", title, caption, front_figure(models, arms)))
    checkpoints = checkpoint_front(arms)
    if checkpoints is not None:
        caption = f"rounds of RL on fixed prompts, means over seeds, without bands; {area_text(checkpoints)}"
        title = f"Checkpoints: {checkpoints.diversity} against {checkpoints.quality}"
        found.append(
            drawing("front-checkpoints", title, caption, front_figure(checkpoints, arms, paths=True))
        )
    return found


def area_text(front: Front) -> str:
    """hypervolume 0.751 [0.720, 0.781] above the reference (0, 0)"""
    area: Interval = front.hypervolume
    band = f" {bounds(area)}" if front.band else ""
    x, y = front.reference
    return f"hypervolume {decimal(area.value)}{band} above the reference ({x:.3g}, {y:.3g})"


def training_drawings(arms: Sequence[Arm]) -> dict[str, Any]:
    """Drawings of changes over time, by section of the page."""
    reinforced = [run for arm in arms for run in arm.runs if not run.is_supervised]
    supervised = [run for arm in arms for run in arm.runs if run.is_supervised]
    rounds = [
        drawing(f"dynamics-{panel.key}", panel.title, panel.caption, dynamics_figure(arms, panel))
        for panel in available_dynamics(arms)
    ]
    timed = any(row.get("step_s") for run in reinforced for row in run.rows)
    return {
        "training": _panels(figures.MAIN_PANELS, arms, reinforced) + _without_values(reinforced),
        "dynamics": rounds[:FIRST_PANELS],
        "more_dynamics": rounds[FIRST_PANELS:],
        "no_dynamics": "" if rounds or not (reinforced or supervised) else NO_DYNAMICS,
        "alarms": alarm_lines(arms),
        "dynamics_cost": cost_share([*supervised, *reinforced]),
        "mismatch": _panels(figures.MISMATCH_PANELS, arms, reinforced),
        "more": _panels(figures.MORE_PANELS, arms, reinforced) + _panels([SFT_LOSS], arms, supervised, "sft"),
        "times": drawing("times", "", "", figures.time_figure(arms)) if timed else None,
    }


def _panels(
    panels: Sequence[figures.Panel], arms: Sequence[Arm], runs: Sequence[TrainingRun], kind: str = "rl"
) -> list[Drawing]:
    return [
        drawing(
            f"{kind}-{panel.key}",
            panel.title,
            panel.caption + _gaps(panel, runs),
            figures.training_figure(arms, panel, supervised=kind == "sft"),
        )
        for panel in figures.available_panels(panels, runs)
    ]


def _gaps(panel: figures.Panel, runs: Sequence[TrainingRun]) -> str:
    """Note about missing steps in a curve of MAIN_PANELS: a line hides its gaps."""
    if panel not in figures.MAIN_PANELS:
        return ""
    values = [row[panel.key] for run in runs for row in run.rows if panel.key in row]
    missing = sum(not is_number(value) for value in values)
    return f"; no number at {missing} of {len(values)} steps" if missing else ""


def _without_values(runs: Sequence[TrainingRun]) -> list[Drawing]:
    """Panels with logged values but without a single number: NaN and infinities are null in metrics.jsonl."""
    found = []
    for panel in figures.MAIN_PANELS:
        values = [row[panel.key] for run in runs for row in run.rows if panel.key in row]
        if values and not any(is_number(value) for value in values):
            why = f"All {len(values)} steps logged null here: the value was not defined, NaN or infinite."
            found.append(Drawing(panel.title, panel.caption, missing=why))
    return found
