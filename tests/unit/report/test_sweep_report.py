"""The page of a sweep: its tables hold the numbers of results.json, and it loads nothing."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyray.report.sweep import figures
from polyray.report.sweep.parallel import parallel_figure
from polyray.report.sweep.report import write_sweep_report
from polyray.report.sweep.results import sweep_results
from polyray.report.sweep.search import SearchNote
from tests.unit.report.sweep_fixtures import AXIS, trial, write_evaluation, write_run

EVIL = "<img src=x onerror=alert(1)></script>"
PLOTLY = re.compile(r"<script>/\*\*\n\* plotly.js.*?</script>", re.DOTALL)
OBJECTIVE = "the pairwise set objective"


def tables_of(page: str) -> tuple[dict[str, list[list[str]]], dict[str, str]]:
    """Rows of cells' texts, and the caption, by id of the table."""
    rows, captions = {}, {}
    for name, table in re.findall(r'<table[^>]* id="([^"]+)"[^>]*>(.*?)</table>', page, re.DOTALL):
        caption = re.search(r"<caption[^>]*>(.*?)</caption>", table, re.DOTALL)
        captions[name] = "" if caption is None else text_of(caption[1])
        rows[name] = [
            [text_of(cell) for cell in re.findall(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
            for row in re.findall(r"<tr\b[^>]*>(.*?)</tr>", table, re.DOTALL)
        ]
    return rows, captions


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def sweep_of(root: Path, counts: dict[str, tuple[float, list[int]]], **changes: Any) -> dict[str, Any]:
    """`counts`: trial -> value of λ, correct samples of 4 per prompt; seeds by the last letter."""
    evaluation = write_evaluation(root / "evaluation", {name: row for name, (_, row) in counts.items()})
    trials = [
        trial(name, value, int(name[-1]), others={"learner.lr": 1e-4}) for name, (value, _) in counts.items()
    ]
    runs = {name: write_run(root / name, [(0.75, 0.25)]) for name, (value, _) in counts.items() if value}
    settings: dict[str, Any] = {
        "axis": AXIS, "objective": OBJECTIVE, "baseline": 0.0, "quality": "pass_at_1",
        "diversity": "distinct_correct_at_2", "ks": (1, 2), "margin": 0.1, "seed": 0,
    }  # fmt: skip
    more = changes.pop("more", [])
    return sweep_results([*trials, *more], evaluation, runs, **(settings | changes))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    counts = {"p0": (0.0, [1] * 12), "p1": (0.0, [1] * 12), "d0": (0.5, [3] * 12), "d1": (0.5, [2] * 12)}
    others = {"learner.lr": 1e-4}
    more = [
        trial("f2", 0.5, 2, others=others, status="failed", error=EVIL),
        trial("s0", 2.0, 0, others=others, status="stopped"),
    ]
    return sweep_of(tmp_path_factory.mktemp("sweep"), counts, more=more)


@pytest.fixture(scope="module")
def page(results, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    write_sweep_report(results, path)
    short, count = PLOTLY.subn("", path.read_text())
    assert count == 1, "plotly.js must be inlined exactly once"
    return short


def traces(figure: Any) -> list[Any]:
    """Traces of a go.Figure, without its own narrower type."""
    return list(figure.data)


def test_page_tables_hold_the_numbers_and_name_the_objective(page) -> None:
    rows, captions = tables_of(page)
    assert list(rows) == ["differences", "by-setting", "tests", "cost-table", "trial-table"]
    assert all(captions[name].startswith(f"λ of {OBJECTIVE} ({AXIS}): ") for name in rows)
    label = "λ = 0.5, lr = 0.0001"
    # Of 4 samples 3 and 2 are right: pass@1 5/8, distinct-correct@2 1.25, pass@2 (1 + 5/6) / 2.
    assert rows["by-setting"][2] == [
        label, "2 of 3", "0.625 [0.500, 0.750]", "1.250 [1.000, 1.500]", "0.917 [0.833, 1.000]", "yes", "25 %"
    ]  # fmt: skip
    assert rows["by-setting"][1][-1] == "none logged"
    tests = {row[1]: row for row in rows["tests"][1:]}
    assert tests["pass@2"][:5] == [label, "pass@2", "0.500", "0.917", "+0.417 [+0.333, +0.500]"]
    assert tests["pass@2"][-1] == "higher"
    cost = rows["cost-table"][2]
    # 1000 tokens for 41.7 points.
    assert cost[0] == label and cost[4:6] == ["1,000", "+0.417"] and cost[-1] == "24"
    trials = {row[0]: row for row in rows["trial-table"][1:]}
    assert list(trials) == ["p0", "p1", "d0", "d1", "f2", "s0"]
    assert trials["d0"][6:9] == ["0.750", "1.500", "1.000"]
    assert trials["f2"][3] == f"failed: {EVIL}" and trials["f2"][6] == "\N{EN DASH}"
    assert rows["differences"][1][0] == "λ = 0, lr = 0.0001"


def test_page_names_rule_family_and_left_out_settings(page, results) -> None:
    assert "Recommended: λ = 0, lr = 0.0001" in page, "the only setting without a lost seed"
    assert re.search("[^.]*seed[^.]*: λ = 0.5, lr = 0.0001", page)
    assert "4 tests: 4 metrics x 1 settings" in page
    assert "(0, 0)" in page
    assert re.search("<b>s0</b> stopped .*60 steps", page)
    assert results["left_out"].keys() == {"f2", "s0"}
    for name in ("criterion", "share", "front", "pass_at_k", "usq_at_k", "distinct_correct_at_k", "parallel"):
        assert page.count(f'id="figure-{name}"') == 1, name


def test_page_loads_nothing_and_escapes_text_of_trials(page) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page and "<link" not in page and "url(" not in page
    assert "default-src 'none'" in page
    assert EVIL not in page and "&lt;img src=x onerror=alert(1)&gt;" in page


def test_page_of_equal_results_has_equal_bytes(results, tmp_path: Path) -> None:
    write_sweep_report(results, tmp_path / "a.html")
    write_sweep_report(json.loads(json.dumps(results)), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_draw_the_numbers(results) -> None:
    lines = {trace.name: trace for trace in traces(figures.curve_figure(results, "pass_at_k")) if trace.name}
    assert list(lines["λ = 0.5, lr = 0.0001"].y) == pytest.approx([0.625, 11 / 12])
    assert lines["λ = 0, lr = 0.0001"].line.dash == "dash", "the baseline"
    big = [trace for trace in traces(figures.frontier_figure(results)) if trace.error_x.array is not None]
    assert [(trace.x[0], trace.y[0]) for trace in big] == [(0.25, 0.5), (0.625, 1.25)]
    assert [trace.marker.symbol for trace in big] == ["circle", "diamond"]
    share = figures.share_figure(results)
    assert share is not None
    points = [trace for trace in traces(share) if trace.mode == "markers" and trace.marker.size == 11]
    assert [trace.y[0] for trace in points] == [0.25]
    axes = {axis.label: axis for axis in traces(parallel_figure(results))[0].dimensions}
    assert list(axes) == ["λ", "lr", "seed", "pass@1", "distinct-correct@2", "pass@2"]
    assert list(axes["λ"].values) == [0.0, 0.0, 0.5, 0.5], "the four that count"
    assert list(axes["pass@1"].values) == [0.25, 0.25, 0.75, 0.5]
    assert list(axes["seed"].ticktext) == ["0", "1"]


def test_page_of_many_random_values_has_a_colour_bar_and_no_tests(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-3, 1, 15)
    counts = {f"t{number}-0": (float(10**value), [number % 4, 1, 2]) for number, value in enumerate(values)}
    results = sweep_of(tmp_path, counts)
    assert len(results["settings"]) == 15 and results["comparisons"]["pairs"] == []
    figure = figures.curve_figure(results, "pass_at_k")
    assert not figure.layout.showlegend
    bar = traces(figure)[-1].marker.colorbar
    assert list(bar.ticktext) == [f"{np.sort(10**values)[place]:.3g}" for place in (0, 7, 14)]
    assert figures.criterion_figure(results).layout.xaxis.type == "log"
    axis = traces(parallel_figure(results))[0].dimensions[0]
    assert list(axis.values) == pytest.approx(np.log10([row["value"] for row in results["trials"]]).tolist())
    write_sweep_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Every setting has one seed" in page
    assert "tests" not in tables_of(PLOTLY.sub("", page))[0]


def test_page_shows_the_search_and_swept_words_are_codes(tmp_path: Path) -> None:
    counts = {"a0": (0.25, [1, 2]), "a1": (0.25, [1, 2]), "b0": (1.0, [2, 2])}
    note = SearchNote(words="Optuna suggested <them>.", on_front=("a0", "a1"))
    results = sweep_of(tmp_path, counts, search=note)
    assert results["search"] == {"words": "Optuna suggested <them>.", "front": ["λ = 0.25, lr = 0.0001"]}
    write_sweep_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert re.search(
        "Optuna suggested &lt;them&gt;.*front of the search.*: λ = 0.25, lr = 0.0001", page, re.S
    )
    for row, word in zip(results["trials"], ("<b>", "plain", "plain"), strict=True):
        row["parameters"]["loss.kind"] = word
    axis = next(axis for axis in traces(parallel_figure(results))[0].dimensions if axis.label == "kind")
    assert list(axis.values) == [0, 1, 1] and list(axis.ticktext) == ["&lt;b&gt;", "plain"]
