"""The page about policies inside: attention by head, what hidden states tell apart. One file that loads nothing.

Called by polyray analyze mechanistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from polyray.report.arms import DASHES, PALETTE, SYMBOLS, Arm
from polyray.report.figures import band, empty_figure, line, plain
from polyray.report.pages import Drawing, drawing, render
from polyray.runs.atomic import atomic_write_text
from polyray.shelf.research.lora.figures import heatmap

ATTENTION = (
    (
        "entropy",
        "How spread attention is",
        "relative entropy, mean over heads: 0 one place, 1 all places alike",
    ),
    ("distance", "How far from the reference", "Jensen-Shannon distance on the same tokens, mean over heads"),
)
STATES = (
    ("count", "Groups", "of a prompt's completions, mean over prompts"),
    ("silhouette", "How clear they are", "silhouette: 1 far apart, 0 touching"),
    (
        "stability",
        "Whether they recur",
        "adjusted Rand index of two parts of the completions; about 0: chance",
    ),
    (
        "agreement",
        "Whether they are the solutions",
        "adjusted Rand index with the classes of correct completions",
    ),
)


def write_mechanistic_page(results: Mapping[str, Any], path: Path) -> None:
    """Writes the page for the contents of mechanistic.json, whole or not at all. Equal results give equal bytes."""
    arms = _arms(results)
    page = render(
        "mechanistic.html.j2",
        results=results,
        arms=arms,
        attention=[_by_layer(key, words, results["attention_by_layer"], arms) for key, *words in ATTENTION],
        heads=_heads(results),
        states=[_by_layer(key, words, results["clusters"], arms) for key, *words in STATES],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page)


def _arms(results: Mapping[str, Any]) -> list[Arm]:
    """The reference is grey, as a warm start is everywhere."""
    others = [name for name in results["models"] if name != results["reference"]]
    found = [Arm(results["reference"], results["reference"])]
    for number, name in enumerate(others):
        colour, dash, symbol = (table[number % len(table)] for table in (PALETTE, DASHES, SYMBOLS))
        found.append(Arm(name, name, colour, dash, symbol))
    return found


def _by_layer(
    key: str, words: Sequence[str], entries: Sequence[Mapping[str, Any]], arms: Sequence[Arm]
) -> Drawing:
    title, caption = words
    figure = empty_figure("layer", height=280)
    for arm in arms:
        own = [entry for entry in entries if entry["model"] == arm.label and entry[key] is not None]
        if not own or (key == "distance" and arm is arms[0]):
            continue
        layers = [entry["layer"] for entry in own]
        figure.add_trace(
            band(layers, [entry[f"{key}_low"] for entry in own], [entry[f"{key}_high"] for entry in own], arm)
        )
        trace = line(layers, [entry[key] for entry in own], arm, width=2.2)
        trace.update(mode="lines+markers", marker={"symbol": arm.symbol, "size": 7, "color": arm.colour})
        figure.add_trace(trace.update(hovertemplate=f"%{{y:.3f}}<extra>{plain(arm.label)}</extra>"))
    if not figure.data:
        return Drawing(title, caption, missing=_missing(key))
    figure.update_xaxes(tickvals=sorted({entry["layer"] for entry in entries}))
    return drawing(key, title, caption, figure)


def _missing(key: str) -> str:
    if key == "agreement":
        return "No prompt has correct completions of two classes: there is nothing to agree with."
    if key == "distance":
        return "There is one model only."
    return "No prompt has three completions with different states."


def _heads(results: Mapping[str, Any]) -> list[Drawing]:
    return [
        drawing(
            f"{key}-{number}", name, f"{words}, by layer and head", _grid(results["attention"], name, key)
        )
        for number, name in enumerate(results["models"])
        for key, words in (("entropy", "relative entropy"), ("distance", "distance from the reference"))
        if (key, name) != ("distance", results["reference"])
    ]


def _grid(entries: Sequence[Mapping[str, Any]], name: str, key: str) -> go.Figure:
    own = [
        {"layer": entry["layer"], "module": f"head {entry['head']}", key: entry[key]}
        for entry in entries
        if entry["model"] == name
    ]
    return heatmap(own, key)
