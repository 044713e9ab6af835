"""A file or directory is the old one or the new one, never something between; nothing is left beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.runs.atomic import atomic_directory, atomic_write_bytes, atomic_write_json


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"a much longer first content")
    atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"old")

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyray.runs.atomic.os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_write_json_refuses_non_json_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "versions" / "3"
    with atomic_directory(target) as building:
        (building / "sub").mkdir()
        (building / "sub" / "weights").write_bytes(b"1")
        assert not target.exists()
    assert (target / "sub" / "weights").read_bytes() == b"1"
    assert names(tmp_path / "versions") == ["3"]


def test_a_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "3"
    with atomic_directory(target) as building:
        (building / "weights").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_directory(target) as building:
        (building / "weights").write_bytes(b"new")
        raise RuntimeError("halfway")
    assert (target / "weights").read_bytes() == b"old"
    assert names(tmp_path) == ["3"]


def test_a_directory_is_replaced_and_leftovers_of_a_kill_are_not_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "3"
    target.mkdir()
    (target / "old-only").write_bytes(b"old")
    leftover = tmp_path / ".3.tmp"
    leftover.mkdir()
    (leftover / "torn").write_bytes(b"torn")
    with atomic_directory(target) as building:
        (building / "weights").write_bytes(b"new")
    assert names(target) == ["weights"]
    assert names(tmp_path) == ["3"]
