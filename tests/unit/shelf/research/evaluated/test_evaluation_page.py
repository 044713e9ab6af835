"""The page of an analysis of evaluations, with and without each part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polyray.shelf.research.evaluated import theory as theory_module
from polyray.shelf.research.evaluated.files import write_results
from polyray.shelf.research.evaluated.inputs import read_inputs
from polyray.shelf.research.evaluated.results import analyse
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, write_run

HALF, EASY, HARD = [0, WRONG, WRONG, 1], [0, 0, 1, 1], [WRONG] * 4
MODELS = {
    "sft": [HALF, HARD, EASY, HALF],
    "old": [HALF, HALF, EASY, EASY],
    "<b>new": [EASY, HARD, HALF, EASY],
}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory_module, "REFITS", 10)
    monkeypatch.setattr(theory_module, "TEST_RESAMPLES", 9)


def page_of(*runs: Path) -> str:
    out = runs[0].parent / "out"
    write_results(analyse(read_inputs(runs)), out)
    return (out / "evaluation.html").read_text()


def cells(page: str, table: str) -> list[list[str]]:
    """The text of each cell of a table, row by row."""
    found = re.search(rf'<table id="table-{table}">(.*?)</table>', page, re.DOTALL)
    assert found is not None, table
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def test_page_has_tables_figures_and_worst_prompts(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="old"))
    assert [row[0] for row in cells(page, "results")] == ["model", "sft", "old", "&lt;b&gt;new"]
    assert cells(page, "results")[2][1].startswith("0.750 [")
    assert cells(page, "criteria")[0] == ["domain", "model", "criterion", "value", "limit", "status"]
    for name in ("theory", "significance", "collapse", "domains", "gain_by_difficulty"):
        assert f'id="figure-{name}"' in page
    # Of prompt 1 `old` has passes at samples 0 and 3, `<b>new` none: half is lost on either half of the samples.
    worst = page[page.index('<section id="worst">') :]
    assert "<code>prompt 1</code>" in worst and "pass@1 lost: 0.50 (chosen with 0.50)" in worst
    assert "&lt;b&gt;new against old" in worst and "old 3" in worst and "<b>new" not in page


def test_page_without_samples_names_the_missing_file_and_keeps_the_rest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="old")
    (run / "evaluation" / "samples.jsonl").unlink()
    page = page_of(run)
    assert "samples.jsonl was not kept" in page
    assert 'id="worst"' not in page and 'id="figure-theory"' not in page
    assert all(f'id="figure-{name}"' in page for name in ("significance", "collapse", "domains"))
