"""Output files of polyray analyze evaluation: a page, JSON, tables of a paper, data of figures. All or nothing.

DIR/evaluation.html, DIR/{theory,conditions,criteria,domains}.json
DIR/tables/{results,significance,ablation,criteria,domains,cost}.{tex,md}, tables.json (place of each number)
DIR/data/{theory,gains,significance,collapse,domains}.csv
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.runs.atomic import atomic_directory, atomic_write_json, atomic_write_text
from polyray.shelf.research.evaluated.cells import Table
from polyray.shelf.research.evaluated.inputs import EvaluatedRun
from polyray.shelf.research.evaluated.page import write_evaluation_page
from polyray.shelf.research.evaluated.results import Results
from polyray.shelf.research.evaluated.table_text import latex, markdown, traced
from polyray.shelf.research.evaluated.tables import all_tables

Rows = list[dict[str, Any]]
PAGE = "evaluation.html"


def write_results(results: Results, out: Path) -> list[Path]:
    """Writes everything below `out`, which is made if it is missing; returns what a person opens first."""
    out.mkdir(parents=True, exist_ok=True)
    parts = ("theory", "conditions", "criteria", "domains")
    for name in parts:
        atomic_write_json(out / f"{name}.json", getattr(results, name))
    tables = all_tables(results.inputs.runs, results.criteria, results.domains)
    write_tables(tables, out / "tables")
    with atomic_directory(out / "data") as directory:
        for name, rows in figure_data(results).items():
            if rows:
                atomic_write_text(directory / f"{name}.csv", _csv(rows))
    write_evaluation_page(results, tables, out / PAGE)
    return [out / PAGE, *(out / f"{name}.json" for name in parts), out / "tables", out / "data"]


def write_tables(tables: Sequence[Table], out: Path) -> None:
    """Write each table as LaTeX and Markdown, and tables.json: the place of every number."""
    with atomic_directory(out) as directory:
        for table in tables:
            atomic_write_text(directory / f"{table.name}.tex", latex(table))
            atomic_write_text(directory / f"{table.name}.md", markdown(table))
        atomic_write_json(directory / "tables.json", traced(tables))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, all with the keys of the first; what does not exist is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def figure_data(results: Results) -> dict[str, Rows]:
    """Data of each figure, one row per point."""
    runs = results.inputs.runs
    return {
        "theory": list(_theory_rows(results)),
        "gains": list(_gain_rows(results)),
        "significance": [row for run in runs for row in _tested_rows(run)],
        "collapse": [row for run in runs for row in _collapse_rows(run)],
        "domains": list(_domain_rows(results)),
    }


def _theory_rows(results: Results) -> Iterator[dict[str, Any]]:
    for run, entry in results.theory["evaluations"].items():
        for model, found in entry["models"].items():
            for point in found["curve"]:
                yield {"run": run, "model": model, **point}


def _gain_rows(results: Results) -> Iterator[dict[str, Any]]:
    for run, entry in results.conditions["evaluations"].items():
        for condition, found in entry["conditions"].items():
            for model, bins in found["models"].items():
                for each in bins:
                    where = {name: each[name] for name in ("from", "to", "n_problems", "n_clusters")}
                    for gain, interval in each["gains"].items():
                        yield {
                            "run": run, "condition": condition, "model": model, **where, "gain": gain, **interval,
                        }  # fmt: skip


def _tested_rows(run: EvaluatedRun) -> Iterator[dict[str, Any]]:
    names = ("model", "baseline", "metric", "k", "difference", "low", "high", "p", "p_adjusted", "family")
    for entry in run.metrics.values.get("comparisons", []):
        yield {"run": run.label, **{name: entry.get(name) for name in names}}


def _collapse_rows(run: EvaluatedRun) -> Iterator[dict[str, Any]]:
    for model in run.models:
        point = run.entry(model, "collapse_point", "value") or {}
        for k in run.ks:
            ratio = run.entry(model, "diversity_efficiency_ratio", k) or {}
            null = run.entry(model, "diversity_efficiency_ratio_null", k) or {}
            yield {
                "run": run.label,
                "model": model,
                "k": k,
                "diversity_efficiency_ratio": ratio.get("value"),
                "low": ratio.get("low"),
                "high": ratio.get("high"),
                "null": null.get("value"),
                "collapse_point": point.get("value"),
            }


def _domain_rows(results: Results) -> Iterator[dict[str, Any]]:
    for curve in results.domains["curves"]:
        points = zip(*(curve[name] for name in ("ks", "value", "low", "high")), strict=True)
        for k, value, low, high in points:
            names = {name: curve[name] for name in ("domain", "run", "model")}
            yield {**names, "k": k, "value": value, "low": low, "high": high}
