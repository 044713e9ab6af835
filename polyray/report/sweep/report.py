"""The page of a sweep, from results.json alone: one file that loads nothing, with every table naming the objective.

Called by polyray sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyray.config.sweep import ARM
from polyray.report.numbers import Interval, bounds, decimal, seconds, signed
from polyray.report.pages import Drawing, drawing, render
from polyray.report.sweep.figures import (
    criterion_figure,
    curve_figure,
    frontier_figure,
    setting_colours,
    share_figure,
)
from polyray.report.sweep.parallel import parallel_figure
from polyray.report.sweep.values import metric_key, metric_words
from polyray.runs.atomic import atomic_write_text

MISSING = "\N{EN DASH}"
CURVE_TITLES = {
    "pass_at_k": ("pass@k", "chance that one of k candidates is correct"),
    "usq_at_k": ("USQ@k", "quality of the candidate that the selector picks out of k"),
    "distinct_correct_at_k": ("distinct-correct@k", "different correct answers among k candidates"),
}


def write_sweep_report(results: Mapping[str, Any], path: Path) -> None:
    """Writes the page for the contents of results.json, whole or not at all. Equal results give equal bytes."""
    filters = {
        "words": lambda metric: metric_words(metric_key(metric)),
        "decimal": lambda value, digits=3: MISSING if value is None else decimal(value, digits),
        "signed": lambda value, digits=3: MISSING if value is None else signed(value, digits),
        "bounds": lambda entry, with_sign=False: bounds(_interval(entry), with_sign=with_sign),
        "probability": lambda value: "< 0.001" if value < 0.001 else decimal(value),
        "seconds": seconds,
        "count": lambda value: MISSING if value is None else f"{value:,.0f}",
        "short": lambda value: MISSING if value is None else f"{value:.3g}",
    }
    page = render(
        "sweep.html.j2",
        filters,
        results=results,
        colours=setting_colours(results),
        weight=f"{results['symbol']} of {results['objective']} ({results['axis']})",
        verdict=recommendation_sentence(results),
        drawings=_drawings(results),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page)


def recommendation_sentence(results: Mapping[str, Any]) -> str:
    """Sentence with the recommendation, and whether it is shown to beat the baseline."""
    found = results["recommendation"]
    name = metric_words(metric_key(found["criterion"]))
    text = f"Take {found['setting']}: {name} {decimal(found['mean'])}."
    change = found["against_baseline"]
    if change is not None:
        size = f"{signed(change['difference'])} {bounds(_interval(change), with_sign=True)}"
        word = {"higher": "shown to be higher than", "lower": "shown to be lower than"}.get(
            change["verdict"], "not shown to differ from"
        )
        text += (
            f" That is {word} at {change['baseline']} ({size}, Holm-adjusted p = {change['p_adjusted']:.2g})."
        )
    elif found["value"] == results["baseline"]:
        text += " That is the baseline, which is within the margin of the best."
    return text


def _interval(entry: Mapping[str, Any]) -> Interval:
    return Interval.of(dict(entry))


def _drawings(results: Mapping[str, Any]) -> dict[str, list[Drawing]]:
    quality, diversity, criterion = (
        metric_words(metric_key(results[name])) for name in ("quality", "diversity", "criterion")
    )
    symbol = results["symbol"]
    curves = [
        drawing(metric, title, caption, curve_figure(results, metric))
        for metric, (title, caption) in CURVE_TITLES.items()
        if all(metric in entry["curves"] for entry in results["settings"])
    ]
    by_value = [
        drawing(
            "criterion",
            f"{criterion} by {symbol}",
            "shaded: the range near the best; dotted: the margin below the best",
            criterion_figure(results),
        )
    ]
    share = share_figure(results)
    if share is not None:
        caption = "of the variance of advantages, the part that diversity has; mean over training steps"
        by_value.append(drawing("share", f"Share of diversity by {symbol}", caption, share))
    front = drawing(
        "front",
        f"{quality} against {diversity}",
        "large: means over seeds with intervals, diamonds on the front; small: single seeds",
        frontier_figure(results),
    )
    lines = drawing(
        "parallel",
        "Every trial that counts",
        "one line per trial; drag along an axis to choose",
        parallel_figure(results),
    )
    by_value = by_value if results["axis"] != ARM else []
    return {"front": [front], "curves": curves, "by_value": by_value, "parallel": [lines]}
