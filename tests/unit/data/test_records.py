"""Rows of the user's own SFT data: shapes, splits, broken rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.supervised import JsonlDataSpec
from polyray.data.records import Demonstration, parse_row, read_demonstrations
from polyray.errors import DataError
from polyray.types import Prompt

USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
MORE = [USER, REPLY, {"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}]


def _file(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_parse_row_reads_texts_and_conversations() -> None:
    text = Demonstration(Prompt("f:1", "2+2=", reference="4"), "4")
    assert parse_row({"prompt": "2+2=", "completion": "4", "id": 9}, "f:1") == text
    expected = Demonstration(Prompt("f:2", "2+2?", reference="4", messages=(USER,)), "4")
    for row in (
        {"messages": [USER, REPLY]},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": "2+2?", "completion": [REPLY]},
        {"prompt": [USER], "completion": "4"},
    ):
        assert parse_row(row, "f:2") == expected


def test_parse_row_marks_trained_turns() -> None:
    assert parse_row({"messages": MORE}, "f:1").trained_turns == ()
    assert parse_row({"messages": MORE}, "f:1", "all_turns").trained_turns == (1,)
    split = {"prompt": MORE[:3], "completion": MORE[3:]}
    assert parse_row(split, "f:1", "all_turns").trained_turns == ()  # turns of the prompt never are
    assert parse_row(split, "f:1", "all_turns").response == "6"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "2", "answer": "4"}, "answer, question"),
        ({"messages": [USER, REPLY], "prompt": "x"}, "'messages'.*'prompt'"),
        ({"prompt": "x"}, "prompt .*'completion'"),
        ({"prompt": "x", "completion": ""}, "'completion'.*empty"),
        ({"prompt": "x", "completion": 4}, r"'completion'.*\bint\b"),
        ({"messages": []}, "'messages'.*empty"),
        ({"messages": [USER]}, "last .*'user'"),
        ({"messages": [REPLY]}, "before"),
        ({"messages": [USER, {"role": "assistant"}]}, r"messages\[1\] .*\{\"role\": \"assistant\"\}"),
        ([1], r"\blist\b.*object"),
    ],
)
def test_broken_demonstration_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = _file(tmp_path / "mine.jsonl", [{"prompt": "a", "completion": "b"}, row])
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: .*{message}"):
        read_demonstrations(JsonlDataSpec(train=path))


def test_validation_share_keeps_rows_of_a_prompt_together_in_any_order(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"  Question {number} ".upper() if at else f"question {number}", "completion": f"{at}"}
        for at in range(4)
        for number in range(300)
    ]
    for at in range(2):
        for number in range(300):
            turns = [("system", f"style {at}"), ("user", f"chat {number}"), ("assistant", f"{at}")]
            rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})

    def split(seed: int, rows: list[Any]) -> list[set[str]]:
        path = _file(tmp_path / "a.jsonl", rows)
        parts = read_demonstrations(JsonlDataSpec(train=path, validation_share=0.2, split_seed=seed))
        return [{" ".join(row.prompt.text.casefold().split()) for row in part} for part in parts]

    held_out = []
    for seed in range(30):
        training, validation = split(seed, rows)
        assert not training & validation and len(training | validation) == 600
        held_out.append(validation)
    assert held_out[0] == split(0, [{"prompt": "new", "completion": "y"}, *reversed(rows)])[1] - {"new"}
    assert len({frozenset(part) for part in held_out}) == 30
    assert abs(sum(map(len, held_out)) / (30 * 600) - 0.2) < 4 * (0.2 * 0.8 / (30 * 600)) ** 0.5


def test_validation_file_that_shares_prompts_with_training_is_refused(tmp_path: Path) -> None:
    train = _file(tmp_path / "train.jsonl", [{"prompt": f"q{n}", "completion": "x"} for n in range(4)])
    other = _file(tmp_path / "other.jsonl", [{"prompt": text, "completion": "y"} for text in ("new", " Q2")])
    with pytest.raises(DataError, match=r"other\.jsonl:2.*train\.jsonl:3.* \b1\b.*\b2\b"):
        read_demonstrations(JsonlDataSpec(train=train, validation=other))
    with pytest.raises(DataError, match=r"\d .*\d "):
        read_demonstrations(
            JsonlDataSpec(
                train=_file(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}]), validation_share=0.5
            )
        )


def test_compressed_and_validation_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a", "completion": "b"}\n'))
    other = _file(tmp_path / "v.jsonl", [{"messages": [USER, REPLY]}])
    training, validation = read_demonstrations(JsonlDataSpec(train=str(path), validation=other))
    assert [row.prompt.prompt_id for row in training] == [f"{path}:1"]
    assert [row.response for row in validation] == ["4"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        read_demonstrations(JsonlDataSpec(train=str(path)))
