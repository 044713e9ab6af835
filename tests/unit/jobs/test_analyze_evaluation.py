from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from polyray.cli.analyze import main
from polyray.errors import ConfigError, DataError
from polyray.shelf.research.evaluated import theory as theory_module
from tests.unit.shelf.research.evaluated.evaluated_fixtures import WRONG, write_run

ROOT = Path(__file__).resolve().parents[3]
HALF, EASY, HARD = [0, WRONG, WRONG, 1], [0, 0, 1, 1], [WRONG] * 4
MODELS = {"sft": [HALF, HARD, EASY, HALF], "old": [HALF, HALF, EASY, HALF], "new": [EASY, HALF, HALF, EASY]}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory_module, "REFITS", 10)
    monkeypatch.setattr(theory_module, "TEST_RESAMPLES", 9)


def test_writes_all_files_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="old"), tmp_path / "deep" / "out"
    assert main(["evaluation", str(run), "--out", str(out)]) == 0
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
    assert "new against old, 3 bins of difficulty: pass@1 helps in" in said and "criteria: " in said
    theory = json.loads((out / "theory.json").read_text())["evaluations"]["eval"]
    samples = run / "evaluation" / "samples.jsonl"
    assert theory["samples"] == {
        "file": str(samples),
        "sha256": hashlib.sha256(samples.read_bytes()).hexdigest(),
    }


def test_the_data_of_figures_are_the_values_of_the_files(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="old"), tmp_path / "out"
    main(["evaluation", str(run), "--out", str(out), "--reference", "old"])
    with (out / "data" / "theory.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = json.loads((out / "theory.json").read_text())["evaluations"]["eval"]["models"]["sft"]["curve"]
    assert [float(row["measured"]) for row in rows if row["model"] == "sft"] == [p["measured"] for p in curve]
    with (out / "data" / "gains.csv").open() as file:
        gains = list(csv.DictReader(file))
    entry = json.loads((out / "conditions.json").read_text())["evaluations"]["eval"]
    assert entry["reference"] == "old"
    bins = entry["conditions"]["difficulty"]["models"]["new"]
    chosen = [
        row
        for row in gains
        if (row["condition"], row["model"], row["gain"]) == ("difficulty", "new", "pass@2")
    ]
    assert [float(row["value"]) for row in chosen] == [each["gains"]["pass@2"]["value"] for each in bins]


def test_second_analysis_removes_files_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = (write_run(tmp_path / name, MODELS, domain=name) for name in ("code", "math"))
    main(["evaluation", str(one), str(two), "--out", str(out)])
    assert (out / "tables" / "results_2.tex").is_file()
    main(["evaluation", str(one), "--out", str(out)])
    assert not (out / "tables" / "results_2.tex").exists() and (out / "tables" / "results.tex").is_file()


def test_check_lists_inputs_and_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "eval", MODELS, baseline="old")
    assert main(["evaluation", str(run), "--out", str(tmp_path / "out"), "--check"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluations"] == {
        "eval": {
            "domain": "code", "models": ["sft", "old", "new"], "baseline": "old", "reference": "sft",
            "samples": str(run / "evaluation" / "samples.jsonl"), "judges": [], "cost": None,
        }
    }  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_missing_evaluation_and_unknown_reference_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path.name} .*evaluation/metrics\.json"):
        main(["evaluation", str(tmp_path), "--out", "x"])
    run = write_run(tmp_path / "eval", MODELS)
    with pytest.raises(ConfigError, match=r"--reference 'nobody' .*sft, old, new"):
        main(["evaluation", str(run), "--out", str(tmp_path / "out"), "--reference", "nobody"])
    assert not (tmp_path / "out").exists()


def test_neither_torch_nor_ray_is_needed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="old")
    (run / "evaluation" / "samples.jsonl").unlink()
    code = (
        "import sys; from jobs.analyze import main; main(sys.argv[1:]); "
        "import polyray.shelf.research.evaluated.drawings, polyray.shelf.research.evaluated.theory; "
        "print(sorted(set(sys.modules) & {'torch', 'ray', 'vllm', 'transformers'}))"
    )
    command = [sys.executable, "-c", code, "evaluation", str(run), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
