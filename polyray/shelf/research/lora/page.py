"""The page about adapters: where each one works, how alike they are, how far apart arms are, how they drift.

One file that loads nothing. Called by polyray analyze.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyray.report.pages import Drawing, drawing, render
from polyray.runs.atomic import atomic_write_text
from polyray.shelf.research.lora.figures import SHOWN, drift_figure, heatmap, short_names, similarity_figure

MAX_PAIRS = 12
"""Largest number of pairs with their own heatmap; the matrix has all of them."""


def write_lora_page(results: Mapping[str, Any], path: Path) -> None:
    """Writes the page for the contents of lora.json, whole or not at all. Equal results give equal bytes."""
    names = [each["name"] for each in results["adapters"]]
    page = render(
        "lora.html.j2",
        results=results,
        short=short_names(names),
        adapters=_adapters(results),
        matrix=_matrix(results, names),
        pairs=_pairs(results, names),
        pairs_left_out=max(0, len(results["overlaps"]) - MAX_PAIRS),
        arms=_arms(results),
        tests=[_test(each) for each in results["arms"]],
        drift=_drift(results),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page)


def _adapters(results: Mapping[str, Any]) -> list[Drawing]:
    short = short_names([each["name"] for each in results["adapters"]])
    wanted = (("norm", "norm of the update"), ("effective_rank", "effective rank of the update"))
    return [
        drawing(
            f"{key}-{number}",
            short[each["name"]],
            f"{words}, by layer and module",
            heatmap(each["modules"], key),
        )
        for number, each in enumerate(results["adapters"])
        for key, words in wanted
        if each["modules"]
    ]


def _matrix(results: Mapping[str, Any], names: list[str]) -> list[Drawing]:
    if len(names) < 3 or len(set(names)) < len(names):
        return []
    figure = similarity_figure(results["overlaps"], names)
    return [drawing("similarity", "Every two adapters", "cosine of their updates, mean over modules", figure)]


def _pairs(results: Mapping[str, Any], names: list[str]) -> list[Drawing]:
    short = short_names(names)
    return [
        drawing(
            f"cosine-{number}",
            f"{short[pair['first']]} and {short[pair['second']]}",
            "cosine of their updates: 1 the same direction, 0 nothing in common",
            heatmap(pair["modules"], "cosine", signed=True),
        )
        for number, pair in enumerate(results["overlaps"][:MAX_PAIRS])
        if pair["modules"]
    ]


def _arms(results: Mapping[str, Any]) -> list[Drawing]:
    return [
        drawing(
            f"arms-{number}",
            f"{each['first']} against {each['second']}",
            f"distance between arms beyond that of seeds; * adjusted p below {SHOWN:g}",
            heatmap(each["modules"], "excess", signed=True, p_values="p_adjusted"),
        )
        for number, each in enumerate(results["arms"])
        if each["modules"]
    ]


def _test(each: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of arms; smallest_p is None where no arm has two seeds."""
    tested = [row for row in each["modules"] if row["p_adjusted"] is not None]
    return {
        "first": each["first"],
        "second": each["second"],
        "num_tested": len(tested),
        "num_shown": sum(row["p_adjusted"] < SHOWN for row in tested),
        "smallest_p": tested[0]["smallest_p"] if tested else None,
        "can_show": bool(tested) and tested[0]["smallest_p"] * len(tested) < SHOWN,
    }


def _drift(results: Mapping[str, Any]) -> list[Drawing]:
    if not results["drift"]["modules"]:
        return []
    caption = "norm of the difference to the first checkpoint, layers together"
    return [drawing("drift", "How far it went", caption, drift_figure(results["drift"]))]
