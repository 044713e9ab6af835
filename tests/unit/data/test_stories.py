"""Writing prompts and stories: the three formats, ratings, broken rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyray.data.stories import read_writing_prompts
from polyray.errors import DataError
from tests.data_sets import shared_data


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_stories_of_people_and_models_are_told_apart(tmp_path: Path) -> None:
    stories = [
        {"model": "Llama-7b", "text": "Sure!"},
        {"model": "Human", "text": " It rained. ", "human_ratings_mean": {"coherence": 4.5}},
        "The door.",
    ]
    own, asked = read_writing_prompts(
        write(tmp_path / "p.jsonl", {"prompt": "A door", "stories": stories}, {"id": "x", "prompt": "Why?"})
    )
    assert own.human_stories == ("It rained.", "The door.")
    assert own.stories[1].ratings == {"coherence": 4.5}
    assert (own.prompt_id, own.form) == ("p-1", "story")
    assert (asked.prompt_id, asked.form, asked.stories) == ("x", "as_it_is", ())


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_rocstories_are_read_and_a_missing_column_is_named(
    tmp_path: Path, suffix: str, delimiter: str
) -> None:
    path = tmp_path / f"roc{suffix}"
    header = ["storyid", "storytitle", *(f"sentence{i}" for i in range(1, 6))]
    row = ["id-1", "The Door", "One.", "Two.", "Three.", "Four.", "Five."]
    path.write_text("\n".join(delimiter.join(cells) for cells in (header, row)) + "\n")
    (prompt,) = read_writing_prompts(path)
    assert (prompt.prompt_id, prompt.prompt, prompt.form) == ("id-1", "The Door", "title")
    assert prompt.human_stories == ("One. Two. Three. Four. Five.",)
    path.write_text("\n".join(delimiter.join(cells[:3]) for cells in (header, row)) + "\n")
    with pytest.raises(DataError, match=r"roc\..sv:2.*'sentence2'"):
        read_writing_prompts(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ""}, ":2.*'prompt'"),
        ({"prompt": "p", "stories": "text"}, r":2: 'stories' .*\bstr\b"),
        ({"prompt": "p", "stories": [3]}, r":2, stories\[0\]: .*\bint\b"),
        ({"prompt": "p", "stories": [{"text": "t"}]}, r":2, stories\[0\]: .*'model'"),
        ({"prompt": "p", "storys": []}, ":2.*'storys'"),
        ({"prompt": "p", "id": "p-1"}, r":2.*'p-1'.*\b1\b"),
    ],
)
def test_broken_story_row_is_named(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_writing_prompts(write(tmp_path / "p.jsonl", {"prompt": "first"}, row))


def test_hanna_has_its_published_size() -> None:
    prompts = read_writing_prompts(shared_data("creative/writingprompts_hanna.jsonl.gz"))
    assert len(prompts) == 96
    assert all(len(prompt.stories) == 7 and len(prompt.human_stories) == 1 for prompt in prompts)


@pytest.mark.parametrize(("name", "expected"), [("curated", 100), ("wildchat-1k", 1000)])
def test_novelty_bench_has_its_published_size(name: str, expected: int) -> None:
    prompts = read_writing_prompts(shared_data(f"creative/noveltybench_{name}.jsonl"))
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == expected
    assert {prompt.form for prompt in prompts} == {"as_it_is"}
