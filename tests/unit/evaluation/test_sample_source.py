from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleFile, SampleList
from tests.sample_files import write_lines

RECORDS = [
    SampleRecord(task, f"{model}{task}{index} é\n", index, model=model, reward=0.5)
    for index in (1, 0)  # groups are interleaved and their samples out of order
    for model in ("b", "a")
    for task in ("q", "p")
]


def test_file_source_equals_list_source(tmp_path: Path) -> None:
    write_lines(tmp_path / "samples.jsonl", RECORDS)
    in_memory = SampleList(RECORDS)
    with SampleFile(tmp_path / "samples.jsonl") as on_disk:
        for source in (in_memory, on_disk):
            assert source.models == ["b", "a"]
            assert source.task_ids("a") == ["q", "p"]
            assert [s.sample_index for s in source.group("a", "p")] == [0, 1]
            assert source.group("b", "q") == [RECORDS[4], RECORDS[0]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "samples.jsonl:3.*JSON"),
        (b'{"task_id": "p", "completion": "x"}', "samples.jsonl:3.*sample_index"),
        (b'{"task_id": "\xff"}', "samples.jsonl:3.*UTF-8"),
        (
            json.dumps({"task_id": "p", "completion": "", "sample_index": 0, "reward": "1"}).encode(),
            "reward='1'",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "samples.jsonl"
    write_lines(path, RECORDS[:2])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=message):
        SampleFile(path)


def test_a_sample_that_occurs_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_lines(path, [*RECORDS, RECORDS[0]])
    with SampleFile(path) as source, pytest.raises(DataError, match=r"sample 1 of q \(b\)"):
        source.group("b", "q")


def test_an_absent_or_empty_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples at"):
        SampleFile(tmp_path / "samples.jsonl")
    (tmp_path / "samples.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no samples"):
        SampleFile(tmp_path / "samples.jsonl")
