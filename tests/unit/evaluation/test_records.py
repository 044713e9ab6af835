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


def test_line_begins_with_common_fields_and_names_the_class() -> None:
    values = json.loads(as_line(SAMPLE))
    assert list(values)[:2] == ["task_id", "completion"]
    assert values["class"] == 7 and "class_id" not in values


def test_written_samples_are_read_back(tmp_path: Path) -> None:
    write_lines(tmp_path / "samples.jsonl", [SAMPLE])
    assert read_samples(tmp_path / "samples.jsonl") == [SAMPLE]


def test_unscored_is_null_in_the_file_and_nan_in_memory(tmp_path: Path) -> None:
    unscored = SampleRecord(task_id="t", completion="", sample_index=0)
    assert json.loads(as_line(unscored))["reward"] is None
    write_lines(tmp_path / "samples.jsonl", [unscored])
    assert math.isnan(read_samples(tmp_path / "samples.jsonl")[0].reward)


def test_lines_of_other_tools_are_read_where_they_have_an_index(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(
        '{"task_id": "HumanEval/0", "completion": "x", "sample_index": 1, "extra": 3}\n'
    )
    [record] = read_samples(tmp_path / "s.jsonl")
    assert (record.task_id, record.sample_index, record.cluster) == ("HumanEval/0", 1, "HumanEval/0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "s.jsonl:2.*JSON"),
        ("[1]", r"s\.jsonl:2 .*\blist\b"),
        ('{"task_id": "a", "completion": "b"}', "s.jsonl:2.*sample_index"),
        (
            '{"task_id": "a", "completion": "b", "sample_index": 0, "reward": "1"}',
            "s.jsonl:2.*reward='1'",
        ),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "s.jsonl").write_text(as_line(SAMPLE) + line + "\n")
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path / "s.jsonl")


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_samples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        read_samples(tmp_path / "empty.jsonl")


def test_result_of_nothing_executed_has_nulls() -> None:
    values = json.loads(as_line(ResultRecord("t", 0, "m", True, "passed")))
    assert (values["wall_s"], values["max_rss"], values["isolation"]) == (None, None, "none")


def test_a_lone_surrogate_is_escaped_and_read_back() -> None:
    for text in ("\ud800 é", "é \U0001f600"):
        line = as_line(SampleRecord("p", text, 0))
        assert parse_sample(line.encode(), "line").completion == text
    assert "é" in as_line(SampleRecord("p", "é", 0)), "other characters stay readable"
