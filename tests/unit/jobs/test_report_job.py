from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.cli.report import default_out, main
from polyray.errors import ConfigError, DataError


def training_run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"algorithm": {"type": "grpo"}}')
    (path / "metrics.jsonl").write_text('{"step": 0, "reward_mean": 0.5, "step_s": 1.0}\n')
    return path


def test_page_is_in_the_run_or_above_several_runs(tmp_path: Path) -> None:
    assert default_out([str(tmp_path / "a")]) == tmp_path / "a" / "report.html"
    assert default_out([str(tmp_path / "a"), str(tmp_path / "b")]) == tmp_path.resolve() / "report.html"


def test_report_writes_the_page_and_prints_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training_run(tmp_path / "a")
    assert main([str(run)]) == 0
    assert (run / "report.html").is_file()
    assert str(run / "report.html") in capsys.readouterr().out


def test_check_lists_runs_and_writes_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = training_run(tmp_path / "a")
    assert main([str(run), "--check", "--out", "x.html"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "job": "report", "out": "x.html", "training_runs": {str(run): 1}, "evaluations": {},
    }  # fmt: skip
    assert not (run / "report.html").exists()


def test_empty_directory_and_misspelt_option_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        main([str(tmp_path)])
    with pytest.raises(ConfigError, match="--ot; did you mean --out"):
        main([str(tmp_path), "--ot", "x"])
