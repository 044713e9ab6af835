"""Writing prompts, with or without stories: HANNA, NoveltyBench, ROCStories, and the user's own.

JSON Lines, one prompt a line. A story is a text (then it is one to learn from) or an object as HANNA has it,
where "Human" marks those to learn from:

    {"prompt": "A lighthouse keeper finds a door.", "stories": ["The door had not been there ..."]}
    {"id": "hanna-001", "prompt": "...", "stories": [{"model": "Human", "text": "...",
                                                      "human_ratings_mean": {"coherence": 4.7, ...}}, ...]}
    {"id": "curated-0", "category": "Creativity", "prompt": "...", "prompt_paraphrases": [...]}

ROCStories is a table as its authors give it out (comma in .csv, tab in .tsv): storyid, storytitle,
sentence1 to sentence5. Every broken row is a DataError that names file, line, value and fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyray.data.fields import RowFields
from polyray.data.json_lines import read_objects
from polyray.data.social import read_csv_rows
from polyray.errors import DataError

_HUMAN = "Human"
_KNOWN = ("id", "prompt", "stories", "category", "licence", "url")
_NOVELTY_BENCH_EXTRAS = ("prompt_paraphrases", "chosen", "original_prompt", "safety", "meta")
_STORY = ("model", "text", "human_ratings_mean")
_EXAMPLE = '{"prompt": "A lighthouse keeper finds a door.", "stories": ["The door had not been there ..."]}'
_ROC_SENTENCES = tuple(f"sentence{number}" for number in range(1, 6))
_ROC_COLUMNS = ("storyid", "storytitle", *_ROC_SENTENCES)


PromptForm = Literal["story", "title", "as_it_is"]
"""Form of a prompt: the beginning of a story, the title of a five-sentence story, or a plain question.

A story has lines with `stories`, a title is ROCStories', a plain question has lines without `stories`, as
NoveltyBench's.
"""


@dataclass(frozen=True, slots=True)
class Story:
    """One story.

    Example:
        Story(text="I tried to stay away ...", author="Human", ratings={"coherence": 4.67})
    """

    text: str
    author: str = _HUMAN
    """"Human", or the model that wrote it."""
    ratings: Mapping[str, float] = field(default_factory=dict)
    """Mean human rating per criterion, 1 to 5, where there is one."""

    @property
    def is_human(self) -> bool:
        """Whether it may serve as a demonstration or reference."""
        return self.author == _HUMAN


@dataclass(frozen=True, slots=True)
class WritingPrompt:
    """A prompt with its stories.

    Example:
        WritingPrompt(prompt_id="hanna-001", prompt="A new law is enacted that ...", stories=(Story(...),))
    """

    prompt_id: str
    prompt: str
    stories: tuple[Story, ...] = ()
    category: str = ""
    form: PromptForm = "as_it_is"

    @property
    def human_stories(self) -> tuple[str, ...]:
        """The texts to learn from."""
        return tuple(story.text for story in self.stories if story.is_human)


def read_writing_prompts(path: Path, *, key: str = "task.path") -> list[WritingPrompt]:
    """All prompts in the order of the file; tables (.csv, .tsv) are ROCStories.

    `key` is the configuration's name for the file. Raises DataError at the first broken row.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".csv" in suffixes or ".tsv" in suffixes:
        return read_rocstories(path)
    prompts: list[WritingPrompt] = []
    place_of: dict[str, int] = {}
    for number, record in read_objects(path, key=key, example=_EXAMPLE):
        row = RowFields(record, f"{path}:{number}")
        prompts.append(_prompt(row, default_id=f"{path.stem}-{number}"))
        _check_new(place_of, prompts[-1].prompt_id, number, row)
    return prompts


def read_rocstories(path: Path) -> list[WritingPrompt]:
    """One prompt per story: its title; the five sentences are the story. Raises DataError."""
    delimiter = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    prompts: list[WritingPrompt] = []
    place_of: dict[str, int] = {}
    for number, record in read_csv_rows(path, delimiter):
        row = RowFields(record, f"{path}:{number}")
        missing = [name for name in _ROC_COLUMNS if name not in record]
        if missing:
            raise row.error(
                f"no column {missing[0]!r}; ROCStories has {', '.join(_ROC_COLUMNS)} in its header line"
            )
        story = " ".join(row.text(name) for name in _ROC_SENTENCES)
        prompts.append(
            WritingPrompt(row.text("storyid"), row.text("storytitle"), (Story(story),), form="title")
        )
        _check_new(place_of, prompts[-1].prompt_id, number, row)
    return prompts


def _prompt(row: RowFields, default_id: str) -> WritingPrompt:
    row.check_known((*_KNOWN, *_NOVELTY_BENCH_EXTRAS), "remove it")
    stories = row.values.get("stories", [])
    if not isinstance(stories, list):
        raise row.error(f"'stories' is a {type(stories).__name__}; write a list of texts, e.g. {_EXAMPLE}")
    return WritingPrompt(
        prompt_id=row.optional_text("id") or default_id,
        prompt=row.text("prompt"),
        stories=tuple(_story(story, f"{row.where}, stories[{at}]") for at, story in enumerate(stories)),
        category=row.optional_text("category"),
        form="story" if "stories" in row.values else "as_it_is",
    )


def _story(story: object, where: str) -> Story:
    if isinstance(story, str):
        return Story(RowFields({"text": story}, where).text("text"))
    if not isinstance(story, dict):
        raise DataError(f"{where}: a {type(story).__name__}; write a text, or an object with model and text")
    row = RowFields(story, where)
    row.check_known(_STORY, "remove it")
    ratings = story.get("human_ratings_mean", {})
    if not isinstance(ratings, dict):
        raise row.error(f"'human_ratings_mean' is a {type(ratings).__name__}; write an object of numbers")
    rated = RowFields(ratings, where)
    return Story(row.text("text"), row.text("model"), {name: rated.number(name) for name in ratings})


def _check_new(place_of: dict[str, int], prompt_id: str, number: int, row: RowFields) -> None:
    earlier = place_of.setdefault(prompt_id, number)
    if earlier != number:
        raise row.error(f"id {prompt_id!r} is already that of line {earlier}; ids must differ")
