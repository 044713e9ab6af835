"""The figures of the research by their names, from run directories: for papers, with the data behind each.

    1-method  2-dynamics-*  3-pareto, 3-pareto-checkpoints  4-lora-*  5-cross-domain  6-usq-against-pass
    significance  collapse  theory  gain_by_*

Figures without data in the runs are left out. The drawing is done elsewhere; export.py makes files of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from polyray.report.arms import Arm, collect_arms
from polyray.report.dynamics import available_dynamics, dynamics_figure
from polyray.report.figures import empty_figure, line, plain
from polyray.report.headline import measured_for_all
from polyray.report.overview import overview_figure
from polyray.report.pareto import checkpoint_front, evaluated_front
from polyray.report.pareto_figures import front_figure
from polyray.report.run_data import Evaluation, ReportData, TrainingRun, load_report_data

NAMES = {"domains": "5-cross-domain"}
"""Figure names that differ from those of the analysis of evaluations."""


def research_figures(paths: Sequence[str | Path]) -> dict[str, go.Figure]:
    """Name -> figure, of the runs at or below `paths`. Raises DataError for a path without any."""
    data = load_report_data(paths)
    arms = collect_arms(data)
    drawn = {"1-method": overview_figure()}
    for panel in available_dynamics(arms):
        drawn[f"2-dynamics-{panel.key}"] = _titled(dynamics_figure(arms, panel), panel.title)
    models, checkpoints = evaluated_front(data.evaluations), checkpoint_front(arms)
    if models is not None:
        drawn["3-pareto"] = front_figure(models, arms)
    if checkpoints is not None:
        drawn["3-pareto-checkpoints"] = front_figure(checkpoints, arms, paths=True)
    drawn |= _adapters(data)
    if data.evaluations and all(measured_for_all(data.evaluations[0], key) for key in USQ):
        drawn["6-usq-against-pass"] = usq_figure(data.evaluations, arms)
    return drawn | (_of_evaluations([run.path for run in data.evaluations]) if data.evaluations else {})


USQ = ("pass_at_k", "usq_at_k")


def usq_figure(evaluations: Sequence[Evaluation], arms: Sequence[Arm]) -> go.Figure:
    """Quality of the selector's pick against the chance of a good candidate; a point per k.

    Means over evaluations, which differ in their seed. On the diagonal the selector never misses.
    """
    figure = empty_figure("pass@k", height=420)
    for arm in (arm for arm in arms if arm.evaluated):
        found = [
            entry.metrics["models"][arm.label]
            for entry in evaluations
            if arm.label in entry.metrics["models"]
        ]
        ks = sorted(int(k) for k in found[0]["pass_at_k"])
        x, y = ([sum(model[key][str(k)]["value"] for model in found) / len(found) for k in ks] for key in USQ)
        trace = line(x, y, arm, width=2.2)
        trace.update(
            mode="lines+markers+text",
            marker={"symbol": arm.symbol, "size": 8, "color": arm.colour},
            text=[f"k={k}" for k in ks],
            textposition="top left",
            name=plain(arm.label),
        )
        figure.add_trace(trace)
    figure.update_yaxes(title={"text": "USQ@k"})
    return figure.update_layout(showlegend=True)


def _titled(figure: go.Figure, y_title: str) -> go.Figure:
    """The figure with a y title: on paper there is no heading above it, and no legend beside it."""
    figure.update_yaxes(title={"text": y_title})
    return figure


def _adapters(data: ReportData) -> dict[str, go.Figure]:
    """Norms of the updates of RL, beyond the warm start where that is one of the runs."""
    reinforced = [run for run in data.training if not run.is_supervised and _adapter(run) is not None]
    if not reinforced:
        return {}
    from polyray.shelf.research.lora.figures import heatmap
    from polyray.shelf.research.lora.results import lora_results
    from polyray.shelf.research.lora.updates import read_adapter_updates

    warm = next((run for run in data.training if run.is_supervised and _adapter(run) is not None), None)
    since = None if warm is None else read_adapter_updates(warm.path / "adapter", warm.name)
    adapters = [read_adapter_updates(run.path / "adapter", run.name) for run in reinforced]
    results = lora_results(adapters, since)
    return {f"4-lora-{each['name']}": heatmap(each["modules"], "norm") for each in results["adapters"]}


def _adapter(run: TrainingRun) -> Path | None:
    directory = run.path / "adapter"
    return directory if (directory / "adapter_config.json").is_file() else None


def _of_evaluations(paths: Sequence[str | Path]) -> dict[str, go.Figure]:
    from polyray.shelf.research.evaluated.drawings import figures
    from polyray.shelf.research.evaluated.inputs import read_inputs
    from polyray.shelf.research.evaluated.results import analyse

    drawn = figures(analyse(read_inputs(paths)))
    return {NAMES.get(name, name): figure for name, (_, _, figure) in drawn.items()}
