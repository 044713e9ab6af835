"""Append-only logs of one JSON object a line, which a kill at any moment leaves readable.

A line is written by a single system call, so at most the last one can be torn; a line without its newline
is torn and counts as never written. On resume a log is cut back to what the checkpoint covers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from polyray.errors import DataError
from polyray.runs.atomic import atomic_write_bytes

Record = dict[str, Any]


class JsonlWriter:
    """Appends whole lines to `path`; a torn line left by a killed writer is removed first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._descriptor, len(_whole_lines(path.read_bytes())))

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line; numpy values become plain ones, NaN and infinities null."""
        line = encode_line(record)
        if os.write(self._descriptor, line) != len(line):
            raise DataError(f"{self._path}: a line of {len(line)} bytes did not fit; free disk space")

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode_line(record: Mapping[str, Any]) -> bytes:
    """One line of JSON in UTF-8, with its newline."""
    return json.dumps(_plain(record), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def read_jsonl(path: Path) -> list[Record]:
    """All whole lines; an absent file has none. Raises DataError naming a line that is no JSON object."""
    if not path.is_file():
        return []
    return decode_lines(_whole_lines(path.read_bytes()), path)


def decode_lines(whole_lines: bytes, path: Path) -> list[Record]:
    """The records of whole lines of `path`, which is only named in the DataError for one that is none."""
    lines = whole_lines.splitlines()
    return [_decode(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def cut_jsonl(path: Path, keep: Callable[[Record], bool]) -> int:
    """Rewrites `path` with the lines that `keep` wants and without a torn one; returns how many are left."""
    if not path.is_file():
        return 0
    kept = [record for record in read_jsonl(path) if keep(record)]
    atomic_write_bytes(path, b"".join(encode_line(record) for record in kept))
    return len(kept)


def before_step(step: int) -> Callable[[Record], bool]:
    """The `keep` of a log, for a checkpoint after `step` complete steps, numbered from 0."""
    return lambda record: record["step"] < step


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _decode(line: bytes, where: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); remove the line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a {type(record).__name__}, not an object; remove the line")
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
