"""The machine's energy counters, in a tree of files and a module that are fakes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polyray.runs.energy import WHOLE_MACHINE, Counter, EnergyMeter, open_energy, rapl_counters


def zone(powercap: Path, number: str, name: str, microjoules: int, wraps_at: int = 262_143_328_850) -> Path:
    directory = powercap / f"intel-rapl:{number}"
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{name}\n")
    (directory / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (directory / "energy_uj").write_text(f"{microjoules}\n")
    return directory / "energy_uj"


def test_packages_and_memory_count_without_their_subzones(tmp_path: Path) -> None:
    first = zone(tmp_path, "0", "package-0", 5_000_000)
    cores = zone(tmp_path, "0:0", "core", 3_000_000)
    memory = zone(tmp_path, "0:1", "dram", 1_000_000)
    second = zone(tmp_path, "1", "package-1", 0)
    platform = zone(tmp_path, "2", "psys", 9_000_000)
    meter = open_energy(has_gpus=False, powercap=tmp_path)
    assert meter.notes == [WHOLE_MACHINE]
    assert meter.joules() == 0.0
    for file, microjoules in ((first, 7_500_000), (memory, 1_250_000), (second, 4_000_000)):
        file.write_text(str(microjoules))
    for file in (cores, platform):
        file.write_text("99000000")
    assert meter.joules() == pytest.approx(2.5 + 0.25 + 4.0)
    assert meter.joules() == 0.0


def test_a_counter_that_began_again_has_gone_round_once(tmp_path: Path) -> None:
    file = zone(tmp_path, "0", "package-0", 9_000_000, wraps_at=10_000_000)
    meter = open_energy(has_gpus=False, powercap=tmp_path)
    file.write_text("2500000")
    assert meter.joules() == pytest.approx(3.5)
    file.write_text("3000000")
    assert meter.joules() == pytest.approx(0.5)


def test_missing_counter_is_noted(tmp_path: Path) -> None:
    meter = open_energy(has_gpus=False, powercap=tmp_path)
    assert meter.joules() is None
    (note,) = meter.notes
    assert "CPUs" in note and note.endswith(f" {tmp_path}")


def test_unreadable_counter_is_noted(tmp_path: Path) -> None:
    file = zone(tmp_path, "0", "package-0", 1)
    file.unlink()
    file.mkdir()  # even root cannot read it
    counters, notes = rapl_counters(tmp_path)
    assert counters == []
    assert notes == [f"energy of the CPUs is unknown: {file} cannot be read (IsADirectoryError)"]


def test_a_counter_that_fails_later_is_left_out_from_then_on(tmp_path: Path) -> None:
    steady = zone(tmp_path, "0", "package-0", 0)
    failing = zone(tmp_path, "1", "package-1", 0)
    meter = open_energy(has_gpus=False, powercap=tmp_path)
    steady.write_text("1000000")
    failing.unlink()
    assert meter.joules() == pytest.approx(1.0)
    assert meter.notes == [
        WHOLE_MACHINE,
        "energy of package-1 could no longer be read (FileNotFoundError)",
    ]
    steady.unlink()
    assert meter.joules() is None


class Nvml:
    """Two GPUs, in millijoules."""

    def __init__(self) -> None:
        self.energy = [1_000, 50_000]

    def module(self) -> Any:
        return SimpleNamespace(
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: len(self.energy),
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetTotalEnergyConsumption=lambda index: self.energy[index],
        )


def test_gpus_count_for_a_run_that_holds_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml.module())
    without, having = (open_energy(has_gpus=has_gpus, powercap=tmp_path) for has_gpus in (False, True))
    nvml.energy = [3_500, 51_000]
    assert having.joules() == pytest.approx(2.5 + 1.0)
    assert without.joules() is None
    assert having.notes[0] == WHOLE_MACHINE
    assert "CPUs" in having.notes[1]


def test_gpus_without_nvml_have_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pynvml" in open_energy(has_gpus=True, powercap=tmp_path).notes[-1]

    def no_driver() -> None:
        raise RuntimeError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=no_driver))
    meter = open_energy(has_gpus=True, powercap=tmp_path)
    assert re.search(r"GPUs .*RuntimeError: Driver Not Loaded$", meter.notes[-1])
    assert meter.joules() is None
    nvml = Nvml()
    nvml.energy = []
    monkeypatch.setitem(sys.modules, "pynvml", nvml.module())
    assert "NVML" in open_energy(has_gpus=True, powercap=tmp_path).notes[-1]


def test_a_counter_without_a_wrap_that_falls_has_spent_nothing() -> None:
    readings = iter([3.0, 5.0])
    meter = EnergyMeter([Counter("GPU 0", lambda: next(readings), last=8.0)])
    assert [meter.joules(), meter.joules()] == [0.0, 2.0]
