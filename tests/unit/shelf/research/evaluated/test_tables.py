from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from polyray.report.numbers import MINUS
from polyray.shelf.research.evaluated.cells import NONE, Cell, Table, amount_text, interval_text, p_text
from polyray.shelf.research.evaluated.criteria import criteria
from polyray.shelf.research.evaluated.domains import domains
from polyray.shelf.research.evaluated.inputs import read_inputs
from polyray.shelf.research.evaluated.table_text import latex, latex_text, markdown, traced
from polyray.shelf.research.evaluated.tables import all_tables
from polyray.shelf.research.lora.contributions import WHOLE
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, at_pointer, write_run

MODELS = {
    "a_b": [[0, WRONG, 0, WRONG], [WRONG] * 4, [0, 1, 2, WRONG], [0] * 4],
    "50 % & more": [[0, 1, 2, 3], [0, WRONG, WRONG, WRONG], [WRONG] * 4, [0] * 4],
}
COST = {"job": "evaluate", "wall_s": 1234.5, "core_s": 25.0, "judge_tokens": 900, "money": None}


def tables_of(*runs: Path) -> dict[str, Table]:
    inputs = read_inputs(runs)
    tables = all_tables(inputs.runs, criteria(inputs), domains(inputs.runs))
    return {table.name: table for table in tables}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Table]:
    run = write_run(tmp_path / "eval", MODELS, ks=(1, 4), baseline="a_b")
    (run / "cost.json").write_text(json.dumps(COST))
    return tables_of(run)


def values_in(row: Sequence[Cell]) -> list[str]:
    """Texts of cells without their intervals."""
    return [cell.text.split(" [")[0] for cell in row]


def test_tables_have_their_columns_and_numbers(tables: dict[str, Table]) -> None:
    assert list(tables) == ["results", "significance", "cost", "criteria", "domains"]
    results = tables["results"]
    assert results.columns == ("model", "pass@1", "pass@4", "USQ@4", "distinct-correct@4")
    assert values_in(results.rows[0])[:3] == ["a_b", "0.562", "0.750"]
    assert values_in(results.rows[1])[4] == "1.50", "4, 1, 0 and 1 classes"
    assert "holm" in tables["significance"].caption
    metrics = ["pass@1", "pass@4", "distinct-correct@4", "USQ@4"]
    significance = [values_in(row)[:2] for row in tables["significance"].rows]
    assert significance == [["50 % & more", metric] for metric in metrics]
    assert tables["cost"].columns == ("run", "wall, s", "cores, s", "tokens of the judge")
    assert [values_in(row)[1:] for row in tables["cost"].rows] == [["1,234", "25", "900"]]


def test_table_of_ablation_turns_the_differences_round(tmp_path: Path) -> None:
    full, none = [[0, 1, 2, WRONG]] * 4, [[0, WRONG, WRONG, WRONG]] * 4
    models = {WHOLE: full, "without layer 3": none, "without layer 4": full}
    run = write_run(tmp_path / "eval", models, ks=(1, 4), baseline=WHOLE)
    table = tables_of(run)["ablation"]
    assert table.columns[1::2] == ("pass@1", "pass@4", "distinct-correct@4")
    assert table.columns[2::2] == ("adjusted p",) * 3
    # 3 of 4 samples pass with it and 1 of 4 without; of 4 candidates 3 classes are correct, and 1.
    assert [[row[0].text, *values_in(row[1::2])] for row in table.rows] == [
        ["layer 3", "+0.500", "0.000", "+2.00"], ["layer 4", "0.000", "0.000", "0.00"],
    ]  # fmt: skip
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    for cell in table.rows[0][1::2]:
        entry = at_pointer(metrics, cell.sources[0].key)
        assert (entry["model"], entry["baseline"]) == ("without layer 3", WHOLE)


def test_tables_have_a_source_for_every_number(tables: dict[str, Table]) -> None:
    written = traced(list(tables.values()))
    looked_up = 0
    for cell in (cell for table in written.values() for cell in table["cells"]):
        has_number = any(character.isdigit() for character in cell["text"])
        if cell["column"] not in ("model", "metric", "criterion", "limit", "k", "domain", "phase", "status"):
            assert bool(cell["sources"]) or not has_number, cell
        for source in cell["sources"]:
            content = Path(source["file"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == source["sha256"]
            value = at_pointer(json.loads(content), source["key"])
            if isinstance(value, dict) and has_number:
                number = value["difference"] if "difference" in value else value["value"]
                assert f"{abs(number):.2f}"[:4] in cell["text"]
            looked_up += 1
    assert looked_up > 30


def test_tables_of_several_runs_are_numbered(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, {"A": MODELS["a_b"]}, domain=name) for name in ("code", "math")]
    assert list(tables_of(*runs)) == ["results_1", "results_2", "criteria", "domains"]


def test_latex_text_escapes_special_characters() -> None:
    assert latex_text("a_b & 50% of {x} #1 $2 ~ ^ \\") == (
        r"a\_b \& 50\% of \{x\} \#1 \$2 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert latex_text(f"LoRA -> GRPO, {MINUS}0.1") == r"LoRA -\textgreater{} GRPO, $-$0.1"
    assert latex_text("[x]") == "{}[x]", "after the end of a row a bracket begins an argument"


def test_latex_and_markdown_of_a_table_are_escaped() -> None:
    table = Table(
        "t", "Caption_1.", ("model", "p"), ((Cell("a|b"), Cell("< 0.0001")), (Cell("*c*"), Cell(NONE))), 1
    )
    assert latex(table) == (
        "\\begin{table}\n\\centering\n\\caption{Caption\\_1.}\n\\label{tab:t}\n\\begin{tabular}{lr}\n\\toprule\n"
        "model & p \\\\\n\\midrule\na\\textbar{}b & \\textless{} 0.0001 \\\\\n{}*c* & -- \\\\\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )
    assert markdown(table) == (
        "Caption\\_1.\n\n| model | p |\n| --- | ---: |\n| a\\|b | \\< 0.0001 |\n| \\*c\\* | " + NONE + " |\n"
    )


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"value": 0.5, "low": 0.25, "high": 0.75}, "0.500 [0.250, 0.750]"),
        ({"value": 0.5, "low": None, "high": None}, "0.500"),
        ({"value": None, "low": None, "high": None}, NONE),
        (None, NONE),
    ],
)
def test_interval_text_leaves_out_missing_numbers(entry: dict[str, float | None] | None, text: str) -> None:
    assert interval_text(entry, 3) == text


def test_number_texts_round_and_mark_missing_ones() -> None:
    difference = {"difference": -0.1, "low": -0.2, "high": 0.1}
    assert interval_text(difference, 2, with_sign=True) == f"{MINUS}0.10 [{MINUS}0.20, +0.10]"
    assert [p_text(value) for value in (0.00001, 0.0123, 1.0, None)] == ["< 0.0001", "0.0123", "1.0000", NONE]
    assert [amount_text(value) for value in (3, 3.14159, 12345.6, None)] == ["3", "3.14", "12,346", NONE]
