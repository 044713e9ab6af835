from __future__ import annotations

from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.evaluation.records import ResultRecord, SampleRecord
from polyray.evaluation.sample_log import SampleLog

NUM_SAMPLES, NUM_GROUPS = 2, 3


def group(number: int) -> tuple[list[SampleRecord], list[ResultRecord]]:
    """Texts with a newline, a surrogate pair and two bytes per character: lines are not characters."""
    samples = [
        SampleRecord(f"p{number}", f"é\n\U0001f600{number}", index, model="m", reward=1.0)
        for index in range(NUM_SAMPLES)
    ]
    return samples, [ResultRecord(s.task_id, s.sample_index, "m", True, "passed") for s in samples]


def write_rest(directory: Path) -> int:
    """Opens the log and appends what is missing; returns how many groups were there."""
    with SampleLog(directory / "samples.jsonl", directory / "results.jsonl", NUM_SAMPLES) as log:
        found = log.groups_done
        for number in range(found, NUM_GROUPS):
            log.append(*group(number))
    return found


def content(directory: Path) -> tuple[bytes, bytes]:
    return (directory / "samples.jsonl").read_bytes(), (directory / "results.jsonl").read_bytes()


def test_a_log_that_was_cut_at_any_byte_ends_up_the_same(tmp_path: Path) -> None:
    assert write_rest(tmp_path) == 0
    whole = content(tmp_path)
    assert [part.count(b"\n") for part in whole] == [NUM_GROUPS * NUM_SAMPLES] * 2
    for name, other, bytes_, rest in (
        ("samples.jsonl", "results.jsonl", whole[0], whole[1]),
        ("results.jsonl", "samples.jsonl", whole[1], whole[0]),
    ):
        for size in range(0, len(bytes_) + 1, 7):
            (tmp_path / name).write_bytes(bytes_[:size])
            (tmp_path / other).write_bytes(rest)
            kept = bytes_[:size].count(b"\n") // NUM_SAMPLES
            assert write_rest(tmp_path) == kept
            assert content(tmp_path) == whole


def test_the_newest_group_is_named(tmp_path: Path) -> None:
    with SampleLog(tmp_path / "s", tmp_path / "r", NUM_SAMPLES) as log:
        assert log.last_group() is None
        log.append(*group(0))
        log.append(*group(1))
        assert log.last_group() == ("m", "p1")
        assert list(log.groups()) == [group(0)[0], group(1)[0]]


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    with SampleLog(tmp_path / "s", tmp_path / "r", NUM_SAMPLES) as log:
        log.append(*group(0))
        (tmp_path / "s").write_bytes(b"")
        with pytest.raises(DataError, match="shrank"):
            log.last_group()
