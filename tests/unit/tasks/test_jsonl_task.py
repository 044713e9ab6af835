"""Prompts from a file: what a good one gives, and what each kind of broken line says."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyray.config.task import JsonlSpec
from polyray.errors import DataError
from polyray.tasks import build_task
from polyray.tasks.base import class_id
from polyray.tasks.jsonl import JsonlTask
from polyray.types import WRONG_CLASS, Prompt

GOOD = '{"prompt": "2+2=", "reference": "4"}'


def _write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _numbered(path: Path, count: int) -> JsonlTask:
    lines = [f'{{"prompt": "q{i}", "reference": "{i}", "id": "i{i}"}}' for i in range(count)]
    return JsonlTask(JsonlSpec(path=_write(path, *lines), held_out_share=0.2))


def test_fields_become_a_prompt(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "data.jsonl",
        '{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}], '
        '"reference": "4", "id": "q1", "cluster": "sums", "metadata": {"level": 1}, "response": "4"}',
        "",
        GOOD,
    )
    task = build_task(JsonlSpec(path=path, held_out_share=0.5))
    assert task.training_prompt(0, 0) == Prompt(
        prompt_id="q1",
        text="2+2?",
        reference="4",
        messages=({"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}),
        cluster_id="sums",
        metadata={"level": 1},
    )
    assert task.demonstration(3, 0) == (task.training_prompt(0, 0), "4")
    assert task.held_out_prompts() == [
        Prompt(prompt_id="data-3", text="2+2=", reference="4", cluster_id="data-3")
    ]


def test_epochs_are_shuffles_of_the_training_part(tmp_path: Path) -> None:
    task = _numbered(tmp_path / "data.jsonl", 10)
    assert [prompt.prompt_id for prompt in task.held_out_prompts()] == ["i8", "i9"]
    epochs = [[task.training_prompt(8 * epoch + i, 0).prompt_id for i in range(8)] for epoch in range(3)]
    assert all(sorted(epoch) == [f"i{i}" for i in range(8)] for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [task.training_prompt(i, 0).prompt_id for i in (13, 2, 13)] == [
        epochs[1][5],
        epochs[0][2],
        epochs[1][5],
    ]
    assert [task.training_prompt(i, 1).prompt_id for i in range(8)] != epochs[0]


def test_a_held_out_file_leaves_all_lines_for_training(tmp_path: Path) -> None:
    path, held_out = _write(tmp_path / "a.jsonl", GOOD), _write(tmp_path / "b.jsonl", '{"prompt": "1+1="}')
    task = JsonlTask(JsonlSpec(path=path, held_out_path=held_out))
    assert task.training_prompt(7, 0).text == "2+2="
    assert [prompt.text for prompt in task.held_out_prompts()] == ["1+1="]


def test_exact_match_and_classes(tmp_path: Path) -> None:
    task = _numbered(tmp_path / "data.jsonl", 5)
    asked = Prompt(prompt_id="", text="2+2=", reference="4")
    assert [task.reward(asked, text) for text in (" 4\n", "4", "5", "")] == [1.0, 1.0, 0.0, 0.0]
    assert task.completion_class(asked, " 4\n") == class_id("4")
    assert task.completion_class(asked, "5") == WRONG_CLASS
    assert task.partition(asked, ["5", "4", " 4"]) == [WRONG_CLASS, class_id("4"), class_id("4")]
    assert [task.distance(asked, "4", text) for text in ("5", " 4")] == [0.0, 0.0]
    assert task.distance(asked, "5", "6") == 0.0
    assert task.has_verifier and task.validation_prompts() == []
    open_ended = Prompt(prompt_id="p9", text="say something")
    assert task.completion_class(open_ended, "a ") == class_id("a")
    assert [task.distance(open_ended, "a", text) for text in ("a ", "b")] == [0.0, 1.0]
    with pytest.raises(DataError, match=r"'p9' has no 'reference'.*reward\.type=python"):
        task.reward(open_ended, "a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "not valid JSON"),
        ("[1]", "a list, not an object"),
        ('{"prompt": "x", "answer": "y"}', "unknown field 'answer'"),
        ('{"reference": "4"}', "neither 'prompt' nor 'messages'"),
        ('{"prompt": "x", "messages": []}', "both 'prompt' and 'messages'"),
        ('{"prompt": ""}', "'prompt' is empty"),
        ('{"prompt": 3}', r"'prompt' is a int \(3\); write it as text"),
        ('{"prompt": "x", "reference": 4}', r"'reference' is a int \(4\)"),
        ('{"prompt": "x", "metadata": 1}', "'metadata' is a int; make it an object"),
        ('{"messages": []}', "'messages' must be a list"),
        ('{"messages": [{"role": "user"}]}', "'messages' must be a list"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "the last one with the role 'user'"),
        ('{"prompt": "x", "id": "data-1"}', "id 'data-1' is already that of line 1"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path / "data.jsonl", GOOD, line)
    with pytest.raises(DataError, match=rf"data\.jsonl:2: .*{message}"):
        JsonlTask(JsonlSpec(path=path))


def test_files_without_prompts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        JsonlTask(JsonlSpec(path=str(tmp_path / "absent.jsonl")))
    with pytest.raises(DataError, match="the file is empty"):
        JsonlTask(JsonlSpec(path=_write(tmp_path / "empty.jsonl", "")))
    with pytest.raises(DataError, match="1 prompt cannot be split"):
        JsonlTask(JsonlSpec(path=_write(tmp_path / "one.jsonl", GOOD)))


def test_a_file_without_responses_has_no_demonstrations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training line has a 'response'"):
        _numbered(tmp_path / "data.jsonl", 5).demonstration(0, 0)
