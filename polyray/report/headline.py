"""The headline table: every evaluated arm with intervals, and paired differences to the baseline.

With several seeds each seed keeps its own interval and the mean over seeds is given without one: intervals
are over prompts, and a handful of seeds carries no interval of its own. Called by report.py; statements.py
asks `Differences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyray.report.arms import Arm
from polyray.report.numbers import Interval, bounds, decimal, signed
from polyray.report.run_data import Evaluation

METRIC_LABELS = {
    "pass_at_k": "pass@{k}",
    "distinct_correct_at_k": "distinct-correct@{k}",
    "usq_at_k": "USQ@{k}",
    "best_at_k": "best@{k}",
}
DIGITS = {"distinct_correct_at_k": 2}


def metric_label(metric: str, k: int) -> str:
    """("pass_at_k", 8) -> pass@8"""
    return METRIC_LABELS[metric].format(k=k)


def digits_of(metric: str) -> int:
    """Decimals a metric is written with."""
    return DIGITS.get(metric, 3)


class Differences:
    """Paired differences between models, one interval per evaluation (seed).

    Example:
        Differences([evaluation]).between("pass_at_k", 8, "polychromic", "Dr.GRPO")  # [Interval(.296, .271,
        .320)]
    """

    def __init__(self, evaluations: Sequence[Evaluation]) -> None:
        self._entries: list[dict[tuple[str, int, str, str], Interval]] = []
        for evaluation in evaluations:
            self._entries.append(
                {
                    (entry["metric"], int(entry["k"]), entry["model"], entry["baseline"]): Interval.of(entry)
                    for entry in evaluation.metrics["comparisons"]
                }
            )

    def between(self, metric: str, k: int, model: str, reference: str) -> list[Interval]:
        """model - reference in every evaluation that compared them, whichever way round it did."""
        found: list[Interval] = []
        for entries in self._entries:
            forward = entries.get((metric, k, model, reference))
            backward = entries.get((metric, k, reference, model))
            if forward is not None:
                found.append(forward)
            elif backward is not None:
                found.append(Interval(-backward.value, -backward.high, -backward.low))
        return found


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table.

    Example:
        Cell(value="0.781", detail=("[0.760, 0.802]",), change="+0.296", change_detail="[+0.271, +0.320]",
             direction="higher", share=0.781)
    """

    value: str
    detail: tuple[str, ...]
    """Interval, or one line per seed."""
    change: str = ""
    change_detail: str = ""
    direction: str = ""
    """higher or lower where the interval (of every seed) excludes 0, else none; "" for no comparison."""
    share: float = 0.0
    """The value relative to the column's largest: the length of its bar."""


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of the table."""

    arm: Arm
    cells: tuple[Cell, ...]
    is_baseline: bool


@dataclass(frozen=True, slots=True)
class Headline:
    """The table with its column titles and what its intervals mean."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str
    baseline: str


def headline_columns(evaluation: Evaluation) -> list[tuple[str, int]]:
    """pass@1 and, at the largest k, pass@k, distinct-correct@k, USQ@k and best@k where it was measured."""
    ks = sorted(int(k) for k in next(iter(evaluation.metrics["models"].values()))["pass_at_k"])
    columns = [("pass_at_k", ks[0])] if ks[0] == 1 and ks[-1] > 1 else []
    return columns + [(metric, ks[-1]) for metric in METRIC_LABELS if measured_for_all(evaluation, metric)]


def measured_for_all(evaluation: Evaluation, metric: str) -> bool:
    """Whether every model has it: a selector may have been refused for some."""
    return all(metric in metrics for metrics in evaluation.metrics["models"].values())


def caveats(evaluation: Evaluation) -> list[str]:
    """Notes for a reader of the numbers: warnings, refused selectors, the definition of a pass."""
    metrics = evaluation.metrics
    found = list(metrics.get("warnings", []))
    for selector, note in metrics.get("selectors", {}).items():
        found += [
            f"picks of the selector {selector!r} are not shown for {model}: {reason}"
            for model, reason in note.get("refused", {}).items()
        ]
    threshold = metrics.get("threshold") or {}
    if threshold:
        known = {key: value for key, value in threshold.items() if value not in (None, 0) and key != "value"}
        source = ", ".join(f"{key} {value}" for key, value in known.items())
        found.append(f"A pass is a quality of at least {metrics['pass_threshold']:.4g} ({source}).")
    return found


