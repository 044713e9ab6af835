"""The page about a curated data set: what was kept and why the rest was not, and how the parts compare.

`report_numbers` is report.json; the page shows nothing that is not in it, loads nothing from anywhere, and escapes
all text. Equal data give equal bytes. Called by polyray curate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from polyray.config.curate import CurateConfig
from polyray.data.splits import seeded_rank
from polyray.data.words import words_of
from polyray.report.figures import empty_figure
from polyray.report.pages import Drawing, drawing, render
from polyray.shelf.preferences.curation.pipeline import Curated
from polyray.shelf.preferences.curation.statistics import groups_of
from polyray.shelf.preferences.engagement import EngagementRecord

BINS = 30
EXAMPLES_PER_REASON = 5
EXCERPT_CHARS = 200
_HEIGHT = 260
_COLOURS = {
    "train/sft": "#0072b2",
    "train/rl": "#a88600",
    "validation": "#009e73",
    "test": "#8e6bbf",
    "all": "#7a7f87",
}
_KEPT_COLOUR, _DROPPED_COLOUR = "#009e73", "#8a929c"


def report_numbers(
    config: CurateConfig, records: Sequence[EngagementRecord], curated: Curated
) -> dict[str, Any]:
    """Numbers of the page. `records` are those of the source."""
    groups = {"all": curated.kept, **groups_of(curated.kept)}
    shown = {name: members for name, members in groups.items() if members and name != "train"}
    histograms = {
        "engagement": _histograms({name: [r.engagement for r in own] for name, own in shown.items()}),
        "words": _histograms(
            {name: [float(len(words_of(r.completion))) for r in own] for name, own in shown.items()}
        ),
    }
    if curated.tokens:
        tokens = {
            name: [float(curated.tokens[r.record_id].total) for r in own] for name, own in shown.items()
        }
        histograms["tokens"] = _histograms(tokens)
    return {
        "name": config.name,
        "statistics": curated.statistics,
        "histograms": histograms,
        "examples": _examples(config, records, curated),
        "configuration": config.model_dump(mode="json", exclude={"base_dir", "runs_dir", "ray"}),
    }


def excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARS else f"{line[: EXCERPT_CHARS - 1].rstrip()}\u2026"


def curation_page(numbers: Mapping[str, Any]) -> str:
    """The page as a string."""
    return render(
        "curation.html.j2", numbers=numbers, statistics=numbers["statistics"], drawings=_drawings(numbers)
    )


def _examples(
    config: CurateConfig, records: Sequence[EngagementRecord], curated: Curated
) -> dict[str, list[dict[str, Any]]]:
    """Reason -> a few records that went for it, drawn by the seed; the most frequent reason first."""
    by_reason: dict[str, list[EngagementRecord]] = {reason: [] for reason in curated.statistics["dropped"]}
    for record in records:
        if record.record_id in curated.dropped:
            by_reason[curated.dropped[record.record_id][0]].append(record)
    return {
        reason: [
            {
                "record_id": record.record_id,
                "detail": excerpt(curated.dropped[record.record_id][1]),
                "engagement": record.engagement,
                "prompt": excerpt(record.prompt),
                "completion": excerpt(record.completion),
            }
            for record in sorted(gone, key=lambda item: seeded_rank(config.seed, item.record_id))[
                :EXAMPLES_PER_REASON
            ]
        ]
        for reason, gone in by_reason.items()
    }


def _histograms(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Shares of each group's values in common bins between the 0.5 and 99.5 % quantiles; the ends hold the rest."""
    low, high = np.quantile(np.sort(np.asarray(values["all"], np.float64)), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    if all(float(value).is_integer() for value in values["all"]):  # counts: bins of whole numbers
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        edges = np.arange(np.floor(low), np.ceil(high) + width + 1, width) - 0.5
    shares = {
        name: (np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] / len(own)).tolist()
        for name, own in values.items()
    }
    return {"edges": edges.tolist(), "shares": shares}


