"""Format of numbers in the report: few digits, a real minus sign, an interval beside every estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MINUS = "\N{MINUS SIGN}"
MAX_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval.

    Example:
        Interval(value=0.296, low=0.271, high=0.320).excludes_zero  # True
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Interval:
        """From an entry of metrics.json: a metric's ("value") or a comparison's ("difference")."""
        value = entry["difference"] if "difference" in entry else entry["value"]
        return cls(float(value), float(entry["low"]), float(entry["high"]))

    @property
    def excludes_zero(self) -> bool:
        """True where the sign of the estimate is carried by its interval."""
        return self.low > 0 or self.high < 0

    @property
    def direction(self) -> str:
        """higher, lower, or no difference shown: the only words a report may use for a difference."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "no difference shown"


def decimal(value: float, digits: int = 3) -> str:
    """0.416; -0.016 with a real minus sign; never "-0.000"."""
    text = f"{abs(value):.{digits}f}"
    return MINUS + text if value < 0 and float(text) != 0 else text


def signed(value: float, digits: int = 3) -> str:
    """+0.296, with a real minus sign for negative values."""
    text = decimal(value, digits)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def bounds(interval: Interval, digits: int = 3, *, with_sign: bool = False) -> str:
    """[0.271, 0.320]; with more digits where a bound that excludes 0 would be written as 0."""
    write = signed if with_sign else decimal
    nearest = min(abs(interval.low), abs(interval.high))
    if interval.excludes_zero:
        while digits < MAX_DIGITS and float(f"{nearest:.{digits}f}") == 0:
            digits += 1
    return f"[{write(interval.low, digits)}, {write(interval.high, digits)}]"


def percent(share: float) -> str:
    """0.813 -> 81 %"""
    return f"{decimal(100 * share, 0)} %"


def seconds(value: float) -> str:
    """0.25 s, 34 s, 12 min"""
    if value < 10:
        return f"{value:.2f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def is_number(value: Any) -> bool:
    """True for finite ints and floats: metrics rows hold None where a value does not exist."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