def build_headline(evaluations: Sequence[Evaluation], arms: Sequence[Arm]) -> Headline:
    """The table of all evaluated arms; the evaluations are seeds of one experiment."""
    first = evaluations[0]
    baseline = str(first.metrics.get("baseline", next(iter(first.metrics["models"]))))
    differences = Differences(evaluations)
    columns = headline_columns(first)
    evaluated = [arm for arm in arms if arm.evaluated]
    table = [
        [_cell(evaluations, differences, arm.label, baseline, *column) for column in columns]
        for arm in evaluated
    ]
    rows = tuple(
        Row(arm, tuple(cells), arm.label == baseline) for arm, cells in zip(evaluated, table, strict=True)
    )
    return Headline(
        columns=tuple(metric_label(metric, k) for metric, k in columns),
        rows=rows,
        note=_note(evaluations),
        baseline=baseline,
    )


def _cell(
    evaluations: Sequence[Evaluation],
    differences: Differences,
    model: str,
    baseline: str,
    metric: str,
    k: int,
) -> Cell:
    digits = digits_of(metric)
    by_seed = [
        (evaluation.seed, Interval.of(evaluation.metrics["models"][model][metric][str(k)]))
        for evaluation in evaluations
        if model in evaluation.metrics["models"]
    ]
    mean = float(np.mean([interval.value for _, interval in by_seed]))
    largest = max(
        entry[metric][str(k)]["value"]
        for evaluation in evaluations
        for entry in evaluation.metrics["models"].values()
    )
    if len(by_seed) == 1:
        detail = (bounds(by_seed[0][1], digits),)
    else:
        detail = tuple(
            f"seed {seed}: {decimal(interval.value, digits)} {bounds(interval, digits)}"
            for seed, interval in by_seed
        )
    changes = [] if model == baseline else differences.between(metric, k, model, baseline)
    return Cell(
        value=decimal(mean, digits),
        detail=detail,
        change=signed(float(np.mean([change.value for change in changes])), digits) if changes else "",
        change_detail=_change_detail(changes, digits),
        direction=_shared_direction(changes),
        share=mean / largest if largest > 0 else 0.0,
    )


def _change_detail(changes: Sequence[Interval], digits: int) -> str:
    if len(changes) == 1:
        return bounds(changes[0], digits, with_sign=True)
    return " ".join(
        signed(change.value, digits) + ("*" if change.excludes_zero else "") for change in changes
    )


def _shared_direction(changes: Sequence[Interval]) -> str:
    """The direction that the intervals of all seeds carry; none where one of them does not."""
    if not changes:
        return ""
    directions = {change.direction for change in changes}
    return (
        directions.pop()
        if len(directions) == 1 and all(change.excludes_zero for change in changes)
        else "none"
    )


def _note(evaluations: Sequence[Evaluation]) -> str:
    metrics = evaluations[0].metrics
    level = f"{100 * metrics.get('confidence', 0.95):g} %"
    unit = f"{metrics['n_problems']:,} held-out prompts"
    clusters = metrics.get("n_clusters", metrics["n_problems"])
    if clusters != metrics["n_problems"]:
        unit += f" in {clusters:,} clusters"
    text = (
        f"{unit}, {metrics['n_samples']} samples each; brackets are {level} bootstrap intervals over "
        f"{'clusters' if clusters != metrics['n_problems'] else 'prompts'}, differences are paired by prompt."
    )
    if len(evaluations) == 1:
        return (
            text + " A coloured difference has an interval that excludes 0; a grey one shows no difference."
        )
    return text + (
        f" Large numbers are means over {len(evaluations)} seeds (warm start and training vary together) "
        "and carry no interval; below them every seed with its own. Differences: mean, then one per seed, "
        "* where that seed's interval excludes 0; coloured only where this holds for all seeds, with one "
        "sign."
    )
