"""cost.json files as one table: rows by phase, sums by run, and what is missing in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.config.cost import PriceTableSpec
from polyray.report.costs import read_costs
from polyray.runs.cost_record import Amounts, CostRecord, JudgeSpend

DOLLARS = PriceTableSpec(core_hour=0.5)
EUROS = PriceTableSpec(currency="EUR", core_hour=0.25)
TRAIN = CostRecord(
    "train",
    2,
    {"start": Amounts(3600.0, 7200.0), "train": Amounts(7200.0, 14400.0, 7200.0, 36.0, 500, 400, 7.2e6)},
    prices=DOLLARS,
    notes=("energy is that of the whole machine, whoever used it",),
)
JUDGED = CostRecord("judge", 1, {"judge": Amounts(3600.0, 3600.0)}, JudgeSpend(9, 900, 0.75))


def write(runs: Path, name: str, record: CostRecord) -> Path:
    (runs / name).mkdir(parents=True)
    (runs / name / "cost.json").write_text(json.dumps(record.as_json()))
    return runs / name


def test_a_row_for_every_phase_the_judge_and_the_sums(tmp_path: Path) -> None:
    first, verdicts = write(tmp_path, "first", TRAIN), write(tmp_path, "verdicts", JUDGED)
    table = read_costs([first, verdicts, str(first)])
    assert [(row.run, row.job, row.phase, row.money, row.currency) for row in table.rows] == [
        ("first", "train", "start", 1.0, "USD"),
        ("first", "train", "train", 2.0, "USD"),
        ("verdicts", "judge", "judge", None, None),
        ("verdicts", "judge", "judge API", 0.75, "USD"),
    ]
    assert [(row.run, row.phase, row.money) for row in table.totals] == [
        ("first", "total", 3.0),
        ("verdicts", "total", 0.75),
    ]
    assert table.total.as_row() == {
        "run": "all",
        "job": "",
        "phase": "total",
        "wall_hours": 4.0,
        "core_hours": 7.0,
        "gpu_hours": 2.0,
        "cpu_hours": 0.01,
        "tokens_generated": 500,
        "tokens_trained": 400,
        "tokens_judge": 900,
        "energy_kwh": 2.0,
        "money": 3.75,
        "currency": "USD",
    }
    assert table.notes == (
        "first: energy is that of the whole machine, whoever used it",
        "first: money: GPUs are not in it: prices.gpu_hour is not set",
    )
    assert table.problems == ()


def test_money_in_two_currencies_is_not_added(tmp_path: Path) -> None:
    write(tmp_path, "a", CostRecord("train", 1, {"train": Amounts(core_s=3600.0)}, prices=DOLLARS))
    write(tmp_path, "b", CostRecord("train", 1, {"train": Amounts(core_s=3600.0)}, prices=EUROS))
    table = read_costs([tmp_path])
    assert [row.money for row in table.totals] == [0.5, 0.25]
    assert (table.total.money, table.total.currency, table.total.amounts.core_s) == (None, None, 7200.0)


def test_nothing_that_is_priced_is_no_money(tmp_path: Path) -> None:
    run = write(tmp_path, "a", CostRecord("sft", 1, {"train": Amounts(core_s=3600.0)}))
    total = read_costs([run]).total.as_row()
    assert (total["money"], total["currency"], total["energy_kwh"]) == (None, None, None)


def test_the_parts_of_a_run_are_in_its_own_file(tmp_path: Path) -> None:
    whole = CostRecord("quickstart", 1, {"start": Amounts(1.0), "sft-seed0/train": Amounts(2.0)})
    write(tmp_path, "quickstart", whole)
    write(tmp_path / "quickstart", "sft-seed0", CostRecord("sft", 1, {"train": Amounts(2.0)}))
    assert [row.phase for row in read_costs([tmp_path]).rows] == ["start", "sft-seed0/train"]
    assert read_costs([tmp_path / "quickstart"]).total.amounts == Amounts(3.0)
    assert [row.run for row in read_costs([tmp_path / "quickstart" / "sft-seed0"]).rows] == ["sft-seed0"]


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "every run that was started"), ("{", "is no cost.json"), ("[]", "is no cost.json")],
)
def test_a_run_without_an_account_is_a_line_and_the_others_are_there(
    content: str | None, why: str, tmp_path: Path
) -> None:
    first = write(tmp_path, "first", TRAIN)
    (tmp_path / "old").mkdir()
    if content is not None:
        (tmp_path / "old" / "cost.json").write_text(content)
    table = read_costs([tmp_path / "old", first])
    assert [row.run for row in table.totals] == ["first"]
    assert len(table.problems) == 1
    assert table.problems[0].startswith("old: ") and why in table.problems[0]


def test_no_runs_are_an_empty_table(tmp_path: Path) -> None:
    table = read_costs([tmp_path])
    assert (table.rows, table.totals, table.total.amounts) == ((), (), Amounts())
    assert "no " in table.problems[0]


def test_people_see_totals_only_where_there_is_something_to_add(tmp_path: Path) -> None:
    for name, record in (("first", TRAIN), ("one", CostRecord("sft", 1, {"train": Amounts(30.0, 90.0)}))):
        write(tmp_path, name, record)
    table = read_costs([tmp_path])
    assert [(row.run, row.phase) for row in table.shown] == [
        ("first", "start"), ("first", "train"), ("first", "total"), ("one", "train"), ("all", "total"),
    ]  # fmt: skip
    assert table.shown[1].texts == ("120 min", "4", "2", "500", "400", "2 kWh", "2 USD")
    assert table.shown[3].texts == ("30 s", "0.025", "0", "0", "0", "unknown", "unpriced")
    assert read_costs([tmp_path / "one"]).shown == read_costs([tmp_path / "one"]).rows


def test_runs_of_one_name_stand_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / part, "run", TRAIN) for part in ("a", "b")]
    assert [row.phase for row in read_costs(paths).shown] == ["start", "train", "total"] * 2 + ["total"]
