"""Cost of a run in RUN/cost.json: wall time, core and GPU hours held, tokens, judge spend and money.

    with CostMeter(paths.cost, "train", Held(cpus=4.5), prices=config.prices):
        ...

The file is one flat object, the fields of Cost. It is rewritten every WRITE_EVERY_S, so a kill loses at most that
much; a later start adds to it. No decision depends on it, and it is no part of a reproduced run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from polyray.config.cost import PriceTableSpec
from polyray.errors import DataError
from polyray.runs.atomic import atomic_write_json

WRITE_EVERY_S = 30.0
HOUR_S = 3600.0
JUDGE_CURRENCY = "USD"
"""Currency of judge.prices."""
PARTS = ("cost.json", "*/cost.json", "trials/*/cost.json")
"""Files below a run directory; a quickstart and a sweep consist of runs."""


@dataclass(frozen=True, slots=True)
class Held:
    """Resources that a run reserves, e.g. Held(cpus=4.5, gpus=1.0)."""

    cpus: float = 0.0
    """Logical CPUs."""
    gpus: float = 0.0

    def __add__(self, other: Held) -> Held:
        return Held(self.cpus + other.cpus, self.gpus + other.gpus)

    def share(self, of: int) -> Held:
        """Share of one of `of` runs that use it at the same time."""
        return Held(self.cpus / of, self.gpus / of)


@dataclass(frozen=True, slots=True)
class Cost:
    """Contents of a cost.json, e.g. Cost("train", starts=2, wall_s=60.0, core_s=270.0)."""

    job: str = ""
    starts: int = 0
    wall_s: float = 0.0
    core_s: float = 0.0
    """Logical CPUs held x wall seconds, busy or idle."""
    gpu_s: float = 0.0
    tokens_generated: int = 0
    tokens_trained: int = 0
    judge_requests: int = 0
    judge_tokens: int = 0
    """Input and output."""
    judge_money: float | None = None
    """US dollars; None without judge.prices."""
    money: float | None = None
    """Priced part of the run, judge included if `currency` is USD; None if nothing is priced."""
    currency: str = JUDGE_CURRENCY

    def __add__(self, other: Cost) -> Cost:
        names = [entry.name for entry in fields(self) if entry.name not in ("job", "currency")]
        return replace(self, **{name: _plus(getattr(self, name), getattr(other, name)) for name in names})

    def priced(self, prices: PriceTableSpec | None) -> Cost:
        """Compute `money` from a price table."""
        currency = JUDGE_CURRENCY if prices is None else prices.currency
        money = self.judge_money if currency == JUDGE_CURRENCY else None
        if prices is not None and prices.core_hour is not None and self.core_s:
            money = _plus(money, prices.core_hour * self.core_s / HOUR_S)
        if prices is not None and prices.gpu_hour is not None and self.gpu_s:
            money = _plus(money, prices.gpu_hour * self.gpu_s / HOUR_S)
        return replace(self, money=money, currency=currency)

    def line(self) -> str:
        """One line, e.g. "0.52 core hours, 104,261 tokens generated, 0.01 USD; 2 starts"."""
        parts = (
            (f"{self.core_s / HOUR_S:.3g} core hours", True),
            (f"{self.gpu_s / HOUR_S:.3g} GPU hours", self.gpu_s),
            (f"{self.tokens_generated:,} tokens generated", self.tokens_generated),
            (f"{self.tokens_trained:,} trained", self.tokens_trained),
            (f"{self.judge_tokens:,} tokens of the judge", self.judge_requests),
            (f"{self.money or 0.0:.4g} {self.currency}", self.money is not None),
        )
        starts = f"; {self.starts} starts" if self.starts > 1 else ""
        return ", ".join(text for text, is_there in parts if is_there) + starts


class LogSum:
    """Cost by the lines of a growing JSONL log, from its beginning again after it was rewritten."""

    def __init__(
        self, path: Path, cost: Callable[[Mapping[str, Any]], Cost], *, whole: Sequence[str] = ()
    ) -> None:
        """`whole` names the fields that the log has over all starts; without them only new lines count."""
        self._path, self._cost, self.whole = path, cost, whole
        self._inode, self._end, self._sum = 0, 0, Cost()
        if not whole:
            self()
            self._sum = Cost()

    def __call__(self) -> Cost:
        if not self._path.is_file():
            return Cost()
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._end:
                self._inode, self._end, self._sum = status.st_ino, 0, Cost()
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._end += len(line)
                with suppress(ValueError):  # the writer has yet to cut off the line of a killed one
                    self._sum += self._cost(json.loads(line))
        return self._sum


class CostMeter:
    """Cost of one start of a run, as a context manager; methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        job: str,
        held: Held,
        *,
        prices: PriceTableSpec | None = None,
        logs: Sequence[LogSum] = (),
        clock: Callable[[], float] = time.monotonic,
        write_every_s: float = WRITE_EVERY_S,
    ) -> None:
        """Continue the cost.json at `path`; `logs` count tokens and judge spend."""
        self._path, self._held, self._prices, self._logs = path, held, prices, logs
        self._clock, self._write_every_s = clock, write_every_s
        self._since, self._generated = clock(), 0
        before = Cost()
        with suppress(DataError):  # a missing or broken file must not keep the run from starting
            before = read_cost(path)
        in_logs = {name: getattr(Cost(), name) for log in logs for name in log.whole}
        self._spent = replace(before, job=job, starts=before.starts + 1, **in_logs)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="cost", daemon=True)

    def __enter__(self) -> CostMeter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(*(() if error is None else (OSError,))):  # a full disk must not hide the run's error
            self.write()

    def hold(self, held: Held | None) -> None:
        """Charge `held` from now on; None stops the clock while parts of the run have meters of their own."""
        with self._lock:
            self._settle()
            self._held = held

    def generated(self, so_far: int) -> None:
        """Set the number of tokens sampled since this start."""
        with self._lock:
            self._spent += Cost(tokens_generated=max(so_far - self._generated, 0))
            self._generated = max(so_far, self._generated)

    def write(self) -> None:
        """Update cost.json. Raises OSError if it cannot be written."""
        with self._lock:
            self._settle()
            cost = sum((log() for log in self._logs), self._spent)
            atomic_write_json(self._path, asdict(cost.priced(self._prices)))

    def _settle(self) -> None:
        now = self._clock()
        wall_s, self._since = now - self._since, now
        if self._held is not None:
            self._spent += Cost("", 0, wall_s, wall_s * self._held.cpus, wall_s * self._held.gpus)

    def _keep_writing(self) -> None:
        while not self._ended.wait(self._write_every_s):
            with suppress(OSError):  # a full disk may have room again before the next write
                self.write()


def read_cost(path: Path) -> Cost:
    """Read a cost.json. Raises DataError if it is missing or broken."""
    try:
        cost = Cost(**json.loads(path.read_text(encoding="utf-8")))
        return cost + Cost()  # raises TypeError for text in place of a number
    except FileNotFoundError:
        raise DataError(f"no {path}; start the run again to write it") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is no cost.json ({type(error).__name__}: {error}); delete it, and the run counts anew"
        ) from None


def cost_files(run_dir: Path) -> list[Path]:
    """The cost.json of a run, then those of its parts."""
    return [file for pattern in PARTS for file in sorted(run_dir.glob(pattern))]


def sum_costs(costs: Iterable[Cost]) -> Cost:
    """Sum over runs; money in several currencies is None."""
    costs = list(costs)
    currencies = {cost.currency for cost in costs if cost.money is not None} or {JUDGE_CURRENCY}
    total = replace(sum(costs, Cost()), currency=min(currencies))
    return total if len(currencies) == 1 else replace(total, money=None)


def _plus(one: Any, other: Any) -> Any:
    """The sum; None counts as unknown."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
