"""Records and pairs check themselves; files of either shape are read, and broken rows are named."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from polyray.errors import DataError
from polyray.shelf.preferences.engagement import (
    EngagementRecord,
    PreferencePair,
    data_sha256,
    read_records,
)

VALUES: dict[str, Any] = {
    "record_id": "q1/a2",
    "prompt": "Cite sources?",
    "completion": "Yes.",
    "engagement": 26,
    "prompt_id": "q1/answer",
    "cluster_id": "q1",
}


def record(name: str, engagement: float, prompt_id: str = "p", completion: str = "") -> EngagementRecord:
    return EngagementRecord(
        record_id=name,
        prompt="Cite sources?",
        completion=completion or f"text {name}",
        engagement=engagement,
        prompt_id=prompt_id,
        cluster_id="c",
    )


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": "  "}, "'completion'"),
        ({"engagement": "many"}, "'engagement'.*'many'"),
        ({"engagement": 1e999}, "'engagement'.*finite"),
        ({"clicks": 3}, "clicks=3 .*impressions.*None"),
        ({"clicks": 3, "impressions": 2}, "clicks=3 .*impressions.* 2"),
        ({"created_at": "yesterday"}, "'yesterday' .*ISO 8601"),
        ({"phase": "rl", "part": "test"}, "phase='rl' .*'test'"),
        ({"age_s": -1}, "'age_s'"),
        ({"likes": 3}, "'likes': .*record_id"),
        ({"prompt": "a\ud800"}, "'prompt': .*Unicode.* 1"),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "records.jsonl", VALUES, {**VALUES, "record_id": "q1/a3", **change})
    with pytest.raises(DataError, match=rf"records\.jsonl:2: .*{message}"):
        read_records(path)


def test_records_from_every_format(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{**VALUES, "impressions": 40, "part": "train"}, {**VALUES, "record_id": "b", "impressions": None}]
    plain = write(tmp_path / "r.jsonl", *rows)
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    as_csv = tmp_path / "r.csv"
    as_csv.write_text(
        "record_id,prompt,completion,engagement,prompt_id,cluster_id,impressions,part\n"
        "q1/a2,Cite sources?,Yes.,26,q1/answer,q1,40,train\nb,Cite sources?,Yes.,26,q1/answer,q1,,\n"
    )
    parquet = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    first, second = read_records(plain)
    assert isinstance(first, EngagementRecord) and isinstance(second, EngagementRecord)
    assert (first.engagement, first.impressions, first.part) == (26.0, 40, "train")
    assert (second.record_id, second.impressions, second.part) == ("b", None, None)
    assert read_records(packed) == read_records(as_csv) == read_records(parquet) == [first, second]


def test_ids_may_be_absent_but_not_twice(tmp_path: Path) -> None:
    bare = {"prompt": "2+2?", "completion": "4", "engagement": 1}
    first, second = read_records(write(tmp_path / "r.jsonl", bare, {**bare, "completion": "5"}))
    assert first.prompt_id == second.prompt_id == first.cluster_id
    assert isinstance(first, EngagementRecord) and isinstance(second, EngagementRecord)
    assert first.record_id != second.record_id
    with pytest.raises(DataError, match=r"r\.jsonl:2: record_id .*r\.jsonl:1"):
        read_records(write(tmp_path / "r.jsonl", bare, {**bare, "engagement": 2}))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": 9},
        {"prompt": [turn("user", "2+2?")], "chosen": [turn("assistant", "4")], "rejected": "5"},
        {
            "chosen": [turn("user", "2+2?"), turn("assistant", "4")],
            "rejected": [turn("user", "2+2?"), turn("assistant", "5")],
        },
        {
            "prompt": [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "2+2?")],
            "chosen": [turn("user", "2+2?"), turn("assistant", "4")],
            "rejected": "5",
        },
    ],
)
def test_pairs_of_every_shape(tmp_path: Path, row: dict[str, Any]) -> None:
    (pair,) = read_records(write(tmp_path / "pairs.jsonl", row))
    assert isinstance(pair, PreferencePair)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.gap) == ("2+2?", "4", "5", 1.0)
    assert pair.prompt_id == pair.cluster_id != ""


def test_pairs_keep_gap_ids_and_part(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [{**row, "gap": 2.5, "cluster_id": "c", "part": "test"}, {**row, "margin": 0.5}]
    first, second = read_records(write(tmp_path / "pairs.jsonl", *rows))
    assert isinstance(first, PreferencePair) and isinstance(second, PreferencePair)
    assert (first.gap, first.cluster_id, first.part, second.gap) == (2.5, "c", "test", 0.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen .*rejected .*'a'"),
        ({"prompt": "p", "chosen": "a"}, "'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "'prompt'"),
        ({"chosen": [turn("user", "x")], "rejected": [turn("user", "y")]}, "'prompt'.*'chosen' .*'rejected'"),
        (
            {"prompt": "p", "chosen": [turn("user", "a")], "rejected": "b"},
            '\'chosen\' is .*role": "assistant"',
        ),
        ({"prompt": "p", "chosen": [], "rejected": "b"}, r"'chosen' is '\[\]'"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "gap": 0}, "'gap'"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "'prompt': "),
    ],
)
def test_a_broken_pair_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(DataError, match=rf"pairs\.jsonl:2.*{message}"):
        read_records(write(tmp_path / "pairs.jsonl", good, row))


def test_a_curated_directory_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part, ids in (("train", "ab"), ("validation", ""), ("test", "c")):
        rows = [{**VALUES, "record_id": name, "part": part} for name in ids]
        write(tmp_path / "data" / f"{part}.jsonl", *rows)
    records = read_records(tmp_path)
    assert [(r.record_id, r.part) for r in records if isinstance(r, EngagementRecord)] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "test"),
    ]
    assert records == read_records(tmp_path / "data")
    before = data_sha256(tmp_path)
    write(tmp_path / "data" / "test.jsonl", {**VALUES, "record_id": "d"})
    assert data_sha256(tmp_path) != before
    file = tmp_path / "data" / "train.jsonl"
    assert data_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_missing_or_empty_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data/train\.jsonl .*data\.path"):
        read_records(tmp_path)
    with pytest.raises(DataError, match=r"x\.jsonl: .*model\.data"):
        read_records(tmp_path / "x.jsonl", key="model.data")
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no rows.*data.path"):
        read_records(tmp_path)
