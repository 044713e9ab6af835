"""cost.json: what a run has taken, by phase, as values, and what it costs by a price table.

    {"job", "attempts", "phases": {name: {wall_s, core_s, gpu_s, cpu_s, tokens_generated, tokens_trained, energy_j,
     money}}, "judge": {"requests", "tokens", "money"} | null, "total": {...}, "prices": {...} | null, "notes": [...]}

Money is null where nothing of what was used has a price, never 0 for want of one. Written by cost.py; read by it,
when a run goes on, and by polyray/report/costs.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from polyray.config.cost import PriceTableSpec
from polyray.errors import DataError

HOUR_S = 3600.0
KWH_J = 3.6e6
JUDGE_CURRENCY = "USD"
"""Of judge.prices."""
DECIMALS = 6
"""Of what is written: microseconds, and hardly a price is finer."""
MONEY_NOTE = "money: "
"""Begins those notes that follow from the other values."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one phase has taken; sums with +.

    Example:
        Amounts(wall_s=60.0, core_s=270.0, cpu_s=4.1, tokens_generated=104261, tokens_trained=98112, energy_j=2400.0)
    """

    wall_s: float = 0.0
    core_s: float = 0.0
    """Logical CPUs that were held x wall seconds, whether they computed or waited."""
    gpu_s: float = 0.0
    """GPUs likewise."""
    cpu_s: float = 0.0
    """CPU seconds that the job's own process used, and those of its children that have ended. Workers of Ray are none
    of them."""
    tokens_generated: int = 0
    tokens_trained: int = 0
    energy_j: float | None = None
    """Of the whole machine; None: no counter could be read."""

    def __add__(self, other: Amounts) -> Amounts:
        energies = [joules for joules in (self.energy_j, other.energy_j) if joules is not None]
        return Amounts(
            self.wall_s + other.wall_s,
            self.core_s + other.core_s,
            self.gpu_s + other.gpu_s,
            self.cpu_s + other.cpu_s,
            self.tokens_generated + other.tokens_generated,
            self.tokens_trained + other.tokens_trained,
            sum(energies) if energies else None,
        )

    def as_row(self) -> dict[str, Any]:
        """Plain values without the noise of adding floats."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {
            name: round(value, DECIMALS) if isinstance(value, float) else value
            for name, value in values.items()
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Amounts:
        """Raises KeyError, TypeError or ValueError for what `as_row` did not write."""
        values = {entry.name: row[entry.name] for entry in fields(Amounts)}
        for name, value in values.items():
            if value is None and name == "energy_j":
                continue
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}={value!r} is no amount")
        return Amounts(**values)


@dataclass(frozen=True, slots=True)
class JudgeSpend:
    """What an LLM judge has been asked, over all starts.

    Example:
        JudgeSpend(requests=96, tokens=81204, money=0.21)
    """

    requests: int
    tokens: int
    """Input and output."""
    money: float | None
    """In dollars, as judge.prices are; None: no prices are configured."""

    def __add__(self, other: JudgeSpend) -> JudgeSpend:
        return JudgeSpend(
            self.requests + other.requests, self.tokens + other.tokens, add_money(self.money, other.money)
        )

    def as_row(self) -> dict[str, Any]:
        """Plain values."""
        money = None if self.money is None else round(self.money, DECIMALS)
        return {"requests": self.requests, "tokens": self.tokens, "money": money}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> JudgeSpend:
        """Raises KeyError, TypeError or ValueError for what `as_row` did not write."""
        money = None if row["money"] is None else float(row["money"])
        return JudgeSpend(int(row["requests"]), int(row["tokens"]), money)


