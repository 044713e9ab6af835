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


def test_directory_gives_evaluations_with_their_judges_and_cost(tmp_path: Path) -> None:
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


def test_a_judge_of_other_samples_is_named_and_not_used(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS)
    judged = write_judge(tmp_path / "judged", []).parent.parent
    (judged / "config.json").write_text('{"samples": "/elsewhere/samples.jsonl"}')
    found = read_inputs([run, judged])
    assert found.runs[0].judges == ()
    [note] = found.notes
    assert "/elsewhere/samples.jsonl" in note and str(judged.resolve()) in note


def test_equal_names_become_paths_and_a_path_given_twice_is_one_run(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a" / "eval", MODELS)
    two = write_run(tmp_path / "b" / "eval", MODELS)
    assert [run.label for run in read_inputs([one, one, two]).runs] == [str(one), str(two)]


def test_unreadable_input_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"/empty .*evaluation/metrics\.json"):
        read_inputs([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"/missing .*evaluation/metrics\.json"):
        read_inputs([tmp_path / "missing"])
    rewards = write_validated_reward(tmp_path / "rewards", 0.6)
    with pytest.raises(DataError, match=r"models .*/rewards"):
        read_inputs([rewards])
    run = write_run(tmp_path / "eval", MODELS)
    change_metrics(run, models={"A": {"pass_at_k": {}}})
    with pytest.raises(DataError, match=r"metrics\.json .*pass_at_k of A"):
        read_inputs([run])
    (run / "evaluation" / "metrics.json").write_text('{"models": {"A"')
    with pytest.raises(DataError, match=r"metrics\.json .*JSON"):
        read_inputs([run])
