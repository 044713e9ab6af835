"""Cost of a killed rollout worker: simulated runs with and without a SIGKILL in the middle of a batch.

Coordinator, pool, ledger, gates and deliveries are the real ones and every worker is a process of its own; learner
and engines only wait. The cost of the kill is the time from the first batch to the last version, less that of the
unbroken runs. The limit is the start of the replacement (its process, imports, engine and first version)
plus the work that was in flight (the time since the batch began). Part of `benchmark async`, called by overlap.py.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from benchmarks.measure import Measure
from benchmarks.simulated_fleet import KillablePool, SimulatedPool
from benchmarks.simulated_run import START_TIMEOUT_S, SimulatedLoad, SimulatedRun, run_simulated
from polyray.errors import PolyrayError

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

LIMIT = 1.0
NUM_WORKERS = 2
KILLED_AFTER_STEP = 2
KILLED_AFTER_S = 0.7
"""Time of the kill after a version was published: about the middle of a batch."""
VICTIM = 1


class Outage:
    """The kill of one run."""

    def __init__(self) -> None:
        self._pid = 0

    def prepare(self, pool: SimulatedPool) -> None:
        """Find the process of the victim."""
        info: Any = ray.get(pool.workers[VICTIM].handle.ready.remote(), timeout=START_TIMEOUT_S)
        self._pid = info["pid"]

    def after_step(self, step: int, pool: SimulatedPool) -> None:
        """Kill the victim in the middle of the batch that is being sampled now."""
        if step == KILLED_AFTER_STEP:
            threading.Timer(KILLED_AFTER_S, os.kill, (self._pid, signal.SIGKILL)).start()
        if step == KILLED_AFTER_STEP + 1 and Path(f"/proc/{self._pid}").exists():
            raise PolyrayError(f"process {self._pid} was to be killed before step {step} ended, but is there")


@dataclass(frozen=True, slots=True)
class Recovery:
    """Runs of one staleness, and of the broken ones the replacements; all in seconds.

    Example:
        Recovery(unbroken=(24.1,), killed=(27.9,), start=(4.2,))
    """

    unbroken: tuple[float, ...]
    killed: tuple[float, ...]
    start: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Cost of each kill over its limit."""
        usual = statistics.median(self.unbroken)
        return tuple(
            (seconds - usual) / (start + KILLED_AFTER_S)
            for seconds, start in zip(self.killed, self.start, strict=True)
        )


def recovery_measures(
    load: Mapping[str, Any], steps: int, rounds: int, display: ProgressDisplay
) -> list[Measure]:
    """Seconds with and without the kill, and its cost over its allowance, at staleness 0 and 1.

    `load` holds fields of SimulatedLoad.
    """
    measures: list[Measure] = []
    for staleness in (0, 1):
        values = {**load, "num_workers": NUM_WORKERS, "max_staleness": staleness, "steps": steps}
        simulated = SimulatedLoad(**values)
        unbroken, killed, start = [], [], []
        for number in range(2 * rounds):
            display.section(f"recovery, staleness {staleness}", number + 1, 2 * rounds)
            if number % 2 == 0:
                unbroken.append(_seconds(run_simulated(simulated, KillablePool)))
            else:
                outage = Outage()
                run = run_simulated(simulated, KillablePool, outage.prepare, outage.after_step)
                killed.append(_seconds(run))
                start.append(replacement_start_s(run))
        measures += cost_measures(staleness, Recovery(tuple(unbroken), tuple(killed), tuple(start)))
    return measures


def cost_measures(staleness: int, seen: Recovery) -> list[Measure]:
    """The lines of one staleness."""
    name = f"recovery, S = {staleness}: "
    return [
        Measure(f"{name}a run", seen.unbroken, "s"),
        Measure(f"{name}with a worker killed", seen.killed, "s"),
        Measure(f"{name}start of its replacement", seen.start, "s"),
        Measure(f"{name}cost / (start + work in flight)", seen.shares, limit=LIMIT),
    ]


def replacement_start_s(run: SimulatedRun) -> float:
    """Start of the worker in the victim's place, in seconds. PolyrayError if the run ended before it served."""
    found = [seconds for name, seconds in run.seen.start_s.items() if name.rsplit("-", 2)[-2] == str(VICTIM)]
    if not found:
        raise PolyrayError(
            f"the run's {len(run.steps)} steps ended before the replacement served; raise --steps"
        )
    return found[0]


def _seconds(run: SimulatedRun) -> float:
    """From the first batch to the last version."""
    return run.steps[-1].published - run.steps[0].got