@dataclass(frozen=True, slots=True)
class CostRecord:
    """The contents of a cost.json.

    Example:
        CostRecord(job="train", attempts=2, phases={"start": Amounts(...), "train": Amounts(...)})
    """

    job: str
    attempts: int
    """How often the run was started."""
    phases: Mapping[str, Amounts]
    judge: JudgeSpend | None = None
    prices: PriceTableSpec | None = None
    notes: tuple[str, ...] = ()
    """What the numbers lack, in words."""

    @property
    def total(self) -> Amounts:
        """Over all phases."""
        return sum(self.phases.values(), Amounts())

    @property
    def money(self) -> float | None:
        """Of everything that has a price, the judge's answers included where their currency is the table's."""
        return add_money(money_of(self.total, self.prices), self._judge_money)

    @property
    def currency(self) -> str:
        """Of `money`."""
        return JUDGE_CURRENCY if self.prices is None else self.prices.currency

    @property
    def _judge_money(self) -> float | None:
        return self.judge.money if self.judge is not None and self.currency == JUDGE_CURRENCY else None

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        total = self.total
        return {
            "job": self.job,
            "attempts": self.attempts,
            "phases": {
                name: amounts.as_row() | {"money": _rounded(money_of(amounts, self.prices))}
                for name, amounts in self.phases.items()
            },
            "judge": None if self.judge is None else self.judge.as_row(),
            "total": total.as_row() | {"money": _rounded(self.money)},
            "prices": None if self.prices is None else self.prices.model_dump(mode="json"),
            "notes": list(dict.fromkeys([*self.notes, *self._not_in_the_money()])),
        }

    def _not_in_the_money(self) -> Iterable[str]:
        total, prices, judge = self.total, self.prices, self.judge
        if judge is not None and judge.money is None:
            yield f"{MONEY_NOTE}the judge's tokens are not in it: judge.prices is not set"
        elif judge is not None and self._judge_money is None:
            yield f"{MONEY_NOTE}the judge's, in {JUDGE_CURRENCY}, is not in the total, in {self.currency}"
        if prices is None:
            return
        for what, name, used in (("cores", "core_hour", total.core_s), ("GPUs", "gpu_hour", total.gpu_s)):
            if used and getattr(prices, name) is None:
                yield f"{MONEY_NOTE}{what} are not in it: prices.{name} is not set"
        if prices.kwh is not None and total.energy_j is None:
            yield f"{MONEY_NOTE}energy is not in it: it could not be measured"


def money_of(amounts: Amounts, prices: PriceTableSpec | None) -> float | None:
    """What the priced part of `amounts` costs; None where no part of it has a price."""
    if prices is None:
        return None
    used = (
        (prices.core_hour, amounts.core_s / HOUR_S),
        (prices.gpu_hour, amounts.gpu_s / HOUR_S),
        (prices.kwh, (amounts.energy_j or 0.0) / KWH_J),
    )
    parts = [price * quantity for price, quantity in used if price is not None and quantity > 0]
    return sum(parts) if parts else None


def add_money(one: float | None, other: float | None) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = [money for money in (one, other) if money is not None]
    return sum(known) if known else None


def add_judges(one: JudgeSpend | None, other: JudgeSpend | None) -> JudgeSpend | None:
    """The sum of those that were asked; None where none was."""
    return one + other if one is not None and other is not None else one or other


def read_cost(path: Path) -> CostRecord:
    """Raises DataError where there is no such file, or where it is no cost.json."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        judge, prices = values["judge"], values["prices"]
        return CostRecord(
            job=str(values["job"]),
            attempts=int(values["attempts"]),
            phases={str(name): Amounts.from_row(row) for name, row in values["phases"].items()},
            judge=None if judge is None else JudgeSpend.from_row(judge),
            prices=None if prices is None else PriceTableSpec.model_validate(prices),
            # Those on money follow from the rest, and are said again.
            notes=tuple(note for note in values["notes"] if not note.startswith(MONEY_NOTE)),
        )
    except FileNotFoundError:
        raise DataError(f"no {path}; every run that was started since costs are kept has one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no cost.json ({type(error).__name__}: {error}); delete it, and the run counts anew"
        ) from None


def cost_line(record: CostRecord) -> str:
    """The cost of a run in one line.

    Example:
        0.52 core hours, 104,261 tokens generated, 98,112 trained, 0.01 USD; 2 starts
    """
    total, judge = record.total, record.judge
    parts = [f"{total.core_s / HOUR_S:.3g} core hours"]
    if total.gpu_s:
        parts.append(f"{total.gpu_s / HOUR_S:.3g} GPU hours")
    if total.tokens_generated:
        parts.append(f"{total.tokens_generated:,} tokens generated")
    if total.tokens_trained:
        parts.append(f"{total.tokens_trained:,} trained")
    if total.energy_j is not None:
        parts.append(f"{total.energy_j / HOUR_S:.3g} Wh")
    if judge is not None:
        parts.append(f"{judge.tokens:,} tokens of the judge")
    if record.money is not None:
        parts.append(f"{record.money:.4g} {record.currency}")
    return ", ".join(parts) + (f"; {record.attempts} starts" if record.attempts > 1 else "")


def _rounded(money: float | None) -> float | None:
    return None if money is None else round(money, DECIMALS)
