"""Checked fields of one row of a data file: every wrong value is a DataError naming place, value and fix.

Used by the loaders of this package for rows of JSON Lines and of CSV, where every value is text. Not for
configuration (pydantic models) nor for SFT rows (records.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from polyray.errors import DataError

_SHOWN_CHARS = 60
ValueT = TypeVar("ValueT")
_ABSENT: tuple[Any, ...] = (None, "")


@dataclass(frozen=True, slots=True)
class RowFields:
    """One row and its place in its file.

    Example:
        RowFields({"reply": "Thanks!", "likes": "12"}, where="export.csv:3").number("likes")  # 12.0
    """

    values: Mapping[str, Any]
    where: str
    """file:line, the start of every message."""

    def check_known(self, known: Sequence[str], advice: str) -> None:
        """DataError for the first field that is not in `known`; `advice` says what to do about it."""
        unknown = sorted(name for name in self.values if name not in known)
        if unknown:
            raise self.error(f"unknown field {unknown[0]!r}; known: {', '.join(known)}; {advice}")

    def has(self, key: str) -> bool:
        """Whether there is a value: neither absent nor null nor an empty text."""
        return self.values.get(key) not in _ABSENT

    def text(self, key: str, *, strip: bool = True) -> str:
        """A text that is not blank, without the white space around it unless `strip` is False."""
        value = self.optional_text(key)
        if not value:
            found = f"{key!r} is empty" if key in self.values else f"there is no {key!r}"
            raise self.error(f"{found}; every row needs it as text")
        return value if strip else self.values[key]

    def optional_text(self, key: str) -> str:
        """The text without the white space around it; "" where it is absent or null."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(f"{key!r} is {_shown(value)}, a {type(value).__name__}; write it as text")
        return value.strip()

    def number(self, key: str) -> float:
        """A finite number; in CSV files a text that is one."""
        value = self.values.get(key)
        if not self.has(key):
            raise self.error(f"there is no {key!r}; every row needs it as a number")
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(f"{key!r} is {_shown(value)}; write a finite number such as 12")
        return number

    def count(self, key: str) -> int:
        """A whole number, at least 0."""
        number = self.number(key)
        if number < 0 or number != math.floor(number):
            raise self.error(
                f"{key!r} is {_shown(self.values[key])}; write a count: a whole number, at least 0"
            )
        return int(number)

    def error(self, message: str) -> DataError:
        """`message` with the place in front, to be raised."""
        return DataError(f"{self.where}: {message}")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."


def required(row: Mapping[str, Any], name: str, kind: type[ValueT], where: str) -> ValueT:
    """Field `name` of a JSON row as it is. Raises DataError where it is absent or no `kind`."""
    if name not in row:
        raise DataError(f"{where}: field {name!r} is missing; there are {', '.join(sorted(row)) or 'none'}")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: field {name!r} is a {type(value).__name__}; write a {kind.__name__}")
    return value
