"""The page of an analysis of evaluations: tables, figures, where a model hurts. One file that loads nothing.

Called by files.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyray.report.arms import Arm
from polyray.report.pages import drawing, render
from polyray.runs.atomic import atomic_write_text
from polyray.shelf.research.evaluated.cells import Table
from polyray.shelf.research.evaluated.drawings import figures
from polyray.shelf.research.evaluated.figures import model_arms
from polyray.shelf.research.evaluated.results import Results


def write_evaluation_page(results: Results, tables: Sequence[Table], path: Path) -> None:
    """Writes the page, whole or not at all. Equal results give equal bytes."""
    arms = model_arms(results.inputs.runs)
    page = render(
        "evaluation.html.j2",
        runs=results.inputs.runs,
        arms=list(arms.values()),
        drawings=[drawing(name, *parts) for name, parts in figures(results).items()],
        tables=tables,
        worst=_worst(results, arms),
        notes=[*results.inputs.notes, *_why_not(results)],
    )
    atomic_write_text(path, page)


def _worst(results: Results, arms: dict[str, Arm]) -> list[dict[str, Any]]:
    """Model by model the prompts on which it loses most, with what it wrote and what the baseline did."""
    found: list[dict[str, Any]] = []
    for run in results.inputs.runs:
        entry = results.conditions["evaluations"][run.label]
        found += [
            {"run": run.label, "arm": arms[model], "baseline": run.baseline, "prompts": prompts}
            for model, prompts in entry["worst"].items()
            if prompts
        ]
    return found


def _why_not(results: Results) -> list[str]:
    """Missing parts of each evaluation, in words."""
    missing = (entry.get("why_not") for entry in results.theory["evaluations"].values())
    return [f"{why}." for why in dict.fromkeys(missing) if why]
