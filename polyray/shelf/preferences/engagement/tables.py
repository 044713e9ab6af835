"""Rows of tables, wherever they lie: JSON Lines, CSV, Parquet, a Hugging Face data set. No meaning, no records.

pyarrow and datasets are imported late. Called by reading.py and importing.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.data.json_lines import read_objects
from polyray.data.social import read_csv_rows
from polyray.errors import ConfigError, DataError, MissingFile, boundary

if TYPE_CHECKING:
    from polyray.config.curate import HubSource

Row = tuple[str, dict[str, Any]]
"""(where it stands, the start of every message; its values)."""
_BATCH_ROWS = 4096


def read_rows(path: Path, *, key: str, example: str) -> Iterator[Row]:
    """Rows of a file by its name: .csv(.gz), .parquet, else JSON Lines. Raises DataError."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not path.is_file():
        raise MissingFile(
            f"{path}: no such file; set {key} to JSON Lines (.gz), CSV or Parquet with rows such as {example}"
        )
    if ".parquet" in suffixes:
        yield from _parquet_rows(path)
    elif ".csv" in suffixes:
        yield from ((f"{path}:{number}", row) for number, row in read_csv_rows(path))
    else:
        yield from ((f"{path}:{n}", row) for n, row in read_objects(path, key=key, example=example))


def hub_rows(spec: HubSource) -> Iterator[Row]:
    """Rows of a data set of the hub, or of a directory that save_to_disk wrote.

    Raises ConfigError where it cannot be had: no network, no such name, no such split.
    """
    import datasets

    label = f"{spec.name}[{spec.split}]"
    directory = Path(spec.name)
    if (directory / "dataset_info.json").is_file() or (directory / "dataset_dict.json").is_file():
        with boundary(ConfigError, f"source.name={spec.name!r} cannot be read by `datasets`"):
            found: Any = datasets.load_from_disk(str(directory))
        if isinstance(found, datasets.DatasetDict):
            if spec.split not in found:
                raise ConfigError(
                    f"source.split={spec.split!r}: {directory} has {', '.join(sorted(map(str, found)))}"
                )
            found = found[spec.split]
    else:
        with boundary(
            ConfigError,
            f"source.name={spec.name!r}, split {spec.split!r} cannot be had from the Hugging Face hub (is there a "
            "network, is HF_HUB_OFFLINE set, is the name right?); download it and use source.type=export with the "
            "file, or a directory that save_to_disk wrote",
        ):
            found = datasets.load_dataset(
                spec.name, spec.subset, split=spec.split, revision=spec.revision, streaming=False
            )
    for number, row in enumerate(found):
        yield f"{label}:{number}", _plain_row(row)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    with boundary(DataError, f"{path}: no readable Parquet file; write it again"):
        file = parquet.ParquetFile(path)
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                yield f"{path}:row {number}", _plain_row(row)
                number += 1
    if number == 0:
        raise DataError(f"{path}: no rows")


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """Times as ISO 8601; NaN, which data frames write for what is absent, as None."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value
