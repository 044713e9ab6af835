"""Keeps the account of a run while it runs: RUN/cost.json, by phase (the file itself: cost_record.py).

    with CostMeter(paths.cost, "train", Held(cpus=4.5), prices=config.prices) as cost:
        ...                     # counts as the phase "start"
        cost.enter("train")
        ...

Written when a phase ends and every WRITE_EVERY_S while one runs, so a killed run keeps what it had spent by then; a
run that is started again adds to what is there. No decision depends on any of it, and it is no part of what a resumed
run reproduces.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from polyray.config.cost import PriceTableSpec
from polyray.errors import DataError
from polyray.runs.atomic import atomic_write_json
from polyray.runs.cost_record import Amounts, CostRecord, JudgeSpend, add_judges, read_cost
from polyray.runs.energy import EnergyMeter, open_energy

WRITE_EVERY_S = 30.0
START = "start"
PART = "/"
"""Between a part's name and its phase, where a run consists of runs."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a phase reserves, whether it uses it or not.

    Example:
        Held(cpus=4.5, gpus=1.0)
    """

    cpus: float = 0.0
    """Logical CPUs."""
    gpus: float = 0.0

    def __add__(self, other: Held) -> Held:
        return Held(self.cpus + other.cpus, self.gpus + other.gpus)

    def share(self, of: int) -> Held:
        """What falls to one of `of` runs that use it at the same time."""
        return Held(self.cpus / of, self.gpus / of)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens since one last asked.

    Example:
        Tokens(generated=1536, trained=1536)
    """

    generated: int = 0
    trained: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.generated + other.generated, self.trained + other.trained)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a meter asks beside its clocks, each time it writes.

    Example:
        Sources(tokens=TokensOfLog(paths.metrics, trained="tokens"))
    """

    tokens: Callable[[], Tokens] | None = None
    judge: Callable[[], JudgeSpend | None] | None = None
    """What judges were paid since one last asked; None: nothing."""
    judge_from_start: bool = False
    """The first answer of `judge` is all that earlier starts have paid, too, so that nothing is lost to a kill."""
    parts: Callable[[], Mapping[str, Path]] | None = None
    """Name -> cost.json of the runs that this run consists of. One that is not there yet is passed over; where one is
    gone again, what was last read of it stays."""


def used_cpu_s() -> float:
    """CPU seconds of this process and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class CostMeter:
    """One start of one run; a context manager. Its methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        job: str,
        held: Held,
        *,
        phase: str = START,
        prices: PriceTableSpec | None = None,
        sources: Sources | None = None,
        energy: EnergyMeter | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = used_cpu_s,
        write_every_s: float = WRITE_EVERY_S,
    ) -> None:
        """Takes up the cost.json at `path`, and begins `phase`."""
        self._path = path
        self._sources = sources or Sources()
        self._energy = energy or open_energy(has_gpus=held.gpus > 0)
        self._clock, self._cpu_clock = clock, cpu_clock
        self._write_every_s = write_every_s
        self._phase: str | None = phase
        self._held = held
        self._generated_so_far = self._generated_new = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._since = clock(), cpu_clock()
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _earlier(path, job)
        asks_anew = self._sources.parts is not None or self._sources.judge_from_start
        judge = None if asks_anew else before.judge
        self._record = replace(before, attempts=before.attempts + 1, judge=judge, prices=prices)
        self._thread = threading.Thread(target=self._keep_writing, name="cost", daemon=True)

    def __enter__(self) -> CostMeter:
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        # What ended the run is what its owner must hear of, not that the disk was too full for its account.
        unsaid = (OSError,) if error is not None else ()
        with suppress(*unsaid):
            self.write()

    def enter(self, phase: str, held: Held | None = None) -> None:
        """Ends the phase before and begins `phase`; `held` where it is not what the phase before held."""
        if PART in phase:
            raise ValueError(f"phase={phase!r} contains {PART!r}, which stands between a part and its phase")
        self._go_to(phase, held)

    def rest(self) -> None:
        """Ends the phase before; what follows is in the accounts of the parts."""
        self._go_to(None, None)

    def generated(self, so_far: int) -> None:
        """Tokens that were sampled since this start of the run began, for who knows them as a sum."""
        with self._lock:
            self._generated_new += max(so_far - self._generated_so_far, 0)
            self._generated_so_far = so_far

    def write(self) -> None:
        """Brings cost.json up to date. Raises OSError where it cannot be written."""
        with self._lock:
            self._settle()
            atomic_write_json(self._path, self._with_parts().as_json())

    def _go_to(self, phase: str | None, held: Held | None) -> None:
        with self._lock:
            self._settle()
            self._phase = phase
            self._held = held or self._held
        with suppress(OSError):  # the account must not end the run; the next time writes this, too
            self.write()

    def _settle(self) -> None:
        """Counts what came since the last call to the phase under way, and forgets it where none is."""
        tokens = self._sources.tokens() if self._sources.tokens is not None else Tokens()
        now = self._clock(), self._cpu_clock()
        wall_s, cpu_s = now[0] - self._since[0], now[1] - self._since[1]
        generated = tokens.generated + self._generated_new
        self._since, self._generated_new = now, 0
        joules = self._energy.joules()
        if self._sources.judge is not None:
            judge = add_judges(self._record.judge, self._sources.judge())
            self._record = replace(self._record, judge=judge)
        if self._phase is None:
            return
        spent = Amounts(
            wall_s=wall_s,
            core_s=wall_s * self._held.cpus,
            gpu_s=wall_s * self._held.gpus,
            cpu_s=cpu_s,
            tokens_generated=generated,
            tokens_trained=tokens.trained,
            energy_j=joules,
        )
        phases = dict(self._record.phases)
        phases[self._phase] = phases.get(self._phase, Amounts()) + spent
        self._record = replace(self._record, phases=phases)

    def _with_parts(self) -> CostRecord:
        """The run's own account with those of its parts, which are read anew: each adds up its own starts."""
        phases, notes = dict(self._record.phases), [*self._record.notes, *self._energy.notes]
        judge = self._record.judge
        for name, path in (self._sources.parts() if self._sources.parts is not None else {}).items():
            if not path.is_file():  # it has not begun
                continue
            try:
                part = read_cost(path)
            except DataError as error:
                notes.append(f"{name} is as it was last read: {error}")
                continue
            phases |= {f"{name}{PART}{phase}": amounts for phase, amounts in part.phases.items()}
            judge = add_judges(judge, part.judge)
        return replace(self._record, phases=phases, judge=judge, notes=tuple(dict.fromkeys(notes)))

    def _keep_writing(self) -> None:
        while not self._ended.wait(self._write_every_s):
            with suppress(OSError):  # a disk that is full may have room again before the next time
                self.write()


def _earlier(path: Path, job: str) -> CostRecord:
    """What earlier starts have left. A file that cannot be read must not keep a run from starting."""
    nothing = CostRecord(job=job, attempts=0, phases={})
    if not path.is_file():
        return nothing
    try:
        return replace(read_cost(path), job=job)
    except DataError as error:
        return replace(nothing, notes=(f"earlier starts are missing: {error}",))
