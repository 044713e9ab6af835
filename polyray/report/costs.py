"""The cost.json files of runs as one table: a row for every run and phase, and their sums; as numbers and as text.

    read_costs(["runs/quickstart", "runs/first"]) -> CostTable

A run that consists of runs (quickstart, sweep) has their phases in its own file, as PART/PHASE: the files below it
are not read again. A file that is missing or broken is a line of `problems` in the place of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.errors import DataError
from polyray.report.numbers import seconds
from polyray.runs.cost_record import (
    HOUR_S,
    JUDGE_CURRENCY,
    KWH_J,
    Amounts,
    CostRecord,
    JudgeSpend,
    add_judges,
    add_money,
    money_of,
    read_cost,
)
from polyray.runs.run_directory import RunPaths

ALL = "all"
JUDGE = "judge API"
"""The phase of what was paid to a judge; polyray judge has a phase of its own."""
TOTAL = "total"


@dataclass(frozen=True, slots=True)
class CostRow:
    """Cost of one phase of one run, of the judge of one run, or a sum.

    Example:
        CostRow(run="first", job="train", phase="train", amounts=Amounts(...), money=0.01, currency="USD")
    """

    run: str
    job: str
    phase: str
    amounts: Amounts
    money: float | None
    """None: not priced."""
    currency: str | None
    """Currency; None without money, or for sums in several currencies."""
    judge: JudgeSpend | None = None
    """Spending of the judge, in the rows JUDGE and TOTAL."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts for pages: wall time, core hours, GPU hours, tokens generated and trained, energy, money."""
        amounts = self.amounts
        return (
            seconds(amounts.wall_s),
            f"{amounts.core_s / HOUR_S:.3g}",
            f"{amounts.gpu_s / HOUR_S:.3g}",
            f"{amounts.tokens_generated:,.0f}",
            f"{amounts.tokens_trained:,.0f}",
            "unknown" if amounts.energy_j is None else f"{amounts.energy_j / KWH_J:.3g} kWh",
            "unpriced" if self.money is None else f"{self.money:.4g} {self.currency or ''}".strip(),
        )

    def as_row(self) -> dict[str, Any]:
        """Plain values in hours, tokens and kWh, for tables; None is unknown, or not priced."""
        amounts, judge = self.amounts, self.judge
        return {
            "run": self.run,
            "job": self.job,
            "phase": self.phase,
            "wall_hours": amounts.wall_s / HOUR_S,
            "core_hours": amounts.core_s / HOUR_S,
            "gpu_hours": amounts.gpu_s / HOUR_S,
            "cpu_hours": amounts.cpu_s / HOUR_S,
            "tokens_generated": amounts.tokens_generated,
            "tokens_trained": amounts.tokens_trained,
            "tokens_judge": 0 if judge is None else judge.tokens,
            "energy_kwh": None if amounts.energy_j is None else amounts.energy_j / KWH_J,
            "money": self.money,
            "currency": self.currency,
        }


@dataclass(frozen=True, slots=True)
class CostTable:
    """All rows that were found.

    Example:
        CostTable(rows=(CostRow("first", "train", "start", ...), ...), totals=(CostRow("first", "train", "total",
        ...),), total=CostRow("all", "", "total", ...), notes=("first: energy is ...",), problems=())
    """

    rows: tuple[CostRow, ...]
    """Rows of each run: its phases in order, then its judge, if it has one."""
    totals: tuple[CostRow, ...]
    """One for every run."""
    total: CostRow
    """Sum over all runs."""
    notes: tuple[str, ...]
    """Gaps in the numbers of a run, with the run's name."""
    problems: tuple[str, ...]
    """Runs without a number, and why."""
    shown: tuple[CostRow, ...] = ()
    """Rows for people: each run's rows, with its total if it has several; at the end the sum over several runs."""


def read_costs(paths: Sequence[str | Path]) -> CostTable:
    """Runs, and directories of runs; one that is named twice counts once."""
    found: dict[Path, CostRecord] = {}
    problems: list[str] = []
    for directory in _run_directories(paths):
        try:
            found.setdefault(directory.resolve(), read_cost(RunPaths(directory).cost))
        except DataError as error:
            problems.append(f"{directory.name}: {error}")
    records = [(directory.name, record) for directory, record in found.items()]
    rows = [_rows_of(name, record) for name, record in records]
    totals = tuple(_total_of(name, record) for name, record in records)
    total = _sum(totals)
    shown = [row for own, sum_of in zip(rows, totals, strict=True) for row in _with_total(own, sum_of)]
    return CostTable(
        rows=tuple(row for own in rows for row in own),
        totals=totals,
        total=total,
        shown=(*shown, total) if len(totals) > 1 else tuple(shown),
        notes=tuple(f"{name}: {note}" for name, record in records for note in record.as_json()["notes"]),
        problems=tuple(dict.fromkeys(problems)),
    )


def _run_directories(paths: Sequence[str | Path]) -> list[Path]:
    """A path itself, or the runs below it: those that a run has as its parts are in its own file."""
    directories: list[Path] = []
    for path in map(Path, paths):
        below = sorted(path.iterdir()) if path.is_dir() and not RunPaths(path).cost.exists() else []
        runs = [child for child in below if RunPaths(child).cost.exists()]
        directories += runs or [path]
    return directories


def _rows_of(name: str, record: CostRecord) -> list[CostRow]:
    rows = []
    for phase, amounts in record.phases.items():
        money = money_of(amounts, record.prices)
        rows.append(CostRow(name, record.job, phase, amounts, money, _currency(money, record.currency)))
    if record.judge is not None:
        money = record.judge.money
        paid_in = _currency(money, JUDGE_CURRENCY)
        rows.append(CostRow(name, record.job, JUDGE, Amounts(), money, paid_in, record.judge))
    return rows


def _with_total(rows: Sequence[CostRow], total: CostRow) -> list[CostRow]:
    return list(rows) if len(rows) == 1 else [*rows, total]


def _total_of(name: str, record: CostRecord) -> CostRow:
    currency = _currency(record.money, record.currency)
    return CostRow(name, record.job, TOTAL, record.total, record.money, currency, record.judge)


def _sum(totals: Sequence[CostRow]) -> CostRow:
    """Money in several currencies is not added."""
    amounts = Amounts()
    money: float | None = None
    judge: JudgeSpend | None = None
    currencies = {row.currency for row in totals if row.currency is not None}
    for row in totals:
        amounts += row.amounts
        money = add_money(money, row.money)
        judge = add_judges(judge, row.judge)
    if len(currencies) != 1:
        return CostRow(ALL, "", TOTAL, amounts, None, None, judge)
    return CostRow(ALL, "", TOTAL, amounts, money, currencies.pop(), judge)


def _currency(money: float | None, currency: str) -> str | None:
    return None if money is None else currency
