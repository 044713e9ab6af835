from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.shelf.research.evaluated.sources import JsonFile, pointer
from tests.unit.shelf.research.evaluated.evaluated_fixtures import at_pointer


def test_source_has_a_json_pointer_and_the_hash_of_the_bytes(tmp_path: Path) -> None:
    file, content = tmp_path / "a.json", b'{"LoRA/GRPO ~1": [1, null, NaN], "b": {"c": true}}'
    file.write_bytes(content)
    read = JsonFile.read(file)
    key, name = "/LoRA~1GRPO ~01/0", "LoRA/GRPO ~1"
    assert pointer(name, 0) == key and pointer() == ""
    assert at_pointer(json.loads(content), key) == 1
    expected = {"file": str(file), "key": key, "sha256": hashlib.sha256(content).hexdigest()}
    assert read.source(name, 0).as_json() == expected
    assert read.number(name, 0) == 1.0
    for path in ((name, 1), (name, 2), (name, 3), ("b",), ("b", "c"), ("b", "c", "d")):
        assert read.number(*path) is None


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"a": 1', "JSON"), (b"[1]", "list"), (b"\xff{}", "JSON")]
)
def test_source_that_is_broken_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json .*{message}"):
        JsonFile.read(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"b\.json"):
        JsonFile.read(tmp_path / "b.json")
