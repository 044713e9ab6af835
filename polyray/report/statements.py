"""Sentences for the report, generated from intervals: "higher", "lower" or "no difference shown".

Numbers decide the words; no sentence here is true of one run only. TASK_NOTES has the facts that are true of a task
by construction. Called by report.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from polyray.report.arms import Arm
from polyray.report.headline import Differences, digits_of, headline_columns, metric_label
from polyray.report.numbers import Interval, bounds, decimal, percent, signed
from polyray.report.run_data import Evaluation

TASK_NOTES: dict[str, tuple[str, ...]] = {
    "hidden_trap_grid": (
        "The task is built to separate one good answer from many different ones. The model plans a path on "
        "an 8x8 board whose traps it cannot see. Traps are independent draws that differ from map to map, "
        "so nothing can be learnt about them: every shortest path has the same chance of being safe.",
        "Diversity is therefore nearly free here. A user who tries k candidates gains from k different "
        "paths, and a model that varies its path gives up almost nothing on the first try. On a task with "
        "one best strategy a set objective would pay for diversity in pass@1.",
        "Collapse is not a law of GRPO either: a KL penalty towards the warm start, or fewer steps, can keep "
        "much of the diversity. A fair comparison includes such an arm, and a set objective has to be judged "
        "against it.",
    ),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One finding.

    Example:
        Statement("polychromic against Dr.GRPO", "pass@8 is higher by 0.296 [0.271, 0.320].")
    """

    lead: str
    text: str


def describe(changes: Sequence[Interval], digits: int = 3) -> str:
    """A predicate for paired differences, one per seed, e.g. "is higher by 0.296 [0.271, 0.320]"."""
    if len(changes) == 1:
        change = changes[0]
        if not change.excludes_zero:
            interval = bounds(change, digits, with_sign=True)
            return f"shows no difference ({signed(change.value, digits)} {interval})"
        size = Interval(abs(change.value), *sorted((abs(change.low), abs(change.high))))
        return f"is {change.direction} by {decimal(size.value, digits)} {bounds(size, digits)}"
    counts = Counter(change.direction for change in changes)
    values = ", ".join(signed(change.value, digits) for change in changes)
    if len(counts) == 1:
        word = changes[0].direction
        predicate = (
            f"shows no difference in any of {len(changes)} seeds"
            if not changes[0].excludes_zero
            else (f"is {word} in all {len(changes)} seeds")
        )
        return f"{predicate} ({values})"
    parts = [
        f"{word} in {counts[word]}" for word in ("higher", "lower", "no difference shown") if counts[word]
    ]
    return f"differs by seed: {', '.join(parts)} of {len(changes)} ({values})"


def agreed_direction(changes: Sequence[Interval]) -> str:
    """The one direction all seeds show; "no difference shown" where they do not agree or show none."""
    directions = {change.direction for change in changes}
    return directions.pop() if len(directions) == 1 else "no difference shown"


def findings(evaluations: Sequence[Evaluation], arms: Sequence[Arm], baseline: str) -> list[Statement]:
    """Findings that the intervals support, arm by arm; arms that were not evaluated are left out."""
    differences = Differences(evaluations)
    columns = headline_columns(evaluations[0])
    k = columns[-1][1]
    evaluated = [arm for arm in arms if arm.evaluated]
    trained = [arm for arm in evaluated if not arm.is_warm_start and arm.label != baseline]
    statements = [_against_baseline(differences, columns, arm.label, baseline) for arm in trained]
    warm = next((arm for arm in evaluated if arm.is_warm_start), None)
    if warm is not None and warm.label != baseline:
        statements += [
            _against_warm_start(differences, k, arm.label, warm.label)
            for arm in evaluated
            if not arm.is_warm_start
        ]
    statements += _penalty_share(differences, evaluated, baseline, k)
    statements += _width(evaluations, differences, trained, baseline)
    return statements


def _against_baseline(
    differences: Differences, columns: Sequence[tuple[str, int]], model: str, baseline: str
) -> Statement:
    parts = []
    for metric, k in columns:
        changes = differences.between(metric, k, model, baseline)
        if changes:
            parts.append(f"{metric_label(metric, k)} {describe(changes, digits_of(metric))}")
    return Statement(f"{model} against {baseline}", "; ".join(parts) + "." if parts else "Not compared.")


def _against_warm_start(differences: Differences, k: int, model: str, warm: str) -> Statement:
    best = differences.between("pass_at_k", k, model, warm)
    first = differences.between("pass_at_k", 1, model, warm)
    if not best:
        return Statement(f"{model} against the {warm}", "Not compared.")
    word = {"higher": "raises", "lower": "loses part of"}.get(
        agreed_direction(best), "neither raises nor lowers"
    )
    hedge = " as far as can be shown" if word.startswith("neither") else ""
    text = f"It {word} the {warm}'s pass@{k}{hedge}: pass@{k} {describe(best)}"
    if first:
        text += f"; pass@1 {describe(first)}"
    return Statement(f"{model} against the {warm}", text + ".")


def _penalty_share(
    differences: Differences, evaluated: Sequence[Arm], baseline: str, k: int
) -> list[Statement]:
    """Share of a set objective's gain in pass@k that a KL penalty alone gives, if both gains are shown."""
    statements = []
    for penalised in (arm for arm in evaluated if arm.has_kl_penalty and arm.label != baseline):
        for arm in (arm for arm in evaluated if arm.is_set_objective):
            own = differences.between("pass_at_k", k, penalised.label, baseline)
            full = differences.between("pass_at_k", k, arm.label, baseline)
            if not own or not full or {agreed_direction(own), agreed_direction(full)} != {"higher"}:
                continue
            shares = [part.value / whole.value for part, whole in zip(own, full, strict=True)]
            rest = differences.between("pass_at_k", k, arm.label, penalised.label)
            text = (
                f"A KL penalty alone gives {' / '.join(map(percent, shares))} of the gain in pass@{k} over "
                f"{baseline} that {arm.label} gives"
            )
            if rest:
                text += f"; between the two, pass@{k} of {arm.label} {describe(rest)}"
            statements.append(Statement(penalised.label, text + "."))
    return statements


def _width(
    evaluations: Sequence[Evaluation], differences: Differences, trained: Sequence[Arm], baseline: str
) -> list[Statement]:
    """Effects that an undecided pass@1 does not exclude: no difference shown is not equality shown."""
    statements = []
    for arm in trained:
        changes = differences.between("pass_at_k", 1, arm.label, baseline)
        if not changes or all(change.excludes_zero for change in changes):
            continue
        reference = [
            evaluation.metrics["models"][baseline]["pass_at_k"]["1"]["value"] for evaluation in evaluations
        ]
        worst = min(change.low for change in changes)
        best = max(change.high for change in changes)
        share = max(abs(worst), abs(best)) / min(reference) if min(reference) else math.nan
        relative = (
            f", which is up to {percent(share)} of the baseline's pass@1" if math.isfinite(share) else ""
        )
        statements.append(
            Statement(
                f"pass@1 of {arm.label}",
                f"Not decided: anything from {signed(worst)} to {signed(best)} is compatible with "
                f"the data{relative}. No difference shown is not equality shown.",
            )
        )
    return statements


def exactness_statement(
    model: str, baseline: str, change: Interval, value: float, reference: float, where: str = ""
) -> Statement:
    """Share of paths that reach the goal, traps aside, as the cost of diversity; `where` names the seed."""
    return Statement(
        f"Execution of {model}",
        f"{where}{percent(value)} of its paths reach the goal (traps aside), {percent(reference)} for "
        f"{baseline}: the share {describe([change])}.",
    )
