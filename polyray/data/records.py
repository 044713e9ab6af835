"""Rows of the user's own SFT data, read and checked without a tokenizer (`--check` calls this, too).

    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    {"prompt": "2+2=", "completion": "4"}

`prompt` and `completion` may each be a text or a list of messages; other fields of a row are left alone.
Every broken row is a DataError that names the file, the line, what is wrong and the fix. Encoding is
demonstrations.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.config.supervised import JsonlDataSpec
from polyray.data.splits import prompt_key, seeded_rank
from polyray.data.tables import filled, is_table, read_rows
from polyray.errors import DataError
from polyray.types import Message, Prompt

_EXAMPLE = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}'
_SHAPES = f'a row is {_EXAMPLE} or {{"prompt": "2+2=", "completion": "4"}}'


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the reply to learn.

    Example:
        Demonstration(Prompt("data.jsonl:3", "2+2="), response="4")
    """

    prompt: Prompt
    """`prompt_id` is file:line; `messages` is everything before the last turn, or None for plain text."""
    response: str
    """The last assistant turn."""
    trained_turns: tuple[int, ...] = ()
    """Indices of those messages of the prompt that are trained as well."""


def read_demonstrations(spec: JsonlDataSpec) -> tuple[list[Demonstration], list[Demonstration]]:
    """(training, validation) rows in the order of the files. Raises DataError at the first broken row."""
    rows = _read(spec.train, "data.train", spec)
    if spec.validation is not None:
        validation = _read(spec.validation, "data.validation", spec)
        _check_apart(rows, validation, spec.validation)
        return rows, validation
    training: list[Demonstration] = []
    validation = []
    for row in rows:
        place = seeded_rank(spec.split_seed, prompt_key(row.prompt))
        is_validation = int.from_bytes(place[:8], "big") < spec.validation_share * 2**64
        (validation if is_validation else training).append(row)
    if not training or (spec.has_validation and not validation):
        raise DataError(
            f"{spec.train}: data.validation_share={spec.validation_share} of its prompts leaves {len(training)} rows "
            f"for training and {len(validation)} for validation; add prompts, change it, or set data.validation"
        )
    return training, validation


def _read(name: str, key: str, spec: JsonlDataSpec) -> list[Demonstration]:
    path = Path(name)
    return [
        parse_row(filled(record) if is_table(path) else record, where, spec.train_on)
        for where, record in read_rows(path, key=key, example=_EXAMPLE)
    ]


def _check_apart(rows: Sequence[Demonstration], validation: Sequence[Demonstration], path: str) -> None:
    where_of = {prompt_key(row.prompt): row.prompt.prompt_id for row in reversed(rows)}
    shared = [row for row in validation if prompt_key(row.prompt) in where_of]
    if shared:
        first = shared[0].prompt
        raise DataError(
            f"{first.prompt_id}: its prompt is also in {where_of[prompt_key(first)]}, as for {len(shared)} of "
            f"{len(validation)} rows of data.validation={path}; validation rows must not be trained on: remove them "
            "from one of the files"
        )


def parse_row(record: dict[str, Any], where: str, train_on: str = "last_turn") -> Demonstration:
    """One row; `where` is file:line. Raises DataError."""
    if ("messages" in record) == ("prompt" in record or "completion" in record):
        found = "'messages' beside 'prompt' or 'completion'" if "messages" in record else _names(record)
        raise DataError(f"{where}: found {found}; {_SHAPES}")
    if "messages" in record:
        messages = _messages(record["messages"], "messages", where)
        return _conversation(messages, 0, where, train_on)
    for key in ("prompt", "completion"):
        if key not in record:
            raise DataError(f"{where}: found {_names(record)} but no {key!r}; {_SHAPES}")
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt or not completion:
            raise DataError(f"{where}: {'prompt' if not prompt else 'completion'!r} is empty; write its text")
        return Demonstration(Prompt(where, prompt, reference=completion), completion)
    before = _turns(prompt, "prompt", "user", where)
    return _conversation(
        before + _turns(completion, "completion", "assistant", where), len(before), where, train_on
    )


def _conversation(messages: tuple[Message, ...], first: int, where: str, train_on: str) -> Demonstration:
    """Messages from `first` on may be trained."""
    *before, last = messages
    if last["role"] != "assistant":
        raise DataError(
            f"{where}: the last message has the role {last['role']!r}; it must be 'assistant', the turn to learn"
        )
    if not before:
        raise DataError(f"{where}: nothing comes before the assistant's turn; add the user's message")
    if not last["content"]:
        raise DataError(f"{where}: the last assistant message is empty; write its text")
    asked = [message["content"] for message in before if message["role"] == "user"]
    earlier = tuple(
        index for index, message in enumerate(before) if index >= first and message["role"] == "assistant"
    )
    return Demonstration(
        Prompt(where, asked[-1] if asked else "", reference=last["content"], messages=tuple(before)),
        last["content"],
        earlier if train_on == "all_turns" else (),
    )


def _turns(value: Any, key: str, role: str, where: str) -> tuple[Message, ...]:
    return ({"role": role, "content": value},) if isinstance(value, str) else _messages(value, key, where)


def _messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else f"a {type(value).__name__}"
        raise DataError(f'{where}: {key!r} is {found}; write a list of {{"role", "content"}} objects')
    for index, message in enumerate(value):
        well_formed = isinstance(message, dict) and all(
            isinstance(message.get(name), str) for name in ("role", "content")
        )
        if not well_formed:
            raise DataError(
                f"{where}: {key}[{index}] is {json.dumps(message)[:80]}; "
                'it must be {"role": "user", "content": "..."} with text values'
            )
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _names(record: dict[str, Any]) -> str:
    return f"the fields {', '.join(sorted(record))}" if record else "no field"
