"""A file or directory is the old one or the new one; no leftovers stay beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.runs.atomic import atomic_directory, atomic_write_bytes, atomic_write_json


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_atomic_write_replaces_a_file_whole_or_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"a much longer first content")
    atomic_write_bytes(path, b"old")
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(path, {"loss": float("nan")})

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyray.runs.atomic.os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_atomic_directory_appears_when_complete_and_ignores_leftovers_of_a_kill(tmp_path: Path) -> None:
    target = tmp_path / "versions" / "3"
    leftover = tmp_path / "versions" / ".3.tmp"
    leftover.mkdir(parents=True)
    (leftover / "torn").write_bytes(b"torn")
    with atomic_directory(target) as building:
        (building / "sub").mkdir()
        (building / "sub" / "weights").write_bytes(b"1")
        assert not target.exists()
    assert (target / "sub" / "weights").read_bytes() == b"1"
    with atomic_directory(target) as building:
        (building / "weights").write_bytes(b"2")
    assert (names(target), names(tmp_path / "versions")) == (["weights"], ["3"])
    with pytest.raises(RuntimeError, match="halfway"), atomic_directory(target) as building:
        (building / "weights").write_bytes(b"new")
        raise RuntimeError("halfway")
    assert (target / "weights").read_bytes() == b"2"
    assert names(tmp_path / "versions") == ["3"]
