"""Peak memory and duration of the whole quickstart, from outside: a child process and all below it.

  python -m benchmarks quickstart --out quickstart.json

The sum of PSS (proportional set size: shared pages are divided among those that map them, so Ray's object
store and shared libraries count once), sampled each second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Measure, conclude, machine
from polyray.cli.arguments import JobParser
from polyray.config.paths import REPOSITORY_ROOT
from polyray.errors import PolyrayError

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

CONFIG = "configs/quickstart.yaml"
GB = 1e9
MEMORY_LIMIT_GB = 10.0
INTERVAL_S = 1.0
PROC = Path("/proc")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    from polyray.runs.progress import ProgressDisplay

    parser = JobParser("benchmarks quickstart", __doc__)
    parser.add_argument("--out", metavar="FILE", help="write the measures as JSON")
    options = parser.parse_strictly(argv)
    before = machine()
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as runs_dir, ProgressDisplay() as display:
        measures = quickstart_measures(runs_dir, display)
    return conclude(measures, {"machine": before, "machine_after": machine()}, options.out)


def quickstart_measures(runs_dir: str, display: ProgressDisplay) -> list[Measure]:
    """Runs `polyray quickstart` into `runs_dir`. Raises PolyrayError with its last words where it fails."""
    display.section("quickstart", 1, 1)
    started = time.monotonic()
    peak = peak_memory(
        [sys.executable, "-m", "polyray.cli", "quickstart", CONFIG, f"runs_dir={runs_dir}"],
        lambda so_far: display.update(phase=f"running, at most {so_far / GB:.0f} GB so far"),
    )
    return [
        Measure("peak memory of the whole quickstart", (peak / GB,), "GB", MEMORY_LIMIT_GB),
        Measure("duration of the quickstart", ((time.monotonic() - started) / 60,), "min"),
    ]


def peak_memory(
    command: Sequence[str], sampled: Callable[[int], None], interval_s: float = INTERVAL_S
) -> int:
    """Bytes that `command` and everything it starts took at their highest. Raises PolyrayError if it fails.

    `sampled` is called with the peak so far after every sample.
    """
    peak = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        child = subprocess.Popen(command, cwd=REPOSITORY_ROOT, stdout=log, stderr=subprocess.STDOUT)
        seen = {child.pid}
        try:
            while child.poll() is None:
                seen = descendants(seen, parents())
                peak = max(peak, sum(pss_bytes(pid) for pid in seen))
                sampled(peak)
                time.sleep(interval_s)
        finally:
            child.terminate()  # after an interrupt; nothing to one that has ended
        if child.wait() != 0:
            log.seek(0)
            last = " / ".join(log.read().strip().splitlines()[-3:])
            what = " ".join(command[1:3])
            raise PolyrayError(f"{what} ended with exit code {child.returncode}: {last}")
    return peak


def descendants(seen: set[int], parent_of: Mapping[int, int]) -> set[int]:
    """The living of `seen` and all their children, also those of a parent that has ended since."""
    alive = {pid for pid in seen if pid in parent_of}
    while True:
        children = {pid for pid, parent in parent_of.items() if parent in alive} - alive
        if not children:
            return alive
        alive |= children


def parents(proc: Path = PROC) -> dict[int, int]:
    """Process id -> its parent's, for every process there is."""
    found: dict[int, int] = {}
    for directory in proc.iterdir():
        if directory.name.isdigit():
            try:
                stat = (directory / "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            # The name in parentheses may hold spaces and parentheses itself.
            found[int(directory.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def pss_bytes(pid: int, proc: Path = PROC) -> int:
    """Proportional set size; 0 for a process that has ended."""
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
