"""Record of an export in its polyray.json: the request, and the sha256 of each of its files.

So the same command can send again what it wrote before, and only that. Called by polyray export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyray.models.base_files import MANIFEST
from polyray.runs.atomic import atomic_write_json
from polyray.runs.data_record import sha256_of

RECORD = "export"


def seal_export(directory: Path, asked: Mapping[str, Any]) -> None:
    """Adds the record to a complete export; `asked` is plain values."""
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    record = {"asked": dict(asked), "files": _hashes(directory)}
    atomic_write_json(directory / MANIFEST, manifest | {RECORD: record})


def difference_from_export(directory: Path, asked: Mapping[str, Any]) -> str | None:
    """Difference between a directory and the export that `seal_export` recorded, in words; None without one."""
    manifest = directory / MANIFEST
    record = json.loads(manifest.read_text(encoding="utf-8")).get(RECORD) if manifest.is_file() else None
    if record is None:
        return f"no export is recorded in its {MANIFEST}"
    for key in asked:
        if record["asked"].get(key) != asked[key]:
            return f"its {key} is {record['asked'].get(key)}, asked for is {asked[key]}"
    files, known = _hashes(directory), record["files"]
    changed = sorted(name for name in files | known if files.get(name) != known.get(name))
    return f"{', '.join(changed)} changed since it was written" if changed else None


def _hashes(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    return {path.relative_to(directory).as_posix(): sha256_of(path) for path in sorted(files)}
