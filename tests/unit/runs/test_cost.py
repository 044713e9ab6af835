"""cost.json: time, starts, kills, prices and logs. Clocks are fakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from polyray.config.cost import PriceTableSpec
from polyray.errors import DataError
from polyray.runs import cost
from polyray.runs.cost import Cost, CostMeter, Held, LogSum, cost_files, read_cost, sum_costs

ROOT = Path(__file__).resolve().parents[3]

KILLED = """
import sys, time
from pathlib import Path
from polyray.runs.cost import CostMeter, Held
with CostMeter(Path(sys.argv[1]), "train", Held(cpus=2.0), write_every_s=0.02):
    time.sleep(0.3)
    print("running", flush=True)
    time.sleep(120)
"""


class World:
    """Time as a meter sees it."""

    def __init__(self) -> None:
        self.now = 0.0

    def meter(self, path: Path, held: Held, **options: Any) -> CostMeter:
        return CostMeter(path, "train", held, clock=lambda: self.now, write_every_s=3600.0, **options)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cost.json"


def append(path: Path, *lines: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def trained(line: Mapping[str, Any]) -> Cost:
    return Cost(tokens_trained=line["tokens"])


def test_cost_meter_charges_held_resources_and_prices(world: World, path: Path) -> None:
    prices = PriceTableSpec(currency="EUR", core_hour=0.36, gpu_hour=3.6)
    with world.meter(path, Held(4.5, 1.0), prices=prices) as meter:
        world.now += 10.0
        meter.generated(260)
        meter.generated(320)
        meter.hold(None)
        world.now += 1000.0
        meter.hold(Held(cpus=1.0))
        world.now += 5.0
    money: Any = pytest.approx(50 * 1e-4 + 10 * 1e-3)
    assert read_cost(path) == Cost(
        "train", 1, 15.0, core_s=50.0, gpu_s=10.0, tokens_generated=320, money=money, currency="EUR"
    )


def test_second_start_adds_to_the_first(world: World, path: Path) -> None:
    for cpus, tokens in ((2.0, 7), (4.0, 5)):
        with world.meter(path, Held(cpus), prices=PriceTableSpec(core_hour=36.0)) as meter:
            world.now += 10.0
            meter.generated(tokens)
        world.now += 1000.0
    found = read_cost(path)
    assert (found.starts, found.wall_s, found.core_s, found.tokens_generated) == (2, 20.0, 60.0, 12)
    assert found.money == pytest.approx(0.6)


def test_full_disk_loses_no_cost_and_does_not_hide_the_error_of_the_run(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    with world.meter(path, Held(1.0)) as meter:
        world.now += 10.0
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(cost, "atomic_write_json", full_disk)
            meter.write()
    assert read_cost(path).wall_s == 10.0
    with pytest.raises(DataError, match="the run"), world.meter(path, Held(1.0)):
        monkeypatch.setattr(cost, "atomic_write_json", full_disk)
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
    assert killed.starts == 1 and killed.wall_s > 0.1
    assert killed.core_s == pytest.approx(2.0 * killed.wall_s, abs=1e-5)
    with CostMeter(path, "train", Held(cpus=2.0)):
        pass
    assert read_cost(path).starts == 2
    assert read_cost(path).wall_s == pytest.approx(killed.wall_s, abs=0.1)


@pytest.mark.parametrize(("whole", "per_start"), [(("tokens_trained",), 7), ((), 2)])
def test_log_counts_once_over_all_starts_or_new_lines_only(
    whole: tuple[str, ...], per_start: int, world: World, path: Path, tmp_path: Path
) -> None:
    log = tmp_path / "metrics.jsonl"
    for start in (1, 2, 3):
        append(log, {"tokens": 5})
        with world.meter(path, Held(1.0), logs=[LogSum(log, trained, whole=whole)]):
            append(log, {"tokens": 2})
        assert read_cost(path).tokens_trained == per_start * start


def test_log_sum_follows_a_log_that_is_cut_and_torn(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    total = LogSum(log, trained, whole=("tokens_trained",))
    assert total() == Cost()
    append(log, *({"tokens": 1} for _ in range(9)))
    assert total() == total() == Cost(tokens_trained=9)
    with log.open("a") as file:
        file.write('{"tokens": 4')
    assert total() == Cost(tokens_trained=9)
    rewritten = tmp_path / "new"
    append(rewritten, *({"tokens": 2} for _ in range(20)))
    rewritten.rename(log)
    assert total() == Cost(tokens_trained=40)
    log.write_text('{"tokens": 3}\n')
    assert total() == Cost(tokens_trained=3)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"phases": {}}', '{"job": "a", "wall_s": "3"}'])
def test_unreadable_cost_does_not_stop_a_run(content: str, world: World, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match=r"cost\.json is no cost\.json .*delete it"):
        read_cost(path)
    with world.meter(path, Held(1.0)):
        world.now += 3.0
    assert read_cost(path) == Cost("train", 1, 3.0, 3.0)


HOURS = Cost(core_s=7200.0, gpu_s=3600.0)
JUDGED = Cost(core_s=7200.0, judge_requests=1, judge_tokens=9, judge_money=0.5)


@pytest.mark.parametrize(
    ("prices", "spent", "money"),
    [
        ({"core_hour": 0.5}, HOURS, 1.0),
        ({"core_hour": 0.5, "gpu_hour": 2.0}, HOURS, 3.0),
        ({"gpu_hour": 2.0}, Cost(core_s=60.0), None),
        ({"core_hour": 0.0}, Cost(core_s=60.0), 0.0),
        (None, HOURS, None),
        (None, JUDGED, 0.5),
        ({"core_hour": 0.5}, JUDGED, 1.5),
        ({"core_hour": 0.5, "currency": "EUR"}, JUDGED, 1.0),
    ],
)
def test_priced_money_is_null_without_a_price(
    prices: dict[str, Any] | None, spent: Cost, money: float | None
) -> None:
    assert spent.priced(None if prices is None else PriceTableSpec(**prices)).money == money


def test_sum_of_costs_covers_all_files_of_a_run(world: World, tmp_path: Path) -> None:
    files = [tmp_path / name / "cost.json" for name in (".", "evaluation", "trials/a", "trials/b")]
    for file in files:
        with world.meter(file, Held(1.0)):
            world.now += 2.0
    assert cost_files(tmp_path) == files
    assert sum_costs(map(read_cost, files)).core_s == 8.0


def test_sum_of_costs_adds_no_two_currencies() -> None:
    dollars, euros = Cost(money=1.0), Cost(money=2.0, currency="EUR")
    assert sum_costs([euros, euros]).money == 4.0
    assert sum_costs([euros, Cost()]).currency == "EUR"
    assert sum_costs([dollars, euros, euros]).money is None
