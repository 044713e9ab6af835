"""Logs that a kill leaves readable, and what resume cuts away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyray.errors import DataError
from polyray.runs.jsonl import JsonlWriter, before_step, cut_jsonl, read_jsonl


def test_writers_append_lines_that_are_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with JsonlWriter(path) as first, JsonlWriter(path) as second:
        first.write({"step": 0, "text": "λ\nnext"})
        assert path.read_text(encoding="utf-8") == '{"step": 0, "text": "λ\\nnext"}\n'
        second.write({"loss": np.float32(0.5), "count": np.int64(3), "bad": float("nan")})
        first.write({"rewards": np.array([1.0, np.inf]), "flags": (np.bool_(True), None)})
    assert read_jsonl(path) == [
        {"step": 0, "text": "λ\nnext"},
        {"loss": 0.5, "count": 3, "bad": None},
        {"rewards": [1.0, None], "flags": [True, None]},
    ]


def test_torn_last_line_counts_as_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}')
    assert read_jsonl(path) == [{"step": 0}]
    with JsonlWriter(path) as writer:
        writer.write({"step": 5})
    assert path.read_bytes() == b'{"step": 0}\n{"step": 5}\n'


def test_cut_jsonl_keeps_lines_covered_by_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert (read_jsonl(path), cut_jsonl(path, before_step(4)), path.exists()) == ([], 0, False)
    whole = [b'{"step": %d, "loss": 0.1}\n' % step for step in range(10)]
    path.write_bytes(b"".join(whole) + b'{"step": 10, "lo')
    assert cut_jsonl(path, before_step(4)) == 4
    assert path.read_bytes() == b"".join(whole[:4])
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(("line", "expected"), [(b"{oops}", "JSON"), (b"[1]", r"\blist\b")])
def test_read_jsonl_names_a_broken_line_in_the_middle(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{expected}"):
        read_jsonl(path)
