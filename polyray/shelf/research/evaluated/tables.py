"""The tables of a paper: results, significance, ablation, criteria, domains, cost. Every cell knows the place of
its number.

How a table becomes LaTeX or Markdown is table_text.py. Called by files.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyray.report.headline import digits_of, metric_label
from polyray.report.numbers import decimal, is_number, signed
from polyray.shelf.research.evaluated.cells import NONE, Cell, Table, amount_text, interval_text, p_text
from polyray.shelf.research.evaluated.domains import COLUMNS as DOMAIN_COLUMNS
from polyray.shelf.research.evaluated.inputs import EvaluatedRun
from polyray.shelf.research.evaluated.sources import JsonFile, Source
from polyray.shelf.research.lora.contributions import WHOLE, contributions

RESULTS = ("usq_at_k", "distinct_correct_at_k", "best_at_k")
"""Metrics beside pass@1 and pass@k, if an evaluation has them."""
EFFECT_SIZES = {"cohens_d": "d", "cohens_d_z": "d_z", "cliffs_delta": "Cliff's delta"}
STATUS_WORDS = {
    "pass_target": "target met",
    "pass": "met",
    "fail": "not met",
    "not_measured": "not measured",
}
SIDES = {"below": "<", "above": ">", "at least": "≥"}
COST_COLUMNS = {
    "wall_s": "wall, s",
    "core_s": "cores, s",
    "gpu_s": "GPUs, s",
    "tokens_generated": "tokens generated",
    "tokens_trained": "tokens trained",
    "judge_tokens": "tokens of the judge",
    "money": "money",
}


def all_tables(
    runs: Sequence[EvaluatedRun], criteria: Mapping[str, Any], domains: Mapping[str, Any]
) -> list[Table]:
    """Every table that has a row: results, significance, ablation of each run; cost, criteria, domains of all."""
    tables = []
    for number, run in enumerate(runs, 1):
        suffix = f"_{number}" if len(runs) > 1 else ""
        tables += [results(run, suffix), significance(run, suffix), ablation(run, suffix)]
    tables += [cost_table(runs), criteria_table(criteria), domains_table(domains)]
    return [table for table in tables if table.rows]


def results(run: EvaluatedRun, suffix: str = "") -> Table:
    """pass@1 and, at the largest k, pass@k, USQ@k, distinct-correct@k and best@k."""
    keys = [("pass_at_k", k) for k in dict.fromkeys((run.ks[0], run.ks[-1]))]
    keys += [
        (metric, run.ks[-1])
        for metric in RESULTS
        if any(run.entry(model, metric, run.ks[-1]) is not None for model in run.models)
    ]
    rows = tuple(
        (Cell(model), *(_estimate(run, model, metric, k) for metric, k in keys)) for model in run.models
    )
    values = run.metrics.values
    caption = (
        f"Results in {run.domain} ({run.label}): {values.get('n_problems')} prompts in "
        f"{values.get('n_clusters')} clusters, {values.get('n_samples')} samples each; brackets are "
        f"{100 * run.confidence:.0f} % bootstrap intervals over clusters."
    )
    columns = ("model", *(metric_label(*key) for key in keys))
    return Table(f"results{suffix}", caption, columns, rows, num_names=1)


def _estimate(run: EvaluatedRun, model: str, metric: str, k: int) -> Cell:
    entry = run.entry(model, metric, k)
    place = () if entry is None else (run.metrics.source("models", model, metric, str(k)),)
    return Cell(interval_text(entry, digits_of(metric)), place)


def significance(run: EvaluatedRun, suffix: str = "") -> Table:
    """Every model against the baseline in pass@1 and in every metric at the largest k."""
    rows: list[tuple[Cell, ...]] = []
    families: dict[str, None] = {}
    for number, entry in run.comparisons():
        families[str(entry.get("family", ""))] = None
        rows.append(tuple(_tested(run, number, entry)))
    caption = (
        f"Differences to {run.baseline} in {run.domain} ({run.label}), paired by prompt; p of sign flips over "
        f"clusters, as it is and adjusted over the family ({'; '.join(families)}); brackets are "
        f"{100 * run.confidence:.0f} % BCa intervals, not adjusted."
    )
    columns = ("model", "metric", "difference", "p", "adjusted p", *EFFECT_SIZES.values())
    return Table(f"significance{suffix}", caption, columns, tuple(rows), num_names=2)


def _tested(run: EvaluatedRun, number: int, entry: Mapping[str, Any]) -> Iterator[Cell]:
    name, _, selector = str(entry["metric"]).partition("/")
    yield Cell(str(entry["model"]))
    yield Cell(metric_label(name, int(entry["k"])) + (f" ({selector})" if selector else ""))
    difference = interval_text(entry, digits_of(name), with_sign=True)
    yield Cell(difference, (run.metrics.source("comparisons", number),))
    for key in ("p", "p_adjusted"):
        yield Cell(p_text(entry.get(key)), (run.metrics.source("comparisons", number, key),))
    effects = entry.get("effect_sizes") or {}
    for key in EFFECT_SIZES:
        text = signed(effects[key], 2) if is_number(effects.get(key)) else NONE
        yield Cell(text, (run.metrics.source("comparisons", number, "effect_sizes", key),))


def ablation(run: EvaluatedRun, suffix: str = "") -> Table:
    """Contribution of each part of an adapter, for an evaluation of polyray analyze ablation; for others no rows."""
    tested = run.comparisons() if run.baseline == WHOLE else []
    keys = [key for key in _ablation_keys(run) if any(_key(entry) == key for _, entry in tested)]
    rows = []
    for part in dict.fromkeys(str(entry["model"]) for _, entry in tested):
        own = {_key(entry): (number, entry) for number, entry in tested if entry["model"] == part}
        cells = [cell for key in keys for cell in _contribution(run, own.get(key))]
        rows.append((Cell(part.removeprefix("without ")), *cells))
    caption = (
        f"Contribution of each part of the adapter in {run.domain} ({run.label}): the whole adapter minus the "
        f"adapter without the part; brackets are {100 * run.confidence:.0f} % BCa intervals paired by prompt, "
        "p adjusted over all parts and metrics. Parts work together: contributions need not add up."
    )
    columns = [column for key in keys for column in (metric_label(*key), "adjusted p")]
    return Table(f"ablation{suffix}", caption, ("part", *columns), tuple(rows), num_names=1)


def _ablation_keys(run: EvaluatedRun) -> list[tuple[str, int]]:
    return [("pass_at_k", 1), ("pass_at_k", run.ks[-1]), ("distinct_correct_at_k", run.ks[-1])]


def _key(entry: Mapping[str, Any]) -> tuple[str, int]:
    return str(entry["metric"]), int(entry["k"])


def _contribution(run: EvaluatedRun, found: tuple[int, Mapping[str, Any]] | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(NONE), Cell(NONE)
    number, entry = found
    (added,) = contributions([entry])
    shown = {"difference": added["contribution"], "low": added["low"], "high": added["high"]}
    text = interval_text(shown, digits_of(str(entry["metric"])), with_sign=True)
    return (
        Cell(text, (run.metrics.source("comparisons", number),)),
        Cell(p_text(entry.get("p_adjusted")), (run.metrics.source("comparisons", number, "p_adjusted"),)),
    )


def criteria_table(criteria: Mapping[str, Any]) -> Table:
    """A row per entry of criteria.json."""
    rows = []
    for entry in criteria["criteria"]:
        sources = tuple(Source(**source) for source in entry["sources"])
        limits = f"{SIDES[entry['side']]} {decimal(entry['minimum'], 2)}"
        if entry["target"] is not None:
            limits += f" (target {decimal(entry['target'], 2)})"
        names = (entry["domain"], entry["model"] or NONE, entry["title"])
        rows.append(
            (
                *map(Cell, names),
                Cell(_criterion_value(entry), sources),
                Cell(limits),
                Cell(STATUS_WORDS[entry["status"]], sources),
            )
        )
    caption = "Success criteria; relative values are shares of the baseline's value, more or less than it."
    columns = ("domain", "model", "criterion", "value", "limit", "status")
    return Table("criteria", caption, columns, tuple(rows), num_names=3)


def _criterion_value(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return NONE
    return p_text(entry["value"]) if entry["side"] == "below" else decimal(entry["value"], 3)


def domains_table(domains: Mapping[str, Any]) -> Table:
    """A row per row of domains.json."""
    rows = []
    for row in domains["rows"]:
        cells = [Cell(row["domain"]), Cell(row["model"]), Cell(str(row["k"]))]
        for column in DOMAIN_COLUMNS:
            entry = row[column]
            sources = tuple(Source(**source) for source in entry["sources"]) if entry else ()
            cells.append(Cell(interval_text(entry, digits_of(column)), sources))
        rows.append(tuple(cells))
    columns = ("domain", "model", "k", "pass@1", "pass@k", "USQ@k", "distinct-correct@k")
    caption = " ".join(
        ["Models by domain; brackets are bootstrap intervals over clusters of prompts.", *domains["notes"]]
    )
    return Table("domains", caption, columns, tuple(rows), num_names=3)


def cost_table(runs: Sequence[EvaluatedRun]) -> Table:
    """A row per run with a cost.json, in the columns that some row has."""
    costs = [(run.label, run.cost) for run in runs if run.cost is not None]
    keys = [key for key in COST_COLUMNS if any(cost.number(key) is not None for _, cost in costs)]
    rows = tuple((Cell(label), *(_spent(cost, key) for key in keys)) for label, cost in costs if keys)
    return Table(
        "cost", "Computational cost.", ("run", *(COST_COLUMNS[key] for key in keys)), rows, num_names=1
    )


def _spent(cost: JsonFile, key: str) -> Cell:
    value = cost.number(key)
    return Cell(NONE) if value is None else Cell(amount_text(value), (cost.source(key),))
