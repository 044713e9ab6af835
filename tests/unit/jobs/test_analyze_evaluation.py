"""`polyray analyze evaluation` from command line to files."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest

from polyray.cli.analyze import main
from polyray.errors import ConfigError, DataError
from polyray.shelf.research.evaluated import theory as theory_module
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, write_run

HALF, EASY, HARD = [0, WRONG, WRONG, 1], [0, 0, 1, 1], [WRONG] * 4
MODELS = {"sft": [HALF, HARD, EASY, HALF], "old": [HALF, HALF, EASY, HALF], "new": [EASY, HALF, HALF, EASY]}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory_module, "REFITS", 10)
    monkeypatch.setattr(theory_module, "TEST_RESAMPLES", 9)


def test_analysis_writes_every_file_and_figures_hold_the_values_of_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="old"), tmp_path / "deep" / "out"
    assert main(["evaluation", str(run), "--out", str(out), "--reference", "old"]) == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "conditions.json", "criteria.json",
        "data/collapse.csv", "data/domains.csv", "data/gains.csv", "data/significance.csv", "data/theory.csv",
        "domains.json", "evaluation.html",
        "tables/criteria.md", "tables/criteria.tex", "tables/domains.md", "tables/domains.tex",
        "tables/results.md", "tables/results.tex", "tables/significance.md", "tables/significance.tex",
        "tables/tables.json", "theory.json",
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "eval: code, 3 models, baseline old" in said and str(out / "theory.json") in said
    theory = json.loads((out / "theory.json").read_text())["evaluations"]["eval"]
    samples = run / "evaluation" / "samples.jsonl"
    assert theory["samples"]["sha256"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    curve = theory["models"]["sft"]["curve"]
    with (out / "data" / "theory.csv").open() as file:
        measured = [float(row["measured"]) for row in csv.DictReader(file) if row["model"] == "sft"]
    assert measured == [point["measured"] for point in curve]
    entry = json.loads((out / "conditions.json").read_text())["evaluations"]["eval"]
    assert entry["reference"] == "old"
    with (out / "data" / "gains.csv").open() as file:
        gains = [
            float(row["value"])
            for row in csv.DictReader(file)
            if (row["condition"], row["model"], row["gain"]) == ("difficulty", "new", "pass@2")
        ]
    bins = entry["conditions"]["difficulty"]["models"]["new"]
    assert gains == [each["gains"]["pass@2"]["value"] for each in bins]


def test_second_analysis_removes_files_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = (write_run(tmp_path / name, MODELS, domain=name) for name in ("code", "math"))
    main(["evaluation", str(one), str(two), "--out", str(out)])
    assert (out / "tables" / "results_2.tex").is_file()
    main(["evaluation", str(one), "--out", str(out)])
    assert not (out / "tables" / "results_2.tex").exists() and (out / "tables" / "results.tex").is_file()


def test_check_lists_inputs_and_names_missing_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = write_run(tmp_path / "eval", MODELS, baseline="old"), tmp_path / "out"
    empty = tmp_path / "tables"
    empty.mkdir()
    assert main(["evaluation", str(run), "--out", str(out), "--check"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluations"]["eval"]
    assert (found["models"], found["baseline"], found["reference"]) == (["sft", "old", "new"], "old", "sft")
    with pytest.raises(DataError, match=r"tables .*evaluation/metrics\.json"):
        main(["evaluation", str(empty), "--out", str(out)])
    with pytest.raises(ConfigError, match=r"--reference 'nobody' .*sft, old, new"):
        main(["evaluation", str(run), "--out", str(out), "--reference", "nobody"])
    assert not out.exists()
