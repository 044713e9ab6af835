"""cost.json while a run goes on: phases, starts, kills, prices, energy, parts. Clocks and counters are fakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polyray.config.cost import PriceTableSpec
from polyray.errors import DataError
from polyray.runs import cost
from polyray.runs.cost import CostMeter, Held, Sources, Tokens
from polyray.runs.cost_record import Amounts, CostRecord, JudgeSpend, cost_line, money_of, read_cost
from polyray.runs.energy import Counter, EnergyMeter

ROOT = Path(__file__).resolve().parents[3]

KILLED = """
import sys, time
from pathlib import Path
from polyray.runs.cost import CostMeter, Held
with CostMeter(Path(sys.argv[1]), "train", Held(cpus=2.0), write_every_s=0.02) as meter:
    meter.enter("train")
    time.sleep(0.3)
    print("running", flush=True)
    time.sleep(120)
"""


class World:
    """The time, CPU seconds, joules and tokens that a meter sees."""

    def __init__(self) -> None:
        self.now = self.cpu = self.joules = 0.0
        self.tokens = Tokens()
        self.paid: JudgeSpend | None = None

    def meter(self, path: Path, held: Held, has_energy: bool = True, **options: Any) -> CostMeter:
        counters = [Counter("package-0", lambda: self.joules, self.joules)] if has_energy else []
        return CostMeter(
            path,
            "train",
            held,
            clock=lambda: self.now,
            cpu_clock=lambda: self.cpu,
            energy=EnergyMeter(counters),
            write_every_s=3600.0,
            **options,
        )

    def pass_time(self, seconds: float, cpu: float = 0.0, joules: float = 0.0) -> None:
        self.now += seconds
        self.cpu += cpu
        self.joules += joules

    def new_tokens(self) -> Tokens:
        tokens, self.tokens = self.tokens, Tokens()
        return tokens

    def newly_paid(self) -> JudgeSpend | None:
        paid, self.paid = self.paid, None
        return paid


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cost.json"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_phases_hold_cores_and_gpus_while_they_last(world: World, path: Path) -> None:
    prices = PriceTableSpec(currency="EUR", core_hour=0.36, gpu_hour=3.6, kwh=0.5)
    sources = Sources(tokens=world.new_tokens)
    with world.meter(path, Held(4.5, 1.0), prices=prices, sources=sources) as meter:
        world.pass_time(10.0, cpu=2.0, joules=1000.0)
        meter.enter("train")
        world.pass_time(60.0, cpu=3.0, joules=7200.0)
        world.tokens = Tokens(generated=40, trained=300)
        meter.generated(260)
        meter.generated(320)
        meter.enter("report", Held(cpus=1.0))
        world.pass_time(5.0)
    # 10 s x 4.5 cores x 0.36 an hour + 10 s x 1 GPU x 3.6 an hour + 1 kJ x 0.5 a kWh, and so on
    start_money = 10 * 4.5 * 1e-4 + 10 * 1e-3 + 1000 / 3.6e6 * 0.5
    train_money = 60 * 4.5 * 1e-4 + 60 * 1e-3 + 7200 / 3.6e6 * 0.5
    assert read(path) == {
        "job": "train",
        "attempts": 1,
        "phases": {
            "start": {
                "wall_s": 10.0, "core_s": 45.0, "gpu_s": 10.0, "cpu_s": 2.0, "tokens_generated": 0,
                "tokens_trained": 0, "energy_j": 1000.0, "money": round(start_money, 6),
            },
            "train": {
                "wall_s": 60.0, "core_s": 270.0, "gpu_s": 60.0, "cpu_s": 3.0, "tokens_generated": 360,
                "tokens_trained": 300, "energy_j": 7200.0, "money": round(train_money, 6),
            },
            "report": {
                "wall_s": 5.0, "core_s": 5.0, "gpu_s": 0.0, "cpu_s": 0.0, "tokens_generated": 0,
                "tokens_trained": 0, "energy_j": 0.0, "money": round(5 * 1e-4, 6),
            },
        },
        "judge": None,
        "total": {
            "wall_s": 75.0, "core_s": 320.0, "gpu_s": 70.0, "cpu_s": 5.0, "tokens_generated": 360,
            "tokens_trained": 300, "energy_j": 8200.0, "money": round(start_money + train_money + 5e-4, 6),
        },
        "prices": {"currency": "EUR", "core_hour": 0.36, "gpu_hour": 3.6, "kwh": 0.5},
        "notes": ["energy is that of the whole machine, whoever used it"],
    }  # fmt: skip


def test_a_run_that_is_started_again_adds_to_its_account(world: World, path: Path) -> None:
    sources = Sources(tokens=world.new_tokens, judge=world.newly_paid)
    with world.meter(path, Held(2.0), sources=sources):
        world.pass_time(30.0, joules=100.0)
        world.tokens, world.paid = Tokens(trained=7), JudgeSpend(3, 1000, 0.25)
    assert read(path)["total"]["money"] == 0.25
    world.pass_time(1000.0, joules=5000.0)  # nobody's
    with world.meter(path, Held(4.0), sources=sources, prices=PriceTableSpec(core_hour=36.0)) as meter:
        world.pass_time(10.0, joules=50.0)
        world.tokens, world.paid = Tokens(trained=5), JudgeSpend(1, 200, 0.05)
        meter.enter("train")
    record = read_cost(path)
    assert record.attempts == 2
    assert record.phases["start"] == Amounts(40.0, 100.0, 0.0, 0.0, 0, 12, 150.0)
    assert record.judge == JudgeSpend(4, 1200, 0.3)
    # Today's prices hold for all of it: 100 core seconds at 0.01, and the judge.
    assert record.money == pytest.approx(1.0 + 0.3)
    assert read(path)["phases"]["start"]["money"] == 1.0


def test_cost_between_two_writes_survives_a_failed_write(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cost.atomic_write_json

    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    with world.meter(path, Held(1.0)) as meter:
        world.pass_time(10.0)
        monkeypatch.setattr(cost, "atomic_write_json", full)
        meter.enter("train")
        world.pass_time(5.0)
        assert list(read(path)["phases"]) == ["start"]
        monkeypatch.setattr(cost, "atomic_write_json", write)
    assert {name: row["wall_s"] for name, row in read(path)["phases"].items()} == {
        "start": 10.0,
        "train": 5.0,
    }


def test_full_disk_does_not_hide_the_run_error(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="the run"), world.meter(path, Held(1.0)):
        monkeypatch.setattr(cost, "atomic_write_json", full)
        raise DataError("the run")


def test_killed_run_keeps_its_cost(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    killed = read_cost(path)
    assert killed.attempts == 1
    train = killed.phases["train"]
    assert train.wall_s > 0.1
    assert train.core_s == pytest.approx(2.0 * train.wall_s, abs=1e-5)
    with CostMeter(path, "train", Held(cpus=2.0)):
        pass
    assert read_cost(path).attempts == 2
    assert read_cost(path).phases["train"] == train


def test_cost_file_is_written_during_a_phase(path: Path) -> None:
    with CostMeter(path, "train", Held(cpus=1.0), write_every_s=0.01):
        before = read_cost(path).total.wall_s
        deadline = time.monotonic() + 10
        while read_cost(path).total.wall_s < before + 0.03 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_cost(path).total.wall_s >= before + 0.03


def test_cpu_seconds_belong_to_this_process(path: Path) -> None:
    with CostMeter(path, "train", Held(cpus=1.0)):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert 0.1 <= read_cost(path).total.cpu_s < 5.0


def test_parts_are_read_anew_and_their_own_time_is_not_counted_twice(world: World, tmp_path: Path) -> None:
    part, path = tmp_path / "first" / "cost.json", tmp_path / "cost.json"
    missing = tmp_path / "second" / "cost.json"
    sources = Sources(parts=lambda: {"first": part, "second": missing})
    for start in (1, 2):
        with world.meter(path, Held(2.0), sources=sources) as meter:
            world.pass_time(10.0)
            meter.rest()
            with world.meter(part, Held(3.0), sources=Sources(judge=world.newly_paid)):
                world.pass_time(100.0, cpu=7.0, joules=9.0)
                world.paid = JudgeSpend(1, 50, None)
        record = read_cost(path)
        assert record.attempts == start
        assert record.phases == {
            "start": Amounts(10.0 * start, 20.0 * start, energy_j=0.0),
            "first/start": Amounts(100.0 * start, 300.0 * start, cpu_s=7.0 * start, energy_j=9.0 * start),
        }
        assert record.total.core_s == 320.0 * start
        assert record.judge == JudgeSpend(start, 50 * start, None)
    missing.parent.mkdir()
    missing.write_text("{}")
    with world.meter(path, Held(2.0), sources=sources):
        pass
    assert re.search(rf"second .*{missing} .*cost\.json", "\n".join(read(path)["notes"]))
    assert read_cost(path).attempts == 3


def test_a_part_that_was_deleted_was_paid_all_the_same(world: World, tmp_path: Path) -> None:
    part, path = tmp_path / "first" / "cost.json", tmp_path / "cost.json"
    sources = Sources(parts=lambda: {"first": part})
    with world.meter(path, Held(2.0), sources=sources) as meter:
        meter.rest()
        with world.meter(part, Held(3.0)):
            world.pass_time(100.0)
    part.unlink()
    with world.meter(path, Held(2.0), sources=sources):
        world.pass_time(1.0)
    phases = read_cost(path).phases
    assert {name: amounts.core_s for name, amounts in phases.items()} == {"start": 2.0, "first/start": 300.0}


def test_a_phase_has_no_name_of_a_part(world: World, path: Path) -> None:
    with world.meter(path, Held(1.0)) as meter, pytest.raises(ValueError, match=r"'a/b'.*'/'"):
        meter.enter("a/b")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"job": "train"}', '{"job": "a", "attempts": 1, "phases": {"x": {}}, "judge": null}'],
)
def test_an_account_that_cannot_be_read_does_not_keep_a_run_from_starting(
    content: str, world: World, path: Path
) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match=r"cost\.json"):
        read_cost(path)
    with world.meter(path, Held(1.0)):
        world.pass_time(3.0)
    record = read_cost(path)
    assert (record.attempts, record.total.wall_s) == (1, 3.0)
    assert "earlier starts" in record.notes[0]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", '"3"', "null"])
def test_no_amount_is_read_that_is_no_amount(value: str, world: World, path: Path) -> None:
    with world.meter(path, Held(1.0)):
        world.pass_time(3.0)
    path.write_text(path.read_text().replace('"wall_s": 3.0', f'"wall_s": {value}'))
    with pytest.raises(DataError, match="wall_s"):
        read_cost(path)


ONE_HOUR = Amounts(wall_s=3600.0, core_s=7200.0, gpu_s=3600.0, energy_j=3.6e6)


@pytest.mark.parametrize(
    ("prices", "amounts", "money"),
    [
        ({"core_hour": 0.5}, ONE_HOUR, 1.0),
        ({"core_hour": 0.5, "gpu_hour": 2.0}, ONE_HOUR, 3.0),
        ({"core_hour": 0.5, "gpu_hour": 2.0, "kwh": 0.25}, ONE_HOUR, 3.25),
        ({"kwh": 0.25}, ONE_HOUR, 0.25),
        ({"kwh": 0.25}, Amounts(core_s=60.0), None),
        ({"gpu_hour": 2.0}, Amounts(core_s=60.0), None),
        ({"core_hour": 0.0}, Amounts(core_s=60.0), 0.0),
        (None, ONE_HOUR, None),
    ],
)
def test_money_sums_priced_items_and_is_null_without_prices(
    prices: dict[str, Any] | None, amounts: Amounts, money: float | None
) -> None:
    assert money_of(amounts, None if prices is None else PriceTableSpec(**prices)) == money


def test_unpriced_items_are_noted_until_priced(world: World, path: Path) -> None:
    sources = Sources(judge=world.newly_paid)
    partial = PriceTableSpec(currency="EUR", gpu_hour=1.0, kwh=0.3)
    with world.meter(path, Held(1.0, 1.0), has_energy=False, prices=partial, sources=sources):
        world.pass_time(3600.0)
        world.paid = JudgeSpend(1, 10, 0.5)
    assert read(path)["total"]["money"] == 1.0
    judge, cores, energy = read(path)["notes"]
    assert re.search(r"^money: .*judge.*\bUSD\b.*\bEUR\b", judge)
    assert re.search(r"^money: .*prices\.core_hour\b", cores)
    assert energy.startswith("money: energy ")
    whole = PriceTableSpec(core_hour=1.0, gpu_hour=1.0)
    with world.meter(path, Held(1.0, 1.0), has_energy=False, prices=whole, sources=sources):
        pass
    assert read(path)["total"]["money"] == 2.5
    assert read(path)["notes"] == []


def test_the_last_line_of_a_job() -> None:
    amounts = Amounts(
        wall_s=10, core_s=1872, gpu_s=900, tokens_generated=104261, tokens_trained=98112, energy_j=3600
    )
    record = CostRecord(
        "train", 2, {"train": amounts}, JudgeSpend(9, 1200, None), PriceTableSpec(core_hour=0.02)
    )
    assert cost_line(record) == (
        "0.52 core hours, 0.25 GPU hours, 104,261 tokens generated, 98,112 trained, 1 Wh, "
        "1,200 tokens of the judge, 0.0104 USD; 2 starts"
    )
    assert cost_line(CostRecord("judge", 1, {"judge": Amounts(core_s=36.0)})) == "0.01 core hours"
