"""Prompts from a file: what a good one gives, and what each kind of broken line says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import JsonlSpec
from polyray.errors import ConfigError, DataError
from polyray.runs.data_record import sha256_of
from polyray.tasks.base import class_id
from polyray.tasks.jsonl import JsonlTask, read_prompts
from polyray.types import WRONG_CLASS, Prompt
from tests.conftest import REPOSITORY_ROOT

GOOD = '{"prompt": "2+2=", "reference": "4"}'


def _write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _numbered(path: Path, count: int) -> JsonlTask:
    lines = [f'{{"prompt": "q{i}", "reference": "{i}", "id": "i{i}"}}' for i in range(count)]
    return JsonlTask(JsonlSpec(path=_write(path, *lines), held_out_share=0.1))


def test_fields_of_a_line_become_a_prompt(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "data.jsonl",
        '{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}], '
        '"reference": "4", "id": "q1", "cluster": "sums", "metadata": {"level": 1}, "response": "4"}',
        "",
        GOOD,
    )
    rows = {row.prompt.prompt_id: row for row in read_prompts(Path(path))}
    assert list(rows) == ["q1", "data-3"] and rows["q1"].response == "4"
    assert rows["q1"].prompt == Prompt(
        prompt_id="q1",
        text="2+2?",
        reference="4",
        messages=({"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}),
        cluster_id="sums",
        metadata={"level": 1},
    )
    assert rows["data-3"].prompt == Prompt(
        prompt_id="data-3", text="2+2=", reference="4", cluster_id="data-3"
    )
    task = JsonlTask(JsonlSpec(path=path, held_out_path=_write(tmp_path / "b.jsonl", '{"prompt": "1+1="}')))
    assert task.demonstration(3, 0) == (rows["q1"].prompt, "4")
    assert {task.training_prompt(i, 0).text for i in range(4)} == {"2+2?", "2+2="}
    assert [prompt.text for prompt in task.held_out_prompts()] == ["1+1="]


def test_epochs_are_shuffles_of_the_training_part(tmp_path: Path) -> None:
    task = _numbered(tmp_path / "data.jsonl", 10)
    left = [prompt.prompt_id for prompt in (*task.held_out_prompts(), *task.validation_prompts())]
    assert len(left) == 2
    epochs = [[task.training_prompt(8 * epoch + i, 0).prompt_id for i in range(8)] for epoch in range(3)]
    assert all(sorted([*epoch, *left]) == [f"i{i}" for i in range(10)] for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [task.training_prompt(i, 0).prompt_id for i in (13, 2)] == [epochs[1][5], epochs[0][2]]
    assert [task.training_prompt(i, 1).prompt_id for i in range(8)] != epochs[0]


def test_reward_is_exact_match_and_classes_are_texts(tmp_path: Path) -> None:
    task = _numbered(tmp_path / "data.jsonl", 5)
    asked = Prompt(prompt_id="", text="2+2=", reference="4")
    assert [task.reward(asked, text) for text in (" 4\n", "4", "5", "")] == [1.0, 1.0, 0.0, 0.0]
    assert task.completion_class(asked, " 4\n") == class_id("4")
    assert task.completion_class(asked, "5") == WRONG_CLASS
    assert task.partition(asked, ["5", "4", " 4"]) == [WRONG_CLASS, class_id("4"), class_id("4")]
    assert [task.distance(asked, "4", text) for text in ("5", " 4")] == [0.0, 0.0]
    assert task.distance(asked, "5", "6") == 0.0
    assert task.has_verifier
    open_ended = Prompt(prompt_id="p9", text="say something")
    assert task.completion_class(open_ended, "a ") == class_id("a")
    assert [task.distance(open_ended, "a", text) for text in ("a ", "b")] == [0.0, 1.0]
    with pytest.raises(DataError, match=r"'p9'.*'reference'.*reward\.type=python"):
        task.reward(open_ended, "a")
    with pytest.raises(DataError, match="'response'"):
        task.demonstration(0, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", r"\blist\b.*object"),
        ('{"prompt": "x", "answer": "y"}', "'answer'"),
        ('{"reference": "4"}', "neither 'prompt'.*'messages'"),
        ('{"prompt": "x", "messages": []}', "both 'prompt'.*'messages'"),
        ('{"prompt": 3}', r"'prompt' .*int \(3\)"),
        ('{"prompt": "x", "metadata": 1}', r"'metadata' .*\bint\b"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "last .*'user'"),
        ('{"prompt": "x", "id": "data-1"}', "'data-1'"),
    ],
)
def test_broken_line_is_named_by_path_and_number(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path / "data.jsonl", GOOD, line)
    with pytest.raises(DataError, match=rf"data\.jsonl:2: .*{message}"):
        JsonlTask(JsonlSpec(path=path))


ONE_CLUSTER = ['{"prompt": "x", "cluster": "c"}', '{"prompt": "y", "cluster": "c"}']


@pytest.mark.parametrize(
    ("lines", "held_out", "message"),
    [
        (None, None, r"data\.jsonl"),
        ([], None, "empty"),
        (ONE_CLUSTER, None, r"\b2 prompts.*\b1 cluster.*task\.held_out_path"),
        ([GOOD], ['{"prompt": "new"}', '{"prompt": " 2+2= "}'], r"b\.jsonl:2\b.*data\.jsonl:1\b.*\b1 of 2"),
        (ONE_CLUSTER[:1], ONE_CLUSTER[1:], r"b\.jsonl:1\b.*cluster.*data\.jsonl:1\b.*\b1 of 1"),
    ],
)
def test_file_without_two_separate_parts_is_refused(tmp_path: Path, lines, held_out, message: str) -> None:
    fields: dict[str, Any] = {"path": str(tmp_path / "data.jsonl")}
    if lines is not None:
        _write(tmp_path / "data.jsonl", *lines)
    if held_out is not None:
        fields["held_out_path"] = _write(tmp_path / "b.jsonl", *held_out)
    with pytest.raises(DataError, match=message):
        JsonlTask(JsonlSpec(**fields))


def _tables(directory: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    """The same rows as JSON Lines, Parquet and a directory of `datasets`."""
    import datasets

    columns = sorted({name for row in rows for name in row})
    table = datasets.Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])
    table.to_parquet(str(directory / "data.parquet"))
    table.save_to_disk(str(directory / "saved"))
    _write(directory / "data.jsonl", *(json.dumps(row) for row in rows))
    return {name: directory / name for name in ("data.jsonl", "data.parquet", "saved")}


def test_prompts_of_parquet_and_saved_dataset_equal_json_lines(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "1+1=", "reference": "2", "metadata": {"level": 1}},
        {"id": "b", "messages": [{"role": "user", "content": "2+2?"}], "cluster": "sums"},
    ]
    paths = _tables(tmp_path, rows)
    read = {name: read_prompts(path) for name, path in paths.items()}
    prompts = {name: [row.prompt for row in found] for name, found in read.items()}
    assert prompts["data.jsonl"] == prompts["data.parquet"] == prompts["saved"]
    assert prompts["saved"][0].metadata == {"level": 1} and prompts["saved"][1].cluster_id == "sums"
    assert [read[name][1].place for name in ("data.parquet", "saved")] == [
        f"{paths[name]}:row 1" for name in ("data.parquet", "saved")
    ]
    code = (
        "import sys\nfrom pathlib import Path\nfrom polyray.tasks.jsonl import read_prompts\n"
        "print(sum(len(read_prompts(Path(path))) for path in sys.argv[1:]), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, paths.values())]
    done = subprocess.run(command, cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


def test_table_rows_are_numbered_named_and_recorded(tmp_path: Path) -> None:
    good, broken = tmp_path / "good", tmp_path / "broken"
    for folder in (good, broken):
        folder.mkdir()
    paths = _tables(good, [{"prompt": "1+1="}, {"prompt": "2+2="}])
    ids = {name: [row.prompt.prompt_id for row in read_prompts(path)] for name, path in paths.items()}
    assert ids["data.jsonl"] == ["data-1", "data-2"]
    assert (ids["data.parquet"], ids["saved"]) == (["data-0", "data-1"], ["saved-0", "saved-1"])
    others = _tables(broken, [{"prompt": "1+1="}, {"prompt": None}])
    for name in ("data.parquet", "saved"):
        with pytest.raises(DataError, match=rf"{others[name]}:row 1: .*'prompt'.*'messages'"):
            read_prompts(others[name])
    assert sha256_of(paths["saved"]) == sha256_of(paths["saved"]) != sha256_of(others["saved"])
    with pytest.raises(DataError, match=r"task\.path.*save_to_disk"):
        read_prompts(tmp_path)
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(DataError, match=r"no\.parquet"):
        read_prompts(tmp_path / "no.parquet")


def test_dataset_directory_with_splits_asks_for_one(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list([{"prompt": "1+1="}])
    datasets.DatasetDict({"test": table, "train": table}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ConfigError, match=rf"test, train;.*task\.path={tmp_path}/splits/train"):
        read_prompts(tmp_path / "splits")
    assert [row.prompt.text for row in read_prompts(tmp_path / "splits" / "train")] == ["1+1="]
