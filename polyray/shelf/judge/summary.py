"""Judgements -> summary.json: win rates, position bias, rubric means, distinct strategies, with intervals.

All intervals are bootstraps over clusters of prompts with one value per prompt. Unjudged items are in no mean and
are counted with their reasons. `summary_table` is the same for a terminal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyray.metrics import bootstrap_mean
from polyray.shelf.judge.items import Judgement, Side, Usage
from polyray.types import WRONG_CLASS

POINTS: Mapping[Side, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""Points of a verdict for the first candidate of a pair."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Settings of intervals, e.g. Intervals(resamples=2000, confidence=0.95, seed=0)."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def mean(self, rows: Sequence[tuple[Judgement, float]]) -> dict[str, Any] | None:
        """{value, low, high, n_prompts}: the mean over prompts of each prompt's mean; None without rows."""
        if not rows:
            return None
        by_prompt: dict[str, list[float]] = defaultdict(list)
        clusters: dict[str, str] = {}
        for row, value in rows:
            by_prompt[row.task_id].append(value)
            clusters[row.task_id] = row.cluster_id
        means = [sum(values) / len(values) for values in by_prompt.values()]
        found = bootstrap_mean(
            means, [clusters[key] for key in by_prompt], self.resamples, self.confidence, self.seed
        )
        return {"value": found.value, "low": found.low, "high": found.high, "n_prompts": len(means)}


def summarise(judgements: Iterable[Judgement], intervals: Intervals | None = None) -> dict[str, Any]:
    """The contents of summary.json for judgements of one mode."""
    rows = list(judgements)
    settings = intervals or Intervals()
    judged = [row for row in rows if row.judged]
    mode = rows[0].mode if rows else None
    usage = sum((row.usage for row in rows), Usage())
    reasons = Counter(
        (row.reason or "").partition(":")[0].partition(" in ")[0] for row in rows if not row.judged
    )
    summary: dict[str, Any] = {
        "mode": mode,
        "judge": rows[0].judge if rows else None,
        "n_items": len(rows),
        "n_judged": len(judged),
        "n_unjudged": len(rows) - len(judged),
        "unjudged_reasons": dict(sorted(reasons.items())),
        "usage": usage.as_row(),
        "confidence": settings.confidence,
        "seed": settings.seed,
    }
    if mode == "pairwise":
        return summary | {"pairs": _pairs(judged, settings), "position_bias": position_bias(judged, settings)}
    if mode == "rubric":
        return summary | {"models": _rubric(judged, settings)}
    if mode == "cluster":
        return summary | {"models": _clusters(judged, settings)}
    return summary


def position_bias(judged: Sequence[Judgement], intervals: Intervals) -> dict[str, Any]:
    """Preference of the judge for the text shown first.

    `first_share`: of all answers with a winner, the share in which the text shown first won; 0.5 is no bias.
    `flip_share`: of all pairs, the share in which the two orders gave different verdicts; `reversals` counts
    the pairs in which the winner changed sides.
    """
    first: list[tuple[Judgement, float]] = []
    for row in judged:
        for shown_first, side in zip(("a", "b"), row.result["orders"], strict=True):
            if side != "tie":
                first.append((row, float(side == shown_first)))
    flips = [(row, float(row.result["flipped"])) for row in judged]
    return {
        "first_share": intervals.mean(first),
        "n_decided_answers": len(first),
        "flip_share": intervals.mean(flips),
        "n_pairs": len(judged),
        "reversals": sum(set(row.result["orders"]) == {"a", "b"} for row in judged),
    }


def summary_table(summary: Mapping[str, Any]) -> str:
    """A few lines for a terminal."""
    lines = {"pairwise": _pair_lines, "rubric": _model_lines, "cluster": _model_lines}
    body = lines[summary["mode"]](summary) if summary["mode"] in lines else ["nothing was judged"]
    body += _human_lines(summary.get("human_correlation", {}))
    usage = summary.get("spent", summary["usage"])
    unjudged = "".join(f", {count} {reason}" for reason, count in summary["unjudged_reasons"].items())
    footer = (
        f"{summary['judge']}: {summary['n_judged']} of {summary['n_items']} judged"
        f" ({summary['n_unjudged']} unjudged{unjudged}); {usage['requests']} answers, "
        f"{usage['input_tokens']:,} + {usage['output_tokens']:,} tokens, ${usage['cost_usd']:.4f}"
    )
    return "\n".join([*body, footer])


