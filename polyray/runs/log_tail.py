"""New lines of a JSONL log that another process writes, cuts and goes on with. Called by cost accounts."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class LogTail:
    """Each line once, when it first appears; a log that was cut is followed from where it was cut.

    Steps that are trained again after a crash are new lines: their times differ. What is kept of a line is eight
    bytes. An absent log has no lines yet.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        """`from_start`: the lines that are already there count as new."""
        self._path = path
        self._known = array("q")
        self._end = 0
        self._inode = 0
        if not from_start:
            for _ in self._lines():
                pass

    def new(self) -> list[dict[str, Any]]:
        """What has appeared since the last call, whole lines only; what is no JSON object is passed over."""
        return [record for line in self._lines() if (record := _decoded(line)) is not None]

    def _lines(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            kept = self._find_place(file)
            for line in _whole_lines(file):
                self._end += len(line)
                mark = hash(line)
                if kept < len(self._known):
                    if self._known[kept] == mark:
                        kept += 1
                        continue
                    del self._known[kept:]
                self._known.append(mark)
                kept += 1
                yield line
            del self._known[kept:]

    def _find_place(self, file: IO[bytes]) -> int:
        """Seeks to what may be new; returns how many known lines lie before it: 0 where the log was rewritten."""
        file.seek(0, 2)
        inode = os.fstat(file.fileno()).st_ino
        was_cut = inode != self._inode or file.tell() < self._end
        self._inode = inode
        if was_cut:
            self._end = 0
        file.seek(self._end)
        return 0 if was_cut else len(self._known)


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield line


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
