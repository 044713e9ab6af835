"""Energy that the machine's own counters show: packages and memory by RAPL, GPUs by NVML. Called by cost.py.

The counters are those of the whole machine: what others compute at the same time is in them, too. Where one cannot be
read there is a reason in the place of a number.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_MICROJOULE = 1e-6
JOULES_PER_MILLIJOULE = 1e-3
WHOLE_MACHINE = "energy is that of the whole machine, whoever used it"


@dataclass(slots=True)
class Counter:
    """One counter that only rises, and may begin again at 0.

    Example:
        Counter("package-0", read=lambda: 812.5, last=800.0, wraps_at=262143.3)
    """

    name: str
    read: Callable[[], float]
    """Joules."""
    last: float
    wraps_at: float = 0.0
    """Joules; 0: it never wraps."""

    def spent(self) -> float:
        """Joules since the last call. No more than one wrap may lie between two calls (half an hour at 150 W)."""
        now = self.read()
        joules, self.last = now - self.last, now
        return max(joules + self.wraps_at if joules < 0 else joules, 0.0)


class EnergyMeter:
    """Joules since the last call, over all counters; `notes` says what is not among them."""

    def __init__(self, counters: Sequence[Counter], notes: Sequence[str] = ()) -> None:
        self._counters = list(counters)
        self.notes = [WHOLE_MACHINE, *notes] if counters else list(notes)

    def joules(self) -> float | None:
        """None where no counter can be read."""
        spent = [found for counter in list(self._counters) if (found := self._spent(counter)) is not None]
        return sum(spent) if spent else None

    def _spent(self, counter: Counter) -> float | None:
        try:
            return counter.spent()
        except Exception as error:  # the account must not end the run, whatever a driver raises
            self._counters.remove(counter)
            self.notes.append(f"energy of {counter.name} could no longer be read ({type(error).__name__})")
            return None


def open_energy(has_gpus: bool, powercap: Path = POWERCAP) -> EnergyMeter:
    """The counters of this machine; those of its GPUs only for a run that holds some."""
    counters, notes = rapl_counters(powercap)
    if has_gpus:
        of_gpus, why = gpu_counters()
        counters, notes = [*counters, *of_gpus], [*notes, *why]
    return EnergyMeter(counters, notes)


def rapl_counters(powercap: Path = POWERCAP) -> tuple[list[Counter], list[str]]:
    """Packages and memory; cores lie within a package, and `psys` holds the packages, so neither is counted again."""
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if (zone / "energy_uj").exists())
    counted = [zone for zone in zones if _name(zone).startswith("package") or _name(zone) == "dram"]
    if not counted:
        return [], [f"energy of the CPUs is unknown: there are no RAPL counters in {powercap}"]
    try:
        return [_rapl_counter(zone) for zone in counted], []
    except (OSError, ValueError) as error:
        return [], [
            f"energy of the CPUs is unknown: {counted[0] / 'energy_uj'} cannot be read ({type(error).__name__})"
        ]


def _name(zone: Path) -> str:
    file = zone / "name"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _rapl_counter(zone: Path) -> Counter:
    def read(file: Path = zone / "energy_uj") -> float:
        return int(file.read_text(encoding="utf-8")) * JOULES_PER_MICROJOULE

    wraps_at = int((zone / "max_energy_range_uj").read_text(encoding="utf-8")) * JOULES_PER_MICROJOULE
    return Counter(_name(zone), read, read(), wraps_at)


def gpu_counters() -> tuple[list[Counter], list[str]]:
    """One counter for every GPU of this machine, where pynvml is installed."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        counters = [_gpu_counter(nvml, handle, f"GPU {index}") for index, handle in enumerate(handles)]
    except ImportError:
        return [], ["energy of the GPUs is unknown: pynvml is not installed (pip install nvidia-ml-py)"]
    except Exception as error:  # NVML's own error class is known only once it is there
        return [], [f"energy of the GPUs is unknown: NVML says {type(error).__name__}: {error}"]
    return counters, [] if counters else ["energy of the GPUs is unknown: NVML knows no GPU on this machine"]


def _gpu_counter(nvml: Any, handle: Any, name: str) -> Counter:
    def read() -> float:
        return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * JOULES_PER_MILLIJOULE

    return Counter(name, read, read())
