"""Source of a number: a JSON file, a place in it, and the hash of the file as it was read.

A place is a JSON pointer (RFC 6901), so that any reader can look the number up. Called by everything here that
writes a number of another file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polyray.errors import DataError
from polyray.report.numbers import is_number


@dataclass(frozen=True, slots=True)
class Source:
    """One place in one file.

    Example:
        Source(file="runs/e/evaluation/metrics.json", key="/models/GRPO/pass_at_k/8", sha256="9f86d0...")
    """

    file: str
    key: str
    """JSON pointer; "" is the whole file."""
    sha256: str
    """sha256 of the file's bytes."""

    def as_json(self) -> dict[str, str]:
        """JSON entry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A file with one JSON object, and the hash of the bytes that were parsed.

    Example:
        JsonFile(path=Path("runs/e/cost.json"), sha256="9f86d0...", values={"wall_s": 12.5})
    """

    path: Path
    sha256: str
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> JsonFile:
        """Raises DataError for a file that is missing, broken or no object."""
        if not path.is_file():
            raise DataError(f"there is no {path}; give the directory of a run that wrote it")
        content = path.read_bytes()
        try:
            values = json.loads(content)
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON ({error}); run the job that writes it again") from None
        if not isinstance(values, dict):
            raise DataError(f"{path} holds a {type(values).__name__}; an object is expected")
        return cls(path, hashlib.sha256(content).hexdigest(), values)

    def source(self, *keys: str | int) -> Source:
        """The place that these keys lead to."""
        return Source(str(self.path), pointer(*keys), self.sha256)

    def number(self, *keys: str | int) -> float | None:
        """Number at a place; None if the place does not exist, and for null."""
        return number_at(self.values, *keys)


def number_at(values: Any, *keys: str | int) -> float | None:
    """The finite number that these keys lead to, or None."""
    for key in keys:
        if isinstance(values, dict):
            values = values.get(key)
        elif isinstance(values, list) and isinstance(key, int) and key < len(values):
            values = values[key]
        else:
            return None
    return float(values) if is_number(values) else None


def pointer(*keys: str | int) -> str:
    """("models", "a/b", 0) -> /models/a~1b/0"""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)
