"""Files of samples: lines, the log that is taken up again, and sources of groups."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from polyray.errors import DataError
from polyray.evaluation.records import (
    ResultRecord,
    SampleRecord,
    as_line,
    parse_sample,
    read_samples,
)
from polyray.evaluation.sample_log import SampleLog
from polyray.evaluation.sample_source import SampleFile, SampleList
from tests.sample_files import write_lines

SAMPLE = SampleRecord(
    task_id="t1",
    completion="RU é",
    sample_index=2,
    domain="d",
    model="m",
    policy_version=60,
    adapter_sha256="ab",
    sampling={"temperature": 1.0, "seed": 81},
    prompt_sha256="cd",
    reward=0.5,
    class_id=7,
    num_tokens=3,
    logprob=-1.25,
    cluster_id="c",
    prompt="p",
)


def test_sample_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    unscored = SampleRecord(task_id="t", completion="\ud800 é \U0001f600", sample_index=0)
    write_lines(tmp_path / "samples.jsonl", [SAMPLE, unscored])
    found = read_samples(tmp_path / "samples.jsonl")
    assert found[0] == SAMPLE and found[1].completion == unscored.completion and math.isnan(found[1].reward)
    first, second = (json.loads(as_line(record)) for record in (SAMPLE, unscored))
    assert list(first)[:2] == ["task_id", "completion"]
    assert (first["class"], second["reward"]) == (7, None) and "class_id" not in first
    assert "é" in as_line(SAMPLE), "other characters stay readable"
    foreign = b'{"task_id": "HumanEval/0", "completion": "x", "sample_index": 1, "extra": 3}'
    record = parse_sample(foreign, "line")
    assert (record.task_id, record.sample_index, record.cluster) == ("HumanEval/0", 1, "HumanEval/0")
    values = json.loads(as_line(ResultRecord("t", 0, "m", True, "passed")))
    assert (values["wall_s"], values["max_rss"], values["isolation"]) == (None, None, "none")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, r"s\.jsonl"),
        (b"\n\n", r"s\.jsonl"),
        (b"%s{broken", r"s\.jsonl:2.*JSON"),
        (b"%s\xff", r"s\.jsonl:2 is not UTF-8"),
        (b"%s[1]", r"s\.jsonl:2 .*\blist\b"),
        (b'%s{"task_id": "p", "completion": "x"}', r"s\.jsonl:2.*sample_index"),
        (
            b'%s{"task_id": "p", "completion": "", "sample_index": 0, "reward": "1"}',
            r"s\.jsonl:2.*reward='1'",
        ),
        (b'%s{"task_id": 7, "completion": "x", "sample_index": 0}', r"s\.jsonl:2: task_id=7 must be a text"),
        (b'%s{"task_id": "p", "completion": null, "sample_index": 0}', r"completion=None must be a text"),
        (
            b'%s{"task_id": "p", "completion": "x", "sample_index": true}',
            r"sample_index=True must be a whole",
        ),
        (
            b'%s{"task_id": "p", "completion": "x", "sample_index": 0, "class": "a"}',
            r"class='a' must be a whole",
        ),
        (
            b'%s{"task_id": "p", "completion": "x", "sample_index": 0, "model": ["m"]}',
            r"model=\['m'\] must be",
        ),
        (
            b'%s{"task_id": "p", "completion": "x", "sample_index": 0, "sampling": 1}',
            r"sampling=1 must be an",
        ),
    ],
)
@pytest.mark.parametrize("read", [read_samples, SampleFile])
def test_unusable_sample_file_is_named_by_line(tmp_path: Path, lines, message: str, read) -> None:
    path = tmp_path / "s.jsonl"
    if lines is not None:
        path.write_bytes(lines.replace(b"%s", as_line(SAMPLE).encode()) + b"\n")
    with pytest.raises(DataError, match=message):
        read(path)


RECORDS = [
    SampleRecord(task, f"{model}{task}{index} é\n", index, model=model, reward=0.5)
    for index in (1, 0)  # groups are interleaved and their samples out of order
    for model in ("b", "a")
    for task in ("q", "p")
]


def test_file_source_equals_list_source(tmp_path: Path) -> None:
    write_lines(tmp_path / "samples.jsonl", RECORDS)
    with SampleFile(tmp_path / "samples.jsonl") as on_disk:
        for source in (SampleList(RECORDS), on_disk):
            assert source.models == ["b", "a"]
            assert source.task_ids("a") == ["q", "p"]
            assert [s.sample_index for s in source.group("a", "p")] == [0, 1]
            assert source.group("b", "q") == [RECORDS[4], RECORDS[0]]
    write_lines(tmp_path / "samples.jsonl", [*RECORDS, RECORDS[0]])
    with (
        SampleFile(tmp_path / "samples.jsonl") as source,
        pytest.raises(DataError, match=r"sample 1 of q \(b\)"),
    ):
        source.group("b", "q")


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


def test_log_that_was_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    assert write_rest(tmp_path) == 0
    whole = content(tmp_path)
    names = ("samples.jsonl", "results.jsonl")
    assert [part.count(b"\n") for part in whole] == [NUM_GROUPS * NUM_SAMPLES] * 2
    for cut in (0, 1):
        for size in range(0, len(whole[cut]) + 1, 7):
            (tmp_path / names[cut]).write_bytes(whole[cut][:size])
            (tmp_path / names[1 - cut]).write_bytes(whole[1 - cut])
            assert write_rest(tmp_path) == whole[cut][:size].count(b"\n") // NUM_SAMPLES
            assert content(tmp_path) == whole


def test_log_names_its_newest_group_and_refuses_a_file_that_shrank(tmp_path: Path) -> None:
    with SampleLog(tmp_path / "s", tmp_path / "r", NUM_SAMPLES) as log:
        assert log.last_group() is None
        log.append(*group(0))
        log.append(*group(1))
        assert log.last_group() == ("m", "p1")
        assert list(log.groups()) == [group(0)[0], group(1)[0]]
        (tmp_path / "s").write_bytes(b"")
        with pytest.raises(DataError, match="shrank"):
            log.last_group()
