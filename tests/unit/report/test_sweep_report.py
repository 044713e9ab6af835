"""The page of a sweep: its tables hold the numbers of results.json, and it loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
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


class Tables(HTMLParser):
    """id of a table -> rows of cells' texts; captions apart."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.captions: dict[str, str] = {}
        self._table = self._place = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        if tag in ("caption", "td", "th"):
            self._place = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._place:
            self._place = ""

    def handle_data(self, data: str) -> None:
        if self._place == "caption":
            self.captions[self._table] = data
        elif self._place:
            self.rows[self._table][-1][-1] += data


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


def tables_of(page: str) -> Tables:
    found = Tables()
    found.feed(page)
    return found


def traces(figure: Any) -> list[Any]:
    """Traces of a go.Figure, without its own narrower type."""
    return list(figure.data)


def test_every_table_names_the_objective(page) -> None:
    tables = tables_of(page)
    assert list(tables.rows) == ["differences", "by-setting", "tests", "cost-table", "trial-table"]
    for table in tables.rows:
        assert tables.captions[table].startswith(f"λ of {OBJECTIVE} ({AXIS}): "), table


def test_tables_hold_the_numbers(page) -> None:
    rows = tables_of(page).rows
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
    assert "http://" not in page and "https://" not in page
    assert "@import" not in page and "<link" not in page and "url(" not in page
    assert "default-src 'none'" in page
    assert EVIL not in page and "&lt;img src=x onerror=alert(1)&gt;" in page


def test_equal_results_give_equal_bytes_also_from_the_file(results, tmp_path: Path) -> None:
    write_sweep_report(results, tmp_path / "a.html")
    write_sweep_report(json.loads(json.dumps(results)), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_curves_and_front_draw_the_numbers(results) -> None:
    lines = {trace.name: trace for trace in traces(figures.curve_figure(results, "pass_at_k")) if trace.name}
    assert list(lines["λ = 0.5, lr = 0.0001"].y) == pytest.approx([0.625, 11 / 12])
    assert lines["λ = 0, lr = 0.0001"].line.dash == "dash", "the baseline"
    big = [trace for trace in traces(figures.frontier_figure(results)) if trace.error_x.array is not None]
    assert [(trace.x[0], trace.y[0]) for trace in big] == [(0.25, 0.5), (0.625, 1.25)]
    assert [trace.marker.symbol for trace in big] == ["circle", "diamond"]
    share = figures.share_figure(results)
    assert share is not None
    assert [trace.y[0] for trace in traces(share) if trace.mode == "markers" and trace.marker.size == 11] == [
        0.25
    ]


def test_parallel_coordinates_have_an_axis_for_each_parameter_and_metric(results) -> None:
    axes = {axis.label: axis for axis in traces(parallel_figure(results))[0].dimensions}
    assert list(axes) == ["λ", "lr", "seed", "pass@1", "distinct-correct@2", "pass@2"]
    assert list(axes["λ"].values) == [0.0, 0.0, 0.5, 0.5], "the four that count"
    assert list(axes["pass@1"].values) == [0.25, 0.25, 0.75, 0.5]
    assert list(axes["seed"].ticktext) == ["0", "1"]


def test_many_random_values_have_a_colour_bar_and_no_tests(tmp_path: Path) -> None:
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
    assert "tests" not in tables_of(PLOTLY.sub("", page)).rows


def test_how_settings_were_chosen_and_the_front_of_the_search(tmp_path: Path) -> None:
    counts = {"a0": (0.25, [1, 2]), "a1": (0.25, [1, 2]), "b0": (1.0, [2, 2])}
    note = SearchNote(words="Optuna suggested <them>.", on_front=("a0", "a1"))
    results = sweep_of(tmp_path, counts, search=note)
    assert results["search"] == {"words": "Optuna suggested <them>.", "front": ["λ = 0.25, lr = 0.0001"]}
    write_sweep_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Optuna suggested &lt;them&gt;." in page
    assert re.search("front of the search.*: λ = 0.25, lr = 0.0001", page)


def test_words_that_are_swept_are_codes(tmp_path: Path) -> None:
    counts = {"a0": (0.0, [1, 2]), "b0": (1.0, [2, 2])}
    results = sweep_of(tmp_path, counts)
    for row, word in zip(results["trials"], ("<b>", "plain"), strict=True):
        row["parameters"]["loss.kind"] = word
    axis = next(axis for axis in traces(parallel_figure(results))[0].dimensions if axis.label == "kind")
    assert list(axis.values) == [0, 1] and list(axis.ticktext) == ["&lt;b&gt;", "plain"]
