from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.shelf.research.evaluated.sources import JsonFile, number_at, pointer
from tests.unit.shelf.research.evaluated.evaluated_fixtures import at_pointer


def test_a_place_is_a_json_pointer() -> None:
    assert pointer("models", "LoRA/GRPO ~1", 0) == "/models/LoRA~1GRPO ~01/0"
    assert at_pointer({"models": {"LoRA/GRPO ~1": [7]}}, "/models/LoRA~1GRPO ~01/0") == 7
    assert pointer() == ""


def test_a_source_has_the_hash_of_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'{"a": [1, null, NaN]}')
    read = JsonFile.read(file)
    source = read.source("a", 0)
    assert source.as_json() == {
        "file": str(file), "key": "/a/0", "sha256": hashlib.sha256(b'{"a": [1, null, NaN]}').hexdigest(),
    }  # fmt: skip
    assert read.number("a", 0) == 1.0
    assert [read.number("a", place) for place in (1, 2, 3)] == [None, None, None]


def test_ways_that_end_lead_to_no_number() -> None:
    values = {"a": {"b": 2}, "c": True}
    assert number_at(values, "a", "b") == 2.0
    assert number_at(values, "a") is None
    assert number_at(values, "a", "b", "c") is None
    assert number_at(values, "c") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1', "JSON"), ("[1]", "list"), (b"\xff{}", "JSON")],
)
def test_broken_files_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"a\.json .*{message}"):
        JsonFile.read(file)
    with pytest.raises(DataError, match=r"b\.json"):
        JsonFile.read(tmp_path / "b.json")
