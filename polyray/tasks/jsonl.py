"""The user's own prompts: one JSON object a line, judged by exact match with the line's reference.

    {"prompt": "2+2=", "reference": "4"}
    {"messages": [{"role": "user", "content": "2+2?"}], "id": "q1", "cluster": "sums", "response": "4"}

`response` is a demonstration for SFT; `metadata` is handed to the reward. Every broken line is a DataError
that names the file, the line, what is wrong and the fix. Not for data that does not fit into memory.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.config.task import JsonlSpec
from polyray.data.json_lines import read_objects
from polyray.errors import DataError
from polyray.tasks.base import class_id, classes_of_each
from polyray.types import WRONG_CLASS, Prompt

_FIELDS = ("prompt", "messages", "reference", "metadata", "id", "cluster", "response")
_EXAMPLE = '{"prompt": "2+2=", "reference": "4"}'


@dataclass(frozen=True, slots=True)
class JsonlRow:
    """One line, e.g. JsonlRow(prompt=Prompt("data-1", "2+2=", reference="4"), response=None)."""

    prompt: Prompt
    response: str | None
    place: str = ""
    """File and line."""


class JsonlTask:
    """Prompts from a file, in epochs, each a shuffle of its own."""

    name = "jsonl"
    has_verifier = True

    def __init__(self, spec: JsonlSpec) -> None:
        path = Path(spec.path)
        rows = read_rows(path)
        if spec.held_out_path is not None:
            self.training_rows, self.held_out_rows = rows, read_rows(Path(spec.held_out_path))
        else:
            if len(rows) < 2:
                raise DataError(
                    f"{path}: 1 prompt cannot be split; add a second one or set task.held_out_path"
                )
            num_held_out = min(len(rows) - 1, max(1, round(len(rows) * spec.held_out_share)))
            self.training_rows, self.held_out_rows = rows[:-num_held_out], rows[-num_held_out:]
        self._path = path
        self._demonstrations = [row for row in self.training_rows if row.response is not None]
        self._orders: dict[tuple[int, int, int], list[int]] = {}

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """Prompt number `index`: epoch `index // n`, shuffled by seed and epoch."""
        return self._pick(self.training_rows, index, seed).prompt

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """In the order of the file."""
        return [row.prompt for row in self.held_out_rows[:limit]]

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """None: the file has a training and a held-out part only."""
        return []

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """A line that has a `response`. Raises DataError if the training part has none."""
        if not self._demonstrations:
            raise DataError(
                f"{self._path}: no training line has a 'response', so there is nothing to demonstrate; add it"
            )
        row = self._pick(self._demonstrations, index, seed)
        assert row.response is not None
        return row.prompt, row.response

    def reference(self, prompt: Prompt) -> str | None:
        """The line's own reference."""
        return prompt.reference

    def reward(self, prompt: Prompt, completion: str) -> float:
        """1 for the reference's text, outer white space aside, else 0. DataError without a reference."""
        if prompt.reference is None:
            raise DataError(
                f"prompt {prompt.prompt_id or prompt.text[:40]!r} has no 'reference', which the "
                "verifier reward compares with; add one to every line, or use reward.type=python"
            )
        return float(completion.strip() == prompt.reference.strip())

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The stripped text; WRONG_CLASS where there is a reference and it differs."""
        if prompt.reference is not None and self.reward(prompt, completion) == 0:
            return WRONG_CLASS
        return class_id(completion.strip())

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The class of each."""
        return classes_of_each(self, prompt, completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """1 between different classes, else 0; 0 where either is wrong."""
        first, second = self.completion_class(prompt, a), self.completion_class(prompt, b)
        return float(first != second and WRONG_CLASS not in (first, second))

    def place_of(self, prompt_id: str) -> str | None:
        """File and line of a prompt, for errors; None for an unknown one."""
        rows = (*self.training_rows, *self.held_out_rows)
        return next((row.place for row in rows if row.prompt.prompt_id == prompt_id), None)

    def _pick(self, rows: Sequence[JsonlRow], index: int, seed: int) -> JsonlRow:
        epoch, position = divmod(index, len(rows))
        key = (len(rows), seed, epoch)
        if key not in self._orders:
            order = list(range(len(rows)))
            random.Random(f"jsonl/{seed}/{epoch}").shuffle(order)
            self._orders = {key: order}
        return rows[self._orders[key][position]]


def read_rows(path: Path) -> list[JsonlRow]:
    """All lines of a file; blank lines are skipped. Raises DataError at the first broken one."""
    rows: list[JsonlRow] = []
    line_of_id: dict[str, int] = {}
    for number, record in read_objects(path, key="task.path", example=_EXAMPLE):
        row = _row(record, where=f"{path}:{number}", default_id=f"{path.stem}-{number}")
        earlier = line_of_id.setdefault(row.prompt.prompt_id, number)
        if earlier != number:
            raise DataError(
                f"{path}:{number}: id {row.prompt.prompt_id!r} is already that of line {earlier}; "
                "ids must differ"
            )
        rows.append(row)
    return rows


def _row(record: dict[str, Any], where: str, default_id: str) -> JsonlRow:
    unknown = sorted(set(record) - set(_FIELDS))
    if unknown:
        raise DataError(
            f"{where}: unknown field {unknown[0]!r}; known: {', '.join(_FIELDS)}; put others under 'metadata'"
        )
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict):
        raise DataError(f"{where}: 'metadata' is a {type(metadata).__name__}; make it an object")
    text, messages = _question(record, where)
    prompt_id = _optional_text(record, "id", where) or default_id
    prompt = Prompt(
        prompt_id=prompt_id,
        text=text,
        reference=_optional_text(record, "reference", where),
        messages=messages,
        cluster_id=_optional_text(record, "cluster", where) or prompt_id,
        metadata=metadata,
    )
    return JsonlRow(prompt, _optional_text(record, "response", where), where)


def _question(record: dict[str, Any], where: str) -> tuple[str, tuple[dict[str, str], ...] | None]:
    """(text, messages): exactly one of `prompt` and `messages` must be there."""
    if ("prompt" in record) == ("messages" in record):
        found = "both 'prompt' and 'messages'" if "prompt" in record else "neither 'prompt' nor 'messages'"
        raise DataError(f"{where}: {found}; a line has exactly one of them")
    if "prompt" in record:
        text = _optional_text(record, "prompt", where)
        if not text:
            raise DataError(f"{where}: 'prompt' is empty; write the text the model is asked")
        return text, None
    messages = record["messages"]
    well_formed = isinstance(messages, list) and all(
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and all(isinstance(value, str) for value in message.values())
        for message in messages
    )
    if not well_formed or not messages or messages[-1]["role"] != "user":
        raise DataError(
            f'{where}: \'messages\' must be a list of {{"role", "content"}} objects with text values, '
            "the last one with the role 'user'"
        )
    return messages[-1]["content"], tuple(messages)


def _optional_text(record: dict[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"{where}: {key!r} is a {type(value).__name__} ({value!r}); write it as text in quotes"
        )
    return value
