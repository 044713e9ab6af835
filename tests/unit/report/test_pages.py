"""Rules of all pages: no loading, escaped text, colours with contrast."""

from __future__ import annotations

import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.colors import sample_colorscale

from polyray.report.arms import PALETTE, WARM_START_COLOUR
from polyray.report.figures import OTHER_COLOUR, TIME_PARTS
from polyray.report.pages import TEMPLATES, Drawing, drawing, installed_versions
from polyray.report.sweep.figures import BASELINE_COLOUR, SCALE
from polyray.shelf.preferences.curation_report import _COLOURS

BASE = (TEMPLATES / "base.html.j2").read_text()
EVIL = "</script><img src=x onerror=alert(1)>"


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2, from #rrggbb, #rgb or rgb(r, g, b)."""
    if colour.startswith("#"):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        channels = [int(digits[at : at + 2], 16) for at in (0, 2, 4)]
    else:
        channels = [float(part) for part in re.findall(r"[\d.]+", colour)]
    red, green, blue = (
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in channels)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def tokens(ground: str) -> dict[str, str]:
    """The colours of `light` or `dark`, from the template."""
    blocks = {"light": r":root \{ (--ink.*?)color-scheme: light", "dark": r"set dark %\}(.*?)\{% endset"}
    found = re.search(blocks[ground], BASE, re.DOTALL)
    assert found is not None
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", found[1]))


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21.0)
    assert contrast("rgb(119, 119, 119)", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_colours_have_contrast_on_both_grounds(ground: str) -> None:
    card = tokens(ground)["card"]
    scale = [str(colour) for colour in sample_colorscale(SCALE, 21)]
    parts = [colour for _, _, colour in TIME_PARTS]
    colours = (*PALETTE, WARM_START_COLOUR, OTHER_COLOUR, BASELINE_COLOUR, *parts, *_COLOURS.values(), *scale)
    assert {
        colour: round(contrast(colour, card), 2) for colour in colours if contrast(colour, card) < 3
    } == {}


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_text_is_read_on_both_grounds(ground: str) -> None:
    found = tokens(ground)
    pairs = [("ink", "card"), ("soft", "card"), ("faint", "card"), ("accent", "card"), ("ink", "ground")]
    pairs += [("good", "good-fill"), ("bad", "bad-fill"), ("ink", "note-fill"), ("ink", "alarm-fill")]
    pairs += [("soft", "fill"), ("soft", "note-fill"), ("faint", "ground")]
    low = {pair: contrast(found[pair[0]], found[pair[1]]) for pair in pairs}
    assert {pair: round(value, 2) for pair, value in low.items() if value < 4.5} == {}
    assert tokens("light").keys() == tokens("dark").keys(), "a token of one ground only"


def test_a_drawing_carries_its_figure_and_its_words() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[0.5, float("nan")], name=EVIL), {"height": 230})
    found = drawing("rl-entropy", "Entropy", "nats per token", figure)
    assert (found.height, found.label) == (230, "Entropy: nats per token")
    assert "<" not in found.json and "\\u003cimg src=x" in found.json
    trace: dict[str, Any] = json.loads(found.json)["data"][0]
    assert (trace["y"], trace["name"]) == ([0.5, None], EVIL)
    assert drawing("times", "", "", go.Figure()).label == "times"
    assert Drawing("Entropy", "", missing="No number.").json == ""


def test_style_rule_is_in_one_template_only() -> None:
    """A rule is in base.html.j2 or in one page, not in two."""
    seen: dict[str, str] = {}
    for path in sorted(TEMPLATES.glob("*.html.j2")):
        text = path.read_text()
        style = re.search(
            r"<style>(.*?)</style>" if path.name.startswith("base") else r"block style %\}(.*?)\{% endblock",
            text,
            re.S,
        )
        for rule in re.findall(r"(?m)(?:^|\} )([^{}@\n]+) \{", style[1] if style else ""):
            known = seen.setdefault(rule.strip(), path.name)
            assert known == path.name, f"{rule.strip()} is styled in {known} and {path.name}"
    assert {"body", ".board", "tr.chosen td"} <= seen.keys()


def test_installed_versions_begin_with_python() -> None:
    found = installed_versions()
    assert next(iter(found)) == "python" and "plotly" in found
