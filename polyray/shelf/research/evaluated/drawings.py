"""All figures of an analysis with titles and captions, for a page.

The points that they draw are written by files.py. Called by pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from polyray.report.arms import Arm
from polyray.shelf.research.evaluated.collapse import advice, der
from polyray.shelf.research.evaluated.figures import (
    collapse_figure,
    condition_figure,
    domains_figure,
    forest_figure,
    model_arms,
    theory_figure,
)
from polyray.shelf.research.evaluated.inputs import EvaluatedRun
from polyray.shelf.research.evaluated.results import Results

Drawing = tuple[str, str, go.Figure]
"""Title, caption, figure."""


def figures(results: Results) -> dict[str, Drawing]:
    """name -> title, caption, figure; what was not measured has none.

    With several evaluations the names of their own figures end in _1, _2, ... in their order.
    """
    arms = model_arms(results.inputs.runs)
    drawn: dict[str, Drawing] = {}
    for number, run in enumerate(results.inputs.runs, 1):
        many = len(results.inputs.runs) > 1
        for name, (title, caption, figure) in _of_run(run, results, arms).items():
            named = (f"{name}_{number}", f"{title} ({run.label})") if many else (name, title)
            drawn[named[0]] = (named[1], caption, figure)
    drawn["domains"] = (
        "pass@k by domain",
        " ".join(["Bands are bootstrap intervals over clusters of prompts.", *results.domains["notes"]]),
        domains_figure(results.domains["curves"], arms),
    )
    return drawn


def _of_run(run: EvaluatedRun, results: Results, arms: Mapping[str, Arm]) -> dict[str, Drawing]:
    drawn: dict[str, Drawing] = {}
    theory = results.theory["evaluations"][run.label]
    if theory["models"]:
        caption = (
            f"Lines: a beta-binomial fitted to {theory['n_fitted']} of {theory['n_samples']} samples per prompt. "
            "Points: all samples, those of the fit among them, with intervals."
        )
        drawn["theory"] = ("pass@k, predicted and measured", caption, theory_figure(theory, arms))
    drawn |= _gains(results.conditions["evaluations"][run.label], arms)
    tested = [entry for _, entry in run.comparisons()]
    if tested:
        caption = (
            "Filled: significant at .05 after correction over the family "
            f"({tested[0].get('family', 'not named')}). Intervals are not adjusted."
        )
        drawn["significance"] = (f"Differences to {run.baseline}", caption, forest_figure(tested, arms))
    if any(der(run, model) for model in run.models):
        caption = " ".join(
            [
                "pass@k / (k pass@1), which falls as pass@1 rises; dotted: if all prompts were equally hard.",
                *(f"{line}." for line in advice(run)),
            ]
        )
        drawn["collapse"] = ("Gain from another candidate", caption, collapse_figure(run, arms))
    return drawn


def _gains(conditions: Mapping[str, Any], arms: Mapping[str, Arm]) -> dict[str, Drawing]:
    drawn: dict[str, Drawing] = {}
    gain = f"pass@{conditions.get('k')}"
    for name, condition in conditions.get("conditions", {}).items():
        if condition["models"]:
            caption = (
                f"Difference to {conditions['baseline']}; above 0 the model helps. Bins are of prompts, intervals "
                "over clusters and not adjusted for the number of bins."
            )
            figure = condition_figure(condition, gain, arms)
            drawn[f"gain_by_{name}"] = (f"Gain in {gain} by {condition['label']}", caption, figure)
    return drawn
