"""Rows of the user's own SFT data: both shapes, and what is said about broken ones."""

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

ROOT = Path(__file__).resolve().parents[3]
USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
MORE = [USER, REPLY, {"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}]


def _file(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_text_and_a_conversation() -> None:
    assert parse_row({"prompt": "2+2=", "completion": "4", "id": 9}, "f:1") == Demonstration(
        Prompt("f:1", "2+2=", reference="4"), "4"
    )
    expected = Demonstration(Prompt("f:2", "2+2?", reference="4", messages=(USER,)), "4")
    assert parse_row({"messages": [USER, REPLY]}, "f:2") == expected
    assert parse_row({"prompt": [USER], "completion": [REPLY]}, "f:2") == expected
    assert parse_row({"prompt": "2+2?", "completion": [REPLY]}, "f:2") == expected
    assert parse_row({"prompt": [USER], "completion": "4"}, "f:2") == expected


def test_which_turns_are_trained() -> None:
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
def test_a_broken_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = _file(tmp_path / "mine.jsonl", [{"prompt": "a", "completion": "b"}, row])
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: .*{message}"):
        read_demonstrations(JsonlDataSpec(train=path))


def test_validation_rows_are_chosen_by_content(tmp_path: Path) -> None:
    rows = [{"prompt": str(number), "completion": "x"} for number in range(400)]
    spec = JsonlDataSpec(train=_file(tmp_path / "a.jsonl", rows), validation_share=0.25)
    training, validation = read_demonstrations(spec)
    held_out = {row.prompt.text for row in validation}
    assert len(training) + len(validation) == 400
    assert 70 <= len(held_out) <= 130
    assert held_out.isdisjoint(row.prompt.text for row in training)
    more = [{"prompt": "new", "completion": "y"}, *reversed(rows)]
    _file(tmp_path / "a.jsonl", more)
    assert {row.prompt.text for row in read_demonstrations(spec)[1]} - {"new"} == held_out


def test_validation_share_keeps_all_rows_of_a_prompt_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"  Question {number} ".upper() if at else f"question {number}", "completion": f"{at}"}
        for at in range(4)
        for number in range(300)
    ]
    chats = [
        {
            "messages": [
                {"role": "system", "content": f"style {at}"},
                {"role": "user", "content": f"chat {number}"},
                {"role": "assistant", "content": f"{at}"},
            ]
        }
        for at in range(2)
        for number in range(300)
    ]
    path = _file(tmp_path / "a.jsonl", rows + chats)
    parts = []
    for seed in range(30):
        training, validation = read_demonstrations(
            JsonlDataSpec(train=path, validation_share=0.2, split_seed=seed)
        )
        sides = [
            {" ".join(row.prompt.text.casefold().split()) for row in part} for part in (training, validation)
        ]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 600
        parts.append(sides[1])
    assert parts[0] == {
        " ".join(row.prompt.text.casefold().split())
        for row in read_demonstrations(JsonlDataSpec(train=path, validation_share=0.2))[1]
    }
    assert len({frozenset(part) for part in parts}) == 30
    assert abs(sum(map(len, parts)) / (30 * 600) - 0.2) < 4 * (0.2 * 0.8 / (30 * 600)) ** 0.5


def test_validation_file_that_shares_prompts_with_training_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number}", "completion": "x"} for number in range(4)]
    train = _file(tmp_path / "train.jsonl", rows)
    other = _file(
        tmp_path / "other.jsonl", [{"prompt": "new", "completion": "x"}, {"prompt": " Q2", "completion": "y"}]
    )
    with pytest.raises(DataError, match=r"other\.jsonl:2.*train\.jsonl:3.* \b1\b.*\b2\b"):
        read_demonstrations(JsonlDataSpec(train=train, validation=other))


def test_a_compressed_file_and_one_for_validation(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a", "completion": "b"}\n'))
    other = _file(tmp_path / "v.jsonl", [{"messages": [USER, REPLY]}])
    training, validation = read_demonstrations(JsonlDataSpec(train=str(path), validation=other))
    assert [row.prompt.prompt_id for row in training] == [f"{path}:1"]
    assert [row.response for row in validation] == ["4"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        read_demonstrations(JsonlDataSpec(train=str(path)))


def test_no_rows_left_for_training(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match=r"\d .*\d "):
        read_demonstrations(JsonlDataSpec(train=path, validation_share=0.5))


def test_a_real_file_in_another_shape_is_explained_and_converts(tmp_path: Path) -> None:
    path = ROOT.parent / "shared" / "data" / "math" / "gsm8k_train.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with pytest.raises(DataError, match=r"gsm8k_train\.jsonl:1.*answer, question"):
        read_demonstrations(JsonlDataSpec(train=str(path)))
    problems = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{"prompt": problem["question"], "completion": problem["answer"]} for problem in problems]
    spec = JsonlDataSpec(train=_file(tmp_path / "g.jsonl", rows), validation_share=0.1)
    training, validation = read_demonstrations(spec)
    assert len(training) + len(validation) == len(problems)
    assert abs(len(validation) / len(problems) - 0.1) < 0.02
    assert training[0].response.count("####") == 1
