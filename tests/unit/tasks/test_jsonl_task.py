"""Prompts from a file: what a good one gives, and what each kind of broken line says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
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


def test_fields_become_a_prompt(tmp_path: Path) -> None:
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


def test_epochs_are_shuffles_of_the_training_part(tmp_path: Path) -> None:
    task = _numbered(tmp_path / "data.jsonl", 10)
    left = [prompt.prompt_id for prompt in (*task.held_out_prompts(), *task.validation_prompts())]
    assert len(left) == 2
    epochs = [[task.training_prompt(8 * epoch + i, 0).prompt_id for i in range(8)] for epoch in range(3)]
    assert all(sorted([*epoch, *left]) == [f"i{i}" for i in range(10)] for epoch in epochs)
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
    assert task.has_verifier
    open_ended = Prompt(prompt_id="p9", text="say something")
    assert task.completion_class(open_ended, "a ") == class_id("a")
    assert [task.distance(open_ended, "a", text) for text in ("a ", "b")] == [0.0, 1.0]
    with pytest.raises(DataError, match=r"'p9'.*'reference'.*reward\.type=python"):
        task.reward(open_ended, "a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "JSON"),
        ("[1]", r"\blist\b.*object"),
        ('{"prompt": "x", "answer": "y"}', "'answer'"),
        ('{"reference": "4"}', "neither 'prompt'.*'messages'"),
        ('{"prompt": "x", "messages": []}', "both 'prompt'.*'messages'"),
        ('{"prompt": ""}', "'prompt' .*empty"),
        ('{"prompt": 3}', r"'prompt' .*int \(3\)"),
        ('{"prompt": "x", "reference": 4}', r"'reference' .*int \(4\)"),
        ('{"prompt": "x", "metadata": 1}', r"'metadata' .*\bint\b"),
        ('{"messages": []}', "'messages' .*list"),
        ('{"messages": [{"role": "user"}]}', "'messages' .*list"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "last .*'user'"),
        ('{"prompt": "x", "id": "data-1"}', "'data-1'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path / "data.jsonl", GOOD, line)
    with pytest.raises(DataError, match=rf"data\.jsonl:2: .*{message}"):
        JsonlTask(JsonlSpec(path=path))


def test_files_without_prompts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        JsonlTask(JsonlSpec(path=str(tmp_path / "absent.jsonl")))
    with pytest.raises(DataError, match="empty"):
        JsonlTask(JsonlSpec(path=_write(tmp_path / "empty.jsonl", "")))
    with pytest.raises(DataError, match=r"\b1 prompts.*\b1 cluster"):
        JsonlTask(JsonlSpec(path=_write(tmp_path / "one.jsonl", GOOD)))


def test_a_file_without_responses_has_no_demonstrations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'response'"):
        _numbered(tmp_path / "data.jsonl", 5).demonstration(0, 0)


def parts_of(task: JsonlTask) -> dict[str, set[str]]:
    rows = {"train": task.training_rows, "validation": task.validation_rows, "test": task.held_out_rows}
    return {name: {row.prompt.text for row in part} for name, part in rows.items()}


def leaking_lines() -> list[str]:
    """60 clusters of three prompts, of which every tenth is also in another cluster, sorted by cluster."""
    lines = []
    for cluster in range(60):
        for number in range(3):
            lines.append(json.dumps({"prompt": f"prompt {cluster} {number}", "cluster": f"c{cluster:02d}"}))
        if cluster % 10 == 0:
            lines.append(json.dumps({"prompt": f" PROMPT {cluster + 1} 0", "cluster": f"c{cluster:02d}"}))
    return lines


def test_split_keeps_clusters_and_equal_prompts_on_one_side(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", *leaking_lines())
    for seed in range(20):
        task = JsonlTask(JsonlSpec(path=path, split_seed=seed))
        parts = {
            name: {" ".join(text.casefold().split()) for text in texts}
            for name, texts in parts_of(task).items()
        }
        clusters = {
            name: {row.prompt.cluster_id for row in rows}
            for name, rows in (
                ("train", task.training_rows),
                ("validation", task.validation_rows),
                ("test", task.held_out_rows),
            )
        }
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            assert not parts[one] & parts[other] and not clusters[one] & clusters[other]
        assert len(set.union(*parts.values())) == 180
        assert len(set.union(*clusters.values())) == 54, "six clusters are linked to another one"


def test_split_of_a_sorted_file_is_random_and_reproducible(tmp_path: Path) -> None:
    count = 100
    lines = [json.dumps({"prompt": f"q{number:03d}"}) for number in range(count)]
    path = _write(tmp_path / "a.jsonl", *lines)
    shuffled = _write(tmp_path / "b.jsonl", *reversed(lines))
    drawn = []
    for seed in range(200):
        parts = parts_of(JsonlTask(JsonlSpec(path=path, split_seed=seed)))
        assert (len(parts["train"]), len(parts["validation"]), len(parts["test"])) == (80, 10, 10)
        drawn.append([int(text[1:]) for text in sorted(parts["test"])])
        if seed < 5:
            assert parts == parts_of(JsonlTask(JsonlSpec(path=path, split_seed=seed)))
            assert parts == parts_of(JsonlTask(JsonlSpec(path=shuffled, split_seed=seed)))
    assert len({tuple(test) for test in drawn}) == 200
    # Each line is held out in a tenth of the splits, and the file's two halves equally often.
    times = np.bincount(np.concatenate(drawn), minlength=count)
    assert times.sum() == 2000 and times.min() >= 4 and times.max() <= 40
    assert abs(times[: count // 2].sum() - 1000) < 4 * np.sqrt(2000 * 0.25)


def test_split_of_a_tiny_file_leaves_something_to_train_on(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"{n}", "cluster": str(n % 4)}) for n in range(20)]
    parts = parts_of(JsonlTask(JsonlSpec(path=_write(tmp_path / "a.jsonl", *lines))))
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [15, 0, 5]
    parts = parts_of(JsonlTask(JsonlSpec(path=str(tmp_path / "a.jsonl"), validation_share=0.25)))
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [10, 5, 5]
    lines = [json.dumps({"prompt": f"{n}", "cluster": "one"}) for n in range(20)]
    with pytest.raises(DataError, match=r"\b20 prompts.*\b1 cluster.*task\.held_out_path"):
        JsonlTask(JsonlSpec(path=_write(tmp_path / "b.jsonl", *lines)))


def test_held_out_file_that_shares_prompts_or_clusters_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", GOOD, '{"prompt": "x", "cluster": "c"}')
    same_prompt = _write(tmp_path / "b.jsonl", '{"prompt": "new"}', '{"prompt": " 2+2= "}', GOOD)
    with pytest.raises(DataError, match=r"b\.jsonl:2\b.*a\.jsonl:1\b.*\b2 of 3"):
        JsonlTask(JsonlSpec(path=path, held_out_path=same_prompt))
    same_cluster = _write(tmp_path / "c.jsonl", '{"prompt": "y", "cluster": "c"}')
    with pytest.raises(DataError, match=r"c\.jsonl:1\b.*cluster.*a\.jsonl:2\b.*\b1 of 1"):
        JsonlTask(JsonlSpec(path=path, held_out_path=same_cluster))


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
    read = {name: read_prompts(path) for name, path in _tables(tmp_path, rows).items()}
    prompts = {name: [row.prompt for row in found] for name, found in read.items()}
    assert prompts["data.jsonl"] == prompts["data.parquet"] == prompts["saved"]
    assert prompts["saved"][0].metadata == {"level": 1} and prompts["saved"][1].cluster_id == "sums"
    assert read["data.parquet"][1].place == f"{tmp_path}/data.parquet:row 1"
    assert read["saved"][1].place == f"{tmp_path}/saved:row 1"


def test_table_without_ids_numbers_prompts_by_row(tmp_path: Path) -> None:
    paths = _tables(tmp_path, [{"prompt": "1+1="}, {"prompt": "2+2="}])
    ids = {name: [row.prompt.prompt_id for row in read_prompts(path)] for name, path in paths.items()}
    assert ids == {
        "data.jsonl": ["data-1", "data-2"],
        "data.parquet": ["data-0", "data-1"],
        "saved": ["saved-0", "saved-1"],
    }


@pytest.mark.parametrize("name", ["data.parquet", "saved"])
def test_broken_row_of_a_table_is_named_by_path_and_row(tmp_path: Path, name: str) -> None:
    path = _tables(tmp_path, [{"prompt": "1+1="}, {"prompt": None}])[name]
    with pytest.raises(DataError, match=rf"{path}:row 1: .*'prompt'.*'messages'"):
        read_prompts(path)


def test_reading_tables_needs_no_torch(tmp_path: Path) -> None:
    paths = _tables(tmp_path, [{"prompt": "1+1="}])
    code = (
        "import sys\nfrom pathlib import Path\nfrom polyray.tasks.jsonl import read_prompts\n"
        "print(sum(len(read_prompts(Path(path))) for path in sys.argv[1:]), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths.values())],
        cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["3", "False"]


def test_directory_that_is_no_saved_dataset_is_an_error(tmp_path: Path) -> None:
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


def test_data_record_of_a_dataset_directory_changes_with_its_rows(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory, text in ((first, "1+1="), (second, "2+2=")):
        directory.mkdir()
        _tables(directory, [{"prompt": text}])
    assert sha256_of(first / "saved") == sha256_of(first / "saved") != sha256_of(second / "saved")
