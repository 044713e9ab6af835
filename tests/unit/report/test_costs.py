"""cost.json files as one table of computational cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from polyray.report.costs import read_costs
from polyray.runs.cost import Cost

TRAIN = Cost("train", 1, 7200.0, 14400.0, 7200.0, 500, 400, money=2.0)
JUDGED = Cost("judge", 1, 3600.0, 3600.0, judge_requests=9, judge_tokens=900, judge_money=0.75, money=0.75)


def write(run: Path, cost: Cost) -> Path:
    run.mkdir(parents=True)
    (run / "cost.json").write_text(json.dumps(asdict(cost)))
    return run


def test_costs_have_a_row_per_run_and_their_sum(tmp_path: Path) -> None:
    first, verdicts = write(tmp_path / "first", TRAIN), write(tmp_path / "verdicts", JUDGED)
    table = read_costs([first, verdicts, str(first)])
    assert [(row.run, row.cost.job) for row in table.rows] == [
        ("first", "train"), ("verdicts", "judge"), ("all", ""),
    ]  # fmt: skip
    assert table.rows[0].texts == ("120 min", "4", "2", "500", "400", "0", "2 USD")
    assert table.rows[2].texts == ("180 min", "5", "2", "500", "400", "900", "2.75 USD")
    assert table.problems == ()


def test_costs_of_one_run_have_no_sum(tmp_path: Path) -> None:
    table = read_costs([write(tmp_path / "a", Cost("sft", 1, 30.0, 90.0))])
    assert [row.texts[-1] for row in table.rows] == ["unpriced"]


def test_costs_of_a_run_of_runs_include_its_parts(tmp_path: Path) -> None:
    whole = write(tmp_path / "s", Cost("sweep", 1, 1.0))
    write(whole / "trials" / "t0", TRAIN)
    write(whole / "evaluation", JUDGED)
    assert [row.run for row in read_costs([whole]).rows] == ["s", "evaluation", "t0", "all"]


def test_missing_and_broken_costs_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "first", TRAIN)
    for name in ("old", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "cost.json").write_text("{")
    table = read_costs([tmp_path / "old", tmp_path / "broken", first])
    assert [row.run for row in table.rows] == ["first"]
    assert "old: no " in table.problems[0] and "broken: " in table.problems[1]