def _drawings(numbers: Mapping[str, Any]) -> list[Drawing]:
    statistics = numbers["statistics"]
    drawings = [
        drawing(
            "kept",
            "Kept and dropped",
            f"of {statistics['source']['records']:,} records",
            _kept_figure(statistics),
        ),
        drawing(
            "engagement",
            "Engagement by part",
            "share of a part's records; equal curves mean balanced parts",
            _histogram_figure(numbers["histograms"]["engagement"], "engagement"),
        ),
        drawing(
            "strata",
            "Strata by part",
            "share of a part's records in each stratum of engagement",
            _strata_figure(statistics["balance"]),
        ),
        drawing(
            "words",
            "Length of completions",
            "words; the last bar holds all longer ones",
            _histogram_figure(numbers["histograms"]["words"], "words"),
        ),
    ]
    if "tokens" in numbers["histograms"]:
        above, limit = statistics["tokens"]["above"], statistics["tokens"]["max_tokens"]
        caption = f"prompt and completion; {above:,} above {limit:,}"
        figure = _histogram_figure(numbers["histograms"]["tokens"], "tokens")
        drawings.append(drawing("tokens", "Tokens", caption, figure))
    if "languages" in statistics:
        undecided = statistics["languages"].get("undecided", 0)
        caption = f"of completions; {undecided:,} too short or too uncertain to tell"
        drawings.append(drawing("languages", "Languages", caption, _bar_figure(statistics["languages"])))
    if "selection" in statistics:
        drawings.append(
            drawing(
                "selection",
                "Diversity of the chosen",
                "mean cosine distance, beside as many at random and as many with the most engagement",
                _selection_figure(statistics["selection"]),
            )
        )
    return drawings


def _kept_figure(statistics: Mapping[str, Any]) -> go.Figure:
    return _bar_figure({"kept": statistics["kept"], **statistics["dropped"]}, first_colour=_KEPT_COLOUR)


def _bar_figure(counts: Mapping[str, int], first_colour: str = _DROPPED_COLOUR) -> go.Figure:
    names = list(counts)[:20]
    figure = empty_figure("records", max(_HEIGHT, 60 + 26 * len(names)))
    figure.add_bar(
        x=[counts[name] for name in names],
        y=names,
        orientation="h",
        marker={"color": [first_colour, *[_DROPPED_COLOUR] * (len(names) - 1)]},
        text=[f"{counts[name]:,}" for name in names],
        textposition="auto",
    )
    figure.update_layout(hovermode="closest", margin={"l": 130, "r": 12, "t": 10, "b": 44})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _histogram_figure(histogram: Mapping[str, Any], x_title: str) -> go.Figure:
    figure = empty_figure(x_title, _HEIGHT)
    edges = histogram["edges"]
    for name, shares in histogram["shares"].items():
        figure.add_scatter(
            x=edges,
            y=[*shares, shares[-1]],
            name=name,
            mode="lines",
            line={"shape": "hv", "width": 3 if name == "all" else 1.5, "color": _COLOURS[name]},
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12})
    figure.update_yaxes(tickformat=".0%")
    return figure


def _strata_figure(balance: Mapping[str, Any]) -> go.Figure:
    figure = empty_figure("stratum, from little to much engagement", _HEIGHT)
    for name, shares in balance["shares"].items():
        if name != "train":
            figure.add_bar(
                x=[str(number + 1) for number in range(len(shares))],
                y=shares,
                name=name,
                marker={"color": _COLOURS[name]},
            )
    figure.update_layout(barmode="group", showlegend=True, legend={"orientation": "h", "y": 1.12})
    figure.update_yaxes(tickformat=".0%")
    return figure


def _selection_figure(selection: Mapping[str, Any]) -> go.Figure:
    figure = empty_figure("", _HEIGHT)
    labels = {"random": "random", "most_engagement": "most engagement", "chosen": "chosen"}
    for key, colour in (("mean_pairwise_distance", "#0072b2"), ("mean_nearest_distance", "#a88600")):
        names = [name for name in labels if selection[name].get(key) is not None]
        figure.add_bar(
            x=[labels[name] for name in names],
            y=[selection[name][key] for name in names],
            name=key.removeprefix("mean_").replace("_", " "),
            marker={"color": colour},
        )
    figure.update_layout(barmode="group", showlegend=True, legend={"orientation": "h", "y": 1.12})
    return figure
