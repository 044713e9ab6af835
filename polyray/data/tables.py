"""Rows of tables: JSON Lines, CSV, Parquet, and directories of Hugging Face `datasets`. No meaning, no records.

pyarrow and datasets are imported late; reading needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from polyray.data.json_lines import read_objects
from polyray.data.social import read_csv_rows
from polyray.errors import ConfigError, DataError, MissingFile, boundary

Row = tuple[str, dict[str, Any]]
"""(file and row, the start of every message; values of the row)."""
_BATCH_ROWS = 4096
_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_table(path: Path) -> bool:
    """Whether a path is read as a table with columns; any other one is read as JSON Lines."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return path.is_dir() or ".parquet" in suffixes or ".csv" in suffixes


def read_rows(path: Path, *, key: str, example: str) -> Iterator[Row]:
    """Rows of a file by its name (.csv(.gz), .parquet, else JSON Lines) or of a directory that save_to_disk wrote.

    `key` is the configuration's name for the path. Raises DataError.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if path.is_dir():
        yield from table_rows(saved_dataset(path, None, key), str(path))
    elif not path.is_file():
        raise MissingFile(
            f"{path}: no such file; set {key} to JSON Lines (.gz), CSV, Parquet or a directory that save_to_disk "
            f"wrote, with rows such as {example}"
        )
    elif ".parquet" in suffixes:
        yield from _parquet_rows(path)
    elif ".csv" in suffixes:
        yield from ((f"{path}:{number}", row) for number, row in read_csv_rows(path))
    else:
        yield from ((f"{path}:{n}", row) for n, row in read_objects(path, key=key, example=example))


def filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """Row of a table without its empty cells: null and the empty text."""
    return {name: value for name, value in row.items() if value is not None and value != ""}


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` wrote this directory with save_to_disk."""
    return any((path / name).is_file() for name in _SAVED)


def saved_dataset(path: Path, split: str | None, key: str) -> Any:
    """The datasets.Dataset in a directory that save_to_disk wrote; `split` where it holds several.

    Raises DataError where the directory holds none, ConfigError where it cannot be read or `split` is not in it.
    """
    if not is_saved_dataset(path):
        raise DataError(
            f"{path}: a directory without {' or '.join(_SAVED)}; set {key} to a file, or to a directory that "
            "save_to_disk of `datasets` wrote"
        )
    import datasets

    with boundary(ConfigError, f"{key}={str(path)!r} cannot be read by `datasets`"):
        found: Any = datasets.load_from_disk(str(path))
    if not isinstance(found, datasets.DatasetDict):
        return found
    splits = sorted(map(str, found))
    if split is None:
        raise ConfigError(
            f"{key}={str(path)!r} holds the splits {', '.join(splits)}; name one: {key}={path / splits[-1]}"
        )
    if split not in found:
        section = key.rpartition(".")[0]
        raise ConfigError(f"{section}.split={split!r}: {path} has {', '.join(splits)}")
    return found[split]


def table_rows(table: Iterable[Mapping[str, Any]], label: str) -> Iterator[Row]:
    """Rows of a datasets.Dataset, numbered from 0. Raises DataError for one without rows."""
    number = -1
    for number, row in enumerate(table):
        yield f"{label}:row {number}", plain_row(row)
    if number < 0:
        raise DataError(f"{label}: no rows")


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: times as ISO 8601; NaN, which data frames write for what is absent, as None."""
    return {name: _plain(value) for name, value in row.items()}


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    with boundary(DataError, f"{path}: no readable Parquet file; write it again"):
        file = parquet.ParquetFile(path)
    with file:
        batches = file.iter_batches(batch_size=_BATCH_ROWS)
        yield from table_rows((row for batch in batches for row in batch.to_pylist()), str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value