def _pairs(judged: Sequence[Judgement], intervals: Intervals) -> list[dict[str, Any]]:
    """One entry per pair of models, in order of appearance."""
    grouped: dict[tuple[str, ...], list[Judgement]] = defaultdict(list)
    for row in judged:
        grouped[row.models].append(row)
    return [
        {
            "model": model,
            "baseline": baseline,
            **_win_rate(rows, lambda row: row.result["verdict"], intervals),
            "criteria": {
                name: _win_rate(rows, lambda row, name=name: row.result["criteria"][name], intervals)
                for name in rows[0].result["criteria"]
            },
        }
        for (model, baseline), rows in grouped.items()
    ]


def _win_rate(
    rows: Sequence[Judgement], verdict: Callable[[Judgement], Side], intervals: Intervals
) -> dict[str, Any]:
    counts = Counter(verdict(row) for row in rows)
    return {
        "win_rate": intervals.mean([(row, POINTS[verdict(row)]) for row in rows]),
        "wins": counts["a"],
        "ties": counts["tie"],
        "losses": counts["b"],
    }


def _rubric(judged: Sequence[Judgement], intervals: Intervals) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = {}
    for model, rows in _by_model(judged).items():
        names = list(rows[0].result["scores"])
        columns = {name: [(row, float(row.result["scores"][name])) for row in rows] for name in names}
        models[model] = {name: intervals.mean(column) for name, column in columns.items()}
        models[model]["quality"] = intervals.mean([(row, row.result["quality"]) for row in rows])
    return models


def _clusters(judged: Sequence[Judgement], intervals: Intervals) -> dict[str, Any]:
    def strategies(row: Judgement) -> int:
        return len(set(row.result["classes"]) - {WRONG_CLASS})

    def garbage(row: Judgement) -> float:
        return row.result["classes"].count(WRONG_CLASS) / len(row.result["classes"])

    return {
        model: {
            "strategies": intervals.mean([(row, float(strategies(row))) for row in rows]),
            "strategies_per_candidate": intervals.mean(
                [(row, strategies(row) / len(row.result["classes"])) for row in rows]
            ),
            "garbage_share": intervals.mean([(row, garbage(row)) for row in rows]),
        }
        for model, rows in _by_model(judged).items()
    }


def _by_model(judged: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    grouped: dict[str, list[Judgement]] = defaultdict(list)
    for row in judged:
        grouped[row.models[0]].append(row)
    return grouped


def _pair_lines(summary: Mapping[str, Any]) -> list[str]:
    rows = [["model", "against", "win rate", "wins", "ties", "losses"]]
    rows += [
        [entry["model"], entry["baseline"], _cell(entry["win_rate"])]
        + [str(entry[name]) for name in ("wins", "ties", "losses")]
        for entry in summary["pairs"]
    ]
    bias = summary["position_bias"]
    position = (
        f"position bias: the text shown first won {_cell(bias['first_share'])} of "
        f"{bias['n_decided_answers']} decided answers; {_cell(bias['flip_share'])} of {bias['n_pairs']} "
        f"pairs changed their verdict with the order ({bias['reversals']} reversed)"
    )
    return [*_aligned(rows), position]


def _model_lines(summary: Mapping[str, Any]) -> list[str]:
    models = summary["models"]
    columns = list(next(iter(models.values()))) if models else []
    rows = [["model", *columns]]
    rows += [[model, *(_cell(values[name]) for name in columns)] for model, values in models.items()]
    return _aligned(rows)


def _human_lines(criteria: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not criteria:
        return []
    names = ("spearman", "kendall", "spearman_within", "kendall_within")
    rows = [["criterion, against people", *names]]
    for criterion, found in criteria.items():
        cells = ["-" if found[name] is None else f"{found[name]:.3f}" for name in names]
        rows.append([criterion, *cells])
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cell(entry: Mapping[str, float] | None) -> str:
    return "-" if entry is None else f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
