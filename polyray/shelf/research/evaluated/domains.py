"""Any number of evaluations, domain by domain: one table of models, and the curves of one figure.

Evaluations are never merged. If two are of one domain each keeps its own name, and a note names their difference:
other prompts, other models, or another seed. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from polyray.shelf.research.evaluated.inputs import EvaluatedRun

COLUMNS = ("pass_at_1", "pass_at_k", "usq_at_k", "distinct_correct_at_k")
"""Columns of the table; k is the row's."""


def domains(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """The contents of domains.json."""
    names = domain_names(runs)
    k = common_k(runs)
    return {
        "k": k,
        "rows": [row for run in runs for row in _rows(run, names[run.label], k)],
        "curves": [curve for run in runs for curve in _curves(run, names[run.label])],
        "notes": _notes(runs, k),
    }


def domain_names(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    """run label -> the domain, with the run's label where the domain occurs twice."""
    found = [run.domain for run in runs]
    return {
        run.label: run.domain if found.count(run.domain) == 1 else f"{run.domain} ({run.label})"
        for run in runs
    }


def common_k(runs: Sequence[EvaluatedRun]) -> int | None:
    """The largest k that every evaluation has; None where they share none, and every row has its own."""
    shared = set.intersection(*(set(run.ks) for run in runs))
    return max(shared, default=None)


def _rows(run: EvaluatedRun, domain: str, common: int | None) -> list[dict[str, Any]]:
    k = common if common is not None else run.ks[-1]
    rows = []
    for model in run.models:
        cells: dict[str, Any] = {}
        for column in COLUMNS:
            metric, size = ("pass_at_k", 1) if column == "pass_at_1" else (column, k)
            entry = run.entry(model, metric, size)
            place = run.metrics.source("models", model, metric, str(size))
            cells[column] = None if entry is None else {**entry, "sources": [place.as_json()]}
        rows.append(
            {
                "domain": domain,
                "run": run.label,
                "model": model,
                "is_baseline": model == run.baseline,
                "k": k,
                "n_problems": run.metrics.values.get("n_problems"),
                "n_samples": run.metrics.values.get("n_samples"),
                **cells,
            }
        )
    return rows


def _curves(run: EvaluatedRun, domain: str) -> list[dict[str, Any]]:
    curves = []
    for model in run.models:
        points = {k: run.entry(model, "pass_at_k", k) for k in run.ks}
        known = {k: point for k, point in points.items() if point is not None}
        curves.append(
            {
                "domain": domain,
                "run": run.label,
                "model": model,
                "ks": list(known),
                **{name: [point[name] for point in known.values()] for name in ("value", "low", "high")},
            }
        )
    return curves


def _notes(runs: Sequence[EvaluatedRun], k: int | None) -> list[str]:
    notes = [
        f"{one.label} and {two.label} are both of {one.domain} and are shown separately: {_difference(one, two)}"
        for one, two in combinations(runs, 2)
        if one.domain == two.domain
    ]
    if k is None:
        sizes = "; ".join(f"{run.label} {run.ks}" for run in runs)
        notes.append(f"the evaluations share no k ({sizes}): every row has its own largest one")
    return notes


def _difference(one: EvaluatedRun, two: EvaluatedRun) -> str:
    found = []
    prompts = [str(run.metrics.values.get("dataset_sha256")) for run in (one, two)]
    if prompts[0] != prompts[1]:
        found.append(f"other prompts (dataset_sha256 {prompts[0][:8]} and {prompts[1][:8]})")
    if set(one.models) != set(two.models):
        differing = sorted(set(one.models) ^ set(two.models))
        found.append(f"other models ({', '.join(differing)} in one alone)")
    if one.evaluation.seed != two.evaluation.seed:
        found.append(f"seeds {one.evaluation.seed} and {two.evaluation.seed}")
    return ", ".join(found) or "the same prompts, models and seed, evaluated twice"
