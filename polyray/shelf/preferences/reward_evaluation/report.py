"""report.html of a reward validation: one self-contained page, the verdict in words first.

Everything is inline, with one copy of plotly.js; the page opens without a network. All text from data is escaped
by the template. Called by pipeline.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from polyray.config.reward_validation import RewardValidationConfig
from polyray.shelf.preferences.reward_evaluation import figures
from polyray.shelf.preferences.reward_evaluation.held_out import Texts

FIGURE_OPTIONS = {"displayModeBar": False, "responsive": True}
MAX_TEXT_CHARS = 400
METRICS = (
    (
        "pairwise_accuracy",
        "Pairwise accuracy",
        "share of pairs in which the better one scores higher; ties half",
    ),
    ("pairwise_accuracy_by_prompt", "..., prompts equal", "each prompt weighs the same"),
    ("pairwise_accuracy_length_matched", "..., equal lengths", "pairs whose lengths hardly differ"),
    ("spearman_within", "Spearman within prompt", "mean over prompts; equal scores count as 0"),
    ("kendall_within", "Kendall within prompt", "tau-b"),
    ("spearman", "Spearman, all", "over all completions"),
    ("pearson", "Pearson, all", "over all completions"),
    ("spearman_without_prompt_means", "Spearman, centred", "each prompt's mean taken off both sides"),
    ("pearson_without_prompt_means", "Pearson, centred", "each prompt's mean taken off both sides"),
    ("expected_calibration_error", "Calibration error", "mean |stated - observed| over bins"),
    ("brier", "Brier score", "a coin has 0.25"),
    ("log_loss", "Log loss", "nats; a coin has 0.693"),
    ("temperature", "Best temperature", "1 is calibrated, above 1 too sure"),
    ("length_spearman", "Spearman with length", "how much of the score is length"),
    ("length_spearman_without_prompt_means", "..., centred", "within prompts"),
)
_NO_TEMPERATURE = 1e5
"""A fitted temperature near the end of its range: the scores say nothing, or are right about everything."""


@dataclass(frozen=True)
class PageData:
    """Contents of the page.

    Example:
        PageData(metrics={...}, slices=[...], mistakes=[...], scores={"model": np.array([.1])}, texts=Texts(...))
    """

    metrics: Mapping[str, Any]
    slices: Sequence[Mapping[str, Any]]
    mistakes: Sequence[Mapping[str, Any]]
    scores: Mapping[str, np.ndarray]
    """Scores of the models."""
    texts: Texts


def build_page(config: RewardValidationConfig, data: PageData) -> str:
    """The page as a string."""
    palette = figures.colours(list(config.models))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cut"] = _cut
    model_rows = [row for row in data.slices if row["scorer"] in palette]
    has_probes = any(probe["n"] for found in data.metrics["probes"].values() for probe in found.values())
    return environment.get_template("reward_validation.html.j2").render(
        title=config.name,
        metrics=data.metrics,
        palette=palette,
        plotly_js=Markup(get_plotlyjs()),
        table=_table(data.metrics),
        accuracy=_html(figures.accuracy_figure(data.metrics, palette), "accuracy"),
        reliability=_html(figures.reliability_figure(data.metrics, palette), "reliability"),
        slices=_html(figures.slice_figure(model_rows, palette), "slices") if model_rows else None,
        probes=_html(figures.probe_figure(data.metrics["probes"], palette), "probes") if has_probes else None,
        length=_html(figures.length_figure(data.scores, data.texts, palette), "length"),
        mistakes=data.mistakes,
        config_json=config.model_dump_json(indent=2),
    )


def _table(metrics: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(title, explanation, one cell per scorer) for every metric that some scorer has."""
    return [
        (title, meaning, [_cell(values.get(key)) for values in metrics["models"].values()])
        for key, title, meaning in METRICS
        if any(key in values for values in metrics["models"].values())
    ]


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    value, low, high = (entry["value"][name] for name in ("value", "low", "high"))
    if value > _NO_TEMPERATURE:
        return "none fits"
    return f"{value:.3f} [{low:.3f}, {'no end' if high > _NO_TEMPERATURE else f'{high:.3f}'}]"


def _html(figure: go.Figure, name: str) -> Markup:
    return Markup(
        figure.to_html(
            full_html=False, include_plotlyjs=False, config=FIGURE_OPTIONS, div_id=f"figure-{name}"
        )
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]} [...]"
