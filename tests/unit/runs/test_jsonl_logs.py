"""Logs that a kill leaves readable, and what resume cuts away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from polyray.errors import DataError
from polyray.runs.jsonl import JsonlWriter, before_step, cut_jsonl, read_jsonl


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"step": 0, "text": "λ\nnext"})
        assert path.read_text(encoding="utf-8") == '{"step": 0, "text": "λ\\nnext"}\n'
        writer.write({"step": 1})
    assert read_jsonl(path) == [{"step": 0, "text": "λ\nnext"}, {"step": 1}]


def test_numpy_becomes_plain_and_nan_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(
            {
                "loss": np.float32(0.5),
                "count": np.int64(3),
                "bad": float("nan"),
                "rewards": np.array([1.0, np.inf]),
                "flags": (np.bool_(True), None),
            }
        )
    assert json.loads(path.read_text()) == {
        "loss": 0.5,
        "count": 3,
        "bad": None,
        "rewards": [1.0, None],
        "flags": [True, None],
    }


def test_a_torn_last_line_counts_as_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}')
    assert read_jsonl(path) == [{"step": 0}]
    with JsonlWriter(path) as writer:
        writer.write({"step": 5})
    assert path.read_bytes() == b'{"step": 0}\n{"step": 5}\n'


def test_two_writers_append_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonlWriter(path) as first, JsonlWriter(path) as second:
        for step in range(3):
            first.write({"a": step})
            second.write({"b": step})
    assert read_jsonl(path) == [{"a": 0}, {"b": 0}, {"a": 1}, {"b": 1}, {"a": 2}, {"b": 2}]


def test_cut_keeps_lines_covered_by_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b"".join(b'{"step": %d, "loss": 0.1}\n' % step for step in range(10)) + b'{"step": 10, "lo'
    )
    assert cut_jsonl(path, before_step(4)) == 4
    assert [record["step"] for record in read_jsonl(path)] == [0, 1, 2, 3]
    assert path.read_bytes().startswith(b'{"step": 0, "loss": 0.1}\n')
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_absent_log_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path) == []
    assert cut_jsonl(path, before_step(4)) == 0
    assert not path.exists()


@pytest.mark.parametrize(("line", "expected"), [(b"{oops}", "JSON"), (b"[1]", r"\blist\b")])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{expected}"):
        read_jsonl(path)
