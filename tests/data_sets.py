"""Paths of real data sets, which the project does not carry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_data(name: str) -> Path:
    """The file `name`, e.g. "code/HumanEval.jsonl.gz"; skips the test where it is absent."""
    directory = Path(os.environ.get("POLYRAY_SHARED_DATA", ROOT.parent / "shared" / "data"))
    path = directory / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set POLYRAY_SHARED_DATA to the directory that holds {name}")
    return path
