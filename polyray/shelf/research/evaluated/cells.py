"""Cells and tables, and how their numbers are written. Called by tables.py and table_text.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyray.report.numbers import Interval, bounds, decimal, is_number, signed
from polyray.shelf.research.evaluated.sources import Source

NONE = "\N{EN DASH}"
"""Placeholder of a number that does not exist."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: text, and the places its number was read from; none for a name.

    Example:
        Cell("0.762 [0.745, 0.779]", (Source("runs/e/evaluation/metrics.json", "/models/a/pass_at_k/8", "9f86..."),))
    """

    text: str
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under titles; the first `num_names` columns are names.

    Example:
        Table(name="criteria", caption="Success criteria.", columns=("criterion", "value"), rows=((Cell("p"),
              Cell("0.01")),), num_names=1)
    """

    name: str
    """Name of its files."""
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_names: int


def interval_text(entry: Mapping[str, Any] | None, digits: int, *, with_sign: bool = False) -> str:
    """0.762 [0.745, 0.779]; a dash where there is no number, no brackets where there is no interval."""
    name = "difference" if entry and "difference" in entry else "value"
    if not entry or not is_number(entry.get(name)):
        return NONE
    text = (signed if with_sign else decimal)(entry[name], digits)
    if not (is_number(entry.get("low")) and is_number(entry.get("high"))):
        return text
    return f"{text} {bounds(Interval.of(dict(entry)), digits, with_sign=with_sign)}"


def p_text(value: Any) -> str:
    """0.0072; < 0.0001 in place of 0.0000."""
    if not is_number(value):
        return NONE
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def amount_text(value: Any) -> str:
    """12,345 from 100 on, else with two decimals; whole numbers without."""
    if not is_number(value):
        return NONE
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.2f}"
