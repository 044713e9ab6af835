"""JSON Lines files, one object a line: the reader that every file of rows goes through.

Callers (tasks, data loaders) check the contents of an object. Needs no other module of polyray.data
or polyray.tasks, so that both may import it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyray.errors import DataError, MissingFile, boundary


def read_objects(path: Path, *, key: str, example: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank; a name that ends in .gz is unpacked.

    Raises DataError for a file that is absent, empty or damaged and for a line that is no object; `key` is
    the configuration's name for the file, `example` a line as it should be.
    """
    if not path.is_file():
        raise MissingFile(
            f"{path}: no such file; set {key} to a JSON Lines file with lines such as {example}"
        )
    empty = True
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if line.strip():
            empty = False
            yield number, _object(line, f"{path}:{number}", example)
    if empty:
        raise DataError(f"{path}: the file is empty; it needs lines such as {example}")


def read_bytes(path: Path) -> bytes:
    """The file's content; a name that ends in .gz is unpacked. Raises DataError for a damaged archive."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        with boundary(DataError, f"{path}: not a whole gzip file; write it again, or remove .gz"):
            content = gzip.decompress(content)
    return content


def _object(line: bytes, where: str, example: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{where}: not valid JSON ({error}); a line is one object such as {example}"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a {type(record).__name__}, not an object; a line looks like {example}")
    return record
