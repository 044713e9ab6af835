"""Files of evaluation records, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from polyray.evaluation.records import ResultRecord, SampleRecord, as_line


def write_lines(path: Path, records: Iterable[SampleRecord | ResultRecord]) -> None:
    """Writes one line per record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(as_line, records)), encoding="utf-8")
