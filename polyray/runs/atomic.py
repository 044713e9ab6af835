"""Files and directories that are either complete or not there: a temporary name, fsync, then a rename.

Temporary names begin with a dot, beside the target. One writer per target is assumed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Writes or replaces `path`; a reader sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def atomic_write_text(path: Path, content: str) -> None:
    """`atomic_write_bytes` in UTF-8."""
    atomic_write_bytes(path, content.encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """Indented JSON. Raises ValueError for NaN and infinities, which JSON does not have."""
    atomic_write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory that becomes `path` when the block ends without an exception.

    An existing `path` is replaced; between the two renames of a replacement a reader may find neither.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    replaced = path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            path.rename(replaced)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_directory(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for item in directory.rglob("*"):
        if item.is_dir():
            _sync_directory(item)
        else:
            with item.open("rb") as file:
                os.fsync(file.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
