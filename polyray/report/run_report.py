"""One self-contained HTML page for a training run, several runs, or a quickstart directory.

It answers in this order: what was run, does it work, what changed over time, what do the candidates look like, what
did it cost, how is it reproduced. The page opens without a network; all text from runs is escaped by the template.
Called by `polyray report` and `polyray quickstart`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from polyray.metrics.bootstrap import paired_bootstrap
from polyray.report import figures
from polyray.report.arms import Arm, collect_arms
from polyray.report.boards import empty_board_symbol
from polyray.report.candidates import CandidateRow, candidate_rows, goal_shares, training_rows
from polyray.report.costs import read_costs
from polyray.report.headline import Headline, build_headline, caveats, headline_columns
from polyray.report.numbers import Interval
from polyray.report.pages import render
from polyray.report.report_figures import curve_drawings, front_drawings, training_drawings
from polyray.report.run_data import Evaluation, ReportData, load_report_data
from polyray.report.run_states import adapter_hashes, commands, run_states
from polyray.report.statements import TASK_NOTES, Statement, exactness_statement, findings
from polyray.runs.atomic import atomic_write_text

DEFAULT_EXAMPLES = 12
MAX_CANDIDATES = 8


def write_report(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Build the page for the runs at `paths` and write it, whole or not at all; returns its path."""
    page = build_report(load_report_data(paths), title=_title(paths))
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page)
    return path


def build_report(data: ReportData, title: str) -> str:
    """The page as a string."""
    evaluations = _one_experiment(data.evaluations)
    arms = collect_arms(ReportData(data.training, evaluations))
    headline = build_headline(evaluations, arms) if evaluations else None
    context: dict[str, Any] = {
        "title": title,
        "arms": arms,
        "states": run_states(data),
        "unscored": [path.name for path in data.unscored],
        "headline": headline,
        "ignored": [entry.name for entry in data.evaluations if entry not in evaluations],
        "caveats": [caveat for entry in evaluations[:1] for caveat in caveats(entry)],
        "selector": evaluations[0].metrics.get("selector", "") if evaluations else "",
        "notes": _notes(data),
        "board_symbol": Markup(empty_board_symbol()),
        "findings": _findings(evaluations, arms, headline),
        "curves": curve_drawings(evaluations, arms),
        "fronts": front_drawings(evaluations, arms),
        "costs": read_costs([run.path for run in (*data.training, *data.evaluations)]),
        "commands": commands(data),
        "hashes": adapter_hashes(data.training),
        "configurations": _configurations(data),
        "smoothing": figures.SMOOTHING_STEPS,
    }
    return render(
        "report.html.j2", **context, **training_drawings(arms), **_candidates(data, evaluations, arms)
    )


def _title(paths: Sequence[str | Path]) -> str:
    return ", ".join(Path(path).resolve().name for path in paths)


def _one_experiment(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The first evaluation and its other seeds: same prompts, samples, models, ks and selector. Others cannot share a
    table."""

    def identity(evaluation: Evaluation) -> tuple[Any, ...]:
        metrics = evaluation.metrics
        return (
            metrics["dataset_sha256"],
            list(metrics["models"]),
            [sorted(values["pass_at_k"]) for values in metrics["models"].values()],
            headline_columns(evaluation),
            metrics.get("baseline"),
            metrics.get("selector"),
            metrics.get("n_samples"),
        )

    seeds: dict[Any, Evaluation] = {}
    for entry in evaluations:
        if identity(entry) == identity(evaluations[0]):
            seeds.setdefault(entry.seed, entry)
    return list(seeds.values())


def _notes(data: ReportData) -> tuple[str, ...]:
    configs = [entry.config for entry in (*data.evaluations, *data.training)]
    kinds = {config.get("task", {}).get("type", "") for config in configs}
    return tuple(note for kind in sorted(kinds) for note in TASK_NOTES.get(kind, ()))


def _findings(
    evaluations: Sequence[Evaluation], arms: Sequence[Arm], headline: Headline | None
) -> list[Statement]:
    if headline is None:
        return []
    statements = findings(evaluations, arms, headline.baseline)
    shares = goal_shares(evaluations[0])
    for arm in (
        arm for arm in arms if arm.is_set_objective and arm.label in shares and headline.baseline in shares
    ):
        own, reference = shares[arm.label], shares[headline.baseline]
        clusters = {sample.task_id: sample.cluster for sample in evaluations[0].samples}
        change = paired_bootstrap(
            [own[task_id] for task_id in reference],
            list(reference.values()),
            clusters=[clusters[task_id] for task_id in reference],
            confidence=evaluations[0].metrics.get("confidence", 0.95),
        )
        interval = Interval(change.difference, change.low, change.high)
        own_mean, reference_mean = (
            float(np.mean(list(own.values()))),
            float(np.mean(list(reference.values()))),
        )
        where = f"Seed {evaluations[0].seed}: " if len(evaluations) > 1 else ""
        statements.append(
            exactness_statement(arm.label, headline.baseline, interval, own_mean, reference_mean, where)
        )
    return statements


def _candidates(data: ReportData, evaluations: Sequence[Evaluation], arms: Sequence[Arm]) -> dict[str, Any]:
    rows: list[CandidateRow] = []
    source = ""
    k = MAX_CANDIDATES
    if evaluations:
        wanted = evaluations[0].config.get("evaluation", {}).get("examples", DEFAULT_EXAMPLES)
        k = min(MAX_CANDIDATES, int(evaluations[0].metrics["n_samples"]))
        rows = candidate_rows(evaluations[0], arms, wanted, k)
        source = f"held-out prompts spread over the list, not chosen by outcome (seed {evaluations[0].seed})"
    if not rows:
        pairs = [(arm, run) for arm in arms for run in arm.runs if run.groups]
        rows = training_rows(pairs, max(3, DEFAULT_EXAMPLES // max(1, len(pairs))), k)
        source = "training prompts, evenly spread over the run"
    has_boards = any(cell.board for row in rows for cell in row.cells)
    return {"rows": rows, "rows_source": source, "num_candidates": k, "has_boards": has_boards}


def _configurations(data: ReportData) -> list[tuple[str, str]]:
    entries = [*data.training, *data.evaluations]
    return [
        (entry.name, json.dumps(entry.config, indent=2, ensure_ascii=False))
        for entry in entries
        if entry.config
    ]
