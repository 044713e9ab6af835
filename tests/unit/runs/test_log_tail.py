"""A log that grows, is cut and grows again: each line is seen once."""

from __future__ import annotations

from pathlib import Path

from polyray.runs.jsonl import JsonlWriter, before_step, cut_jsonl
from polyray.runs.log_tail import LogTail


def write(path: Path, *lines: dict[str, object]) -> None:
    with JsonlWriter(path) as writer:
        for line in lines:
            writer.write(line)


def steps(path: Path, first: int, last: int, attempt: int = 1) -> None:
    write(
        path, *({"step": step, "tokens": 10 * step, "step_s": attempt + 0.125} for step in range(first, last))
    )


def test_lines_that_were_there_are_known_and_new_ones_come_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps(path, 0, 3)
    tail, from_start = LogTail(path), LogTail(path, from_start=True)
    assert [line["step"] for line in from_start.new()] == [0, 1, 2]
    assert tail.new() == []
    steps(path, 3, 5)
    assert [line["tokens"] for line in tail.new()] == [30, 40]
    assert tail.new() == []


def test_a_log_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = LogTail(path)
    assert tail.new() == []
    steps(path, 0, 2)
    assert [line["step"] for line in tail.new()] == [0, 1]


def test_a_half_written_line_comes_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"st')
    tail = LogTail(path)
    assert tail.new() == []
    with path.open("ab") as file:
        file.write(b'ep": 1}\n[1]\nnonsense\n{"step": 2}\n')
    assert tail.new() == [{"step": 1}, {"step": 2}]


def test_steps_that_are_trained_again_after_a_cut_are_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps(path, 0, 10)
    tail = LogTail(path)
    steps(path, 10, 12)
    assert len(tail.new()) == 2
    cut_jsonl(path, before_step(8))
    assert tail.new() == []
    steps(path, 8, 10, attempt=2)
    assert [line["step"] for line in tail.new()] == [8, 9]
    assert tail.new() == []


def test_a_cut_that_was_outgrown_before_one_looked_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps(path, 0, 10)
    tail = LogTail(path)
    cut_jsonl(path, before_step(8))
    steps(path, 8, 15, attempt=2)
    assert [line["step"] for line in tail.new()] == [8, 9, 10, 11, 12, 13, 14]


def test_a_log_that_was_cut_in_place_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    steps(path, 0, 4)
    tail = LogTail(path)
    whole = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:
        file.truncate(len(b"".join(whole[:3])))
    assert tail.new() == []
    steps(path, 3, 5, attempt=2)
    assert [line["step"] for line in tail.new()] == [3, 4]
