"""Records and pairs check themselves; files of either shape are read, and broken rows are named."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from polyray.errors import DataError
from polyray.shelf.preferences.engagement import EngagementRecord, PreferencePair, data_sha256, read_records

RECORD: dict[str, Any] = {
    "record_id": "q1/a2",
    "prompt": "Cite sources?",
    "completion": "Yes.",
    "engagement": 26,
    "prompt_id": "q1/answer",
    "cluster_id": "q1",
}
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("good", "change", "message"),
    [
        (RECORD, {"completion": "  "}, "'completion'"),
        (RECORD, {"engagement": "many"}, "'engagement'.*'many'"),
        (RECORD, {"engagement": 1e999}, "'engagement'.*finite"),
        (RECORD, {"clicks": 3}, "clicks=3 .*impressions.*None"),
        (RECORD, {"clicks": 3, "impressions": 2}, "clicks=3 .*impressions.* 2"),
        (RECORD, {"created_at": "yesterday"}, "'yesterday' .*ISO 8601"),
        (RECORD, {"phase": "rl", "part": "test"}, "phase='rl' .*'test'"),
        (RECORD, {"age_s": -1}, "'age_s'"),
        (RECORD, {"likes": 3}, "'likes': .*record_id"),
        (RECORD, {"prompt": "a\ud800"}, "'prompt': .*Unicode.* 1"),
        (PAIR, {"rejected": "a"}, "chosen .*rejected .*'a'"),
        (PAIR, {"rejected": None}, "'rejected'"),
        (PAIR, {"prompt": None}, "'prompt'"),
        (
            PAIR,
            {"prompt": None, "chosen": [turn("user", "x")], "rejected": [turn("user", "y")]},
            "'prompt'.*'chosen' .*'rejected'",
        ),
        (PAIR, {"chosen": [turn("user", "a")]}, '\'chosen\' is .*role": "assistant"'),
        (PAIR, {"chosen": []}, r"'chosen' is '\[\]'"),
        (PAIR, {"gap": 0}, "'gap'"),
        (PAIR, {"prompt": " "}, "'prompt': "),
    ],
)
def test_read_records_names_a_broken_row(
    tmp_path: Path, good: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    bad = {key: value for key, value in {**good, "record_id": "z", **change}.items() if value is not None}
    if good is PAIR:
        del bad["record_id"]
    with pytest.raises(DataError, match=rf"rows\.jsonl:2.*{message}"):
        read_records(write(tmp_path / "rows.jsonl", good, bad))


def test_read_records_gives_the_same_from_every_format(tmp_path: Path) -> None:
    rows = [{**RECORD, "impressions": 40, "part": "train"}, {**RECORD, "record_id": "b", "impressions": None}]
    plain, packed, table, parquet = (tmp_path / f"r.{end}" for end in ("jsonl", "jsonl.gz", "csv", "parquet"))
    packed.write_bytes(gzip.compress(write(plain, *rows).read_bytes()))
    table.write_text(
        "record_id,prompt,completion,engagement,prompt_id,cluster_id,impressions,part\n"
        "q1/a2,Cite sources?,Yes.,26,q1/answer,q1,40,train\nb,Cite sources?,Yes.,26,q1/answer,q1,,\n"
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    expected = [EngagementRecord(**row) for row in rows]
    assert all(read_records(path) == expected for path in (plain, packed, table, parquet))


def test_read_records_makes_ids_and_refuses_duplicates(tmp_path: Path) -> None:
    bare = {"prompt": "2+2?", "completion": "4", "engagement": 1}
    first, second = read_records(write(tmp_path / "r.jsonl", bare, {**bare, "completion": "5"}))
    assert first.prompt_id == second.prompt_id == first.cluster_id
    assert isinstance(first, EngagementRecord) and isinstance(second, EngagementRecord)
    assert first.record_id != second.record_id
    with pytest.raises(DataError, match=r"r\.jsonl:2: record_id .*r\.jsonl:1"):
        read_records(write(tmp_path / "r.jsonl", bare, {**bare, "engagement": 2}))


@pytest.mark.parametrize(
    ("row", "gap"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": 9, "gap": 2.5}, 2.5),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 0.5}, 0.5),
        ({"prompt": [turn("user", "2+2?")], "chosen": [turn("assistant", "4")], "rejected": "5"}, 1.0),
        (
            {
                name: [turn("user", "2+2?"), turn("assistant", n)]
                for name, n in (("chosen", "4"), ("rejected", "5"))
            },
            1,
        ),
        (
            {
                "prompt": [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "2+2?")],
                "chosen": [turn("user", "2+2?"), turn("assistant", "4")],
                "rejected": "5",
            },
            1.0,
        ),
    ],
)
def test_read_records_reads_pairs_of_every_shape(tmp_path: Path, row: dict[str, Any], gap: float) -> None:
    own = {**row, "cluster_id": "c", "part": "test"}
    pair, placed = read_records(write(tmp_path / "pairs.jsonl", row, own))
    assert isinstance(pair, PreferencePair) and isinstance(placed, PreferencePair)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.gap) == ("2+2?", "4", "5", gap)
    assert pair.prompt_id == pair.cluster_id != ""
    assert (placed.cluster_id, placed.part) == ("c", "test")


def test_read_records_reads_a_curated_directory_as_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part, ids in (("train", "ab"), ("validation", ""), ("test", "c")):
        rows = [{**RECORD, "record_id": name, "part": part} for name in ids]
        write(tmp_path / "data" / f"{part}.jsonl", *rows)
    records = read_records(tmp_path)
    found = [(r.record_id, r.part) for r in records if isinstance(r, EngagementRecord)]
    assert found == [("a", "train"), ("b", "train"), ("c", "test")]
    assert records == read_records(tmp_path / "data")
    before = data_sha256(tmp_path)
    write(tmp_path / "data" / "test.jsonl", {**RECORD, "record_id": "d"})
    assert data_sha256(tmp_path) != before
    file = tmp_path / "data" / "train.jsonl"
    assert data_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_read_records_names_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data/train\.jsonl .*data\.path"):
        read_records(tmp_path)
    with pytest.raises(DataError, match=r"x\.jsonl: .*model\.data"):
        read_records(tmp_path / "x.jsonl", key="model.data")
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no rows.*data.path"):
        read_records(tmp_path)
