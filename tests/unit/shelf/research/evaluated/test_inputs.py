from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.shelf.research.evaluated.inputs import read_inputs
from tests.unit.shelf.research.evaluated.evaluated_fixtures import (
    WRONG,
    change_metrics,
    write_judge,
    write_run,
    write_validated_reward,
)

MODELS = {"A": [[0, WRONG], [1, 0]], "B": [[0, 0], [1, 1]]}


def test_inputs_of_a_directory_are_evaluations_with_their_judges_and_cost(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "eval", MODELS, baseline="B")
    (run / "cost.json").write_text('{"wall_s": 3.5}')
    judged = write_judge(tmp_path / "runs" / "judged", [])
    (judged.parent.parent / "config.json").write_text(
        json.dumps({"samples": str(run / "evaluation" / "samples.jsonl")})
    )
    write_validated_reward(tmp_path / "runs" / "rewards", 0.6)
    found = read_inputs([tmp_path / "runs"])
    [only] = found.runs
    assert (only.label, only.domain, only.models, only.baseline) == ("eval", "code", ["A", "B"], "B")
    assert (only.ks, only.confidence) == ([1, 2], 0.95)
    assert [file.path for file in only.judges] == [judged]
    assert only.cost is not None and only.cost.number("wall_s") == 3.5
    assert [file.path.parent.parent.name for file in found.rewards] == ["rewards"]
    assert found.notes == ()


def test_inputs_name_a_judge_of_other_samples(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS)
    judged = write_judge(tmp_path / "judged", []).parent.parent
    (judged / "config.json").write_text('{"samples": "/elsewhere/samples.jsonl"}')
    found = read_inputs([run, judged])
    assert found.runs[0].judges == ()
    [note] = found.notes
    assert "/elsewhere/samples.jsonl" in note and str(judged.resolve()) in note


def test_inputs_with_equal_names_are_labelled_by_path_once(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a" / "eval", MODELS)
    two = write_run(tmp_path / "b" / "eval", MODELS)
    assert [run.label for run in read_inputs([one, one, two]).runs] == [str(one), str(two)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"/empty .*evaluation/metrics\.json"),
        ("missing", r"/missing .*evaluation/metrics\.json"),
        ("rewards", r"models .*/rewards"),
        ("lacking", r"metrics\.json .*pass_at_k of A"),
        ("torn", r"metrics\.json .*JSON"),
    ],
)
def test_inputs_that_are_unreadable_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    write_validated_reward(tmp_path / "rewards", 0.6)
    change_metrics(write_run(tmp_path / "lacking", MODELS), models={"A": {"pass_at_k": {}}})
    torn = write_run(tmp_path / "torn", MODELS)
    (torn / "evaluation" / "metrics.json").write_text('{"models": {"A"')
    with pytest.raises(DataError, match=message):
        read_inputs([tmp_path / name])
