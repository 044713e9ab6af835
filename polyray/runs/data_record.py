"""data.json: hashes of a run's data files at its start, so that a later file is not taken for its data.

    {"task.path": ["sha256"], "data.validation": ["sha256 at the first start", "at a later one, if it differs"]}

Written by run_directory.py beside config.json, for runs that train; read by polyray/shelf/export/run_adapters.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from polyray.runs.atomic import atomic_write_json

SECTIONS = ("task", "data")
"""Sections of a configuration that name data."""
DATA_KEYS = frozenset(
    {
        "path",
        "train_path",
        "test_path",
        "held_out_path",
        "reference_path",
        "inputs_path",
        "train",
        "validation",
    }
)
"""Their values that name files."""


def data_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """Dotted key -> the file that a configuration (plain values) names there, e.g. data.train."""
    return {
        key: Path(name).expanduser()
        for section in SECTIONS
        for key, name in _named(config.get(section), section)
    }


def record_data(record: Path, config: Mapping[str, Any]) -> None:
    """Adds what the files hold now to `record`, where that is not what it says last; without files nothing."""
    known = recorded_data(record)
    before = json.dumps(known)
    for key, file in data_files(config).items():
        if file.exists() and (digest := sha256_of(file)) not in known.get(key, [])[-1:]:
            known.setdefault(key, []).append(digest)
    if json.dumps(known) != before:
        atomic_write_json(record, known)


def put_before(record: Path, earlier: Mapping[str, list[str]]) -> None:
    """Prepend the record of earlier starts, made elsewhere, to `record`."""
    merged = {key: list(digests) for key, digests in earlier.items()}
    for key, digests in recorded_data(record).items():
        known = merged.setdefault(key, [])
        shared = min(len(known), len(digests))
        if known[:shared] == digests[:shared]:  # one record continues the other
            known += digests[shared:]
        else:
            known += digests[1:] if digests[:1] == known[-1:] else digests
    atomic_write_json(record, merged)


def recorded_data(record: Path) -> dict[str, list[str]]:
    """Dotted key -> sha256 at each start at which it was another; empty without a record."""
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}


def sha256_of(file: Path) -> str:
    """In hex; a file is read piece by piece. A directory has the hash of its files' names and hashes."""
    if file.is_dir():
        parts = [(part.name, sha256_of(part)) for part in sorted(file.iterdir())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _named(value: Any, dotted: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _named(entry, f"{dotted}.{key}")
    elif dotted.rpartition(".")[2] in DATA_KEYS and isinstance(value, str) and value != "builtin":
        yield dotted, value
