"""From the text of an answer to a validated value, or to a sentence that tells the judge what was wrong.

Endpoints with structured output give clean JSON; others wrap it in prose or a code fence, and that is accepted
too. Validation is by pydantic models that are built from the question's own schema, so the two cannot drift
apart; a key that occurs twice is refused, because one of the two values would be lost.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from polyray.shelf.judge.questions import GARBAGE, Question
from polyray.types import WRONG_CLASS

MAX_REASONING_CHARS = 2000
"""Longer reasonings are cut in judgements.jsonl; the cache keeps the answer as it came."""


MAX_FALSE_STARTS = 50
"""Braces that open nothing, after which the rest of an answer is not searched: it would take quadratic time."""


class InvalidAnswer(ValueError):
    """Says what is wrong with an answer, in words for the judge."""


def parse_answer(text: str, question: Question) -> dict[str, Any]:
    """The answer's fields. Raises InvalidAnswer."""
    values = _json_object(text)
    model = _answer_model(json.dumps(question.schema))
    try:
        return model.model_validate(values).model_dump(by_alias=True)
    except ValidationError as error:
        raise InvalidAnswer("; ".join(_explain(item) for item in error.errors()[:5])) from None


def reasoning_of(answer: Mapping[str, Any]) -> str:
    """The judge's own words, "" where none were asked for."""
    return str(answer.get("reasoning", ""))[:MAX_REASONING_CHARS]


def classes_of(labels: list[int]) -> list[int]:
    """Group numbers -> classes 0, 1, ... in order of appearance; garbage -> WRONG_CLASS."""
    order: dict[int, int] = {}
    return [WRONG_CLASS if label == GARBAGE else order.setdefault(label, len(order)) for label in labels]


def _json_object(text: str) -> dict[str, Any]:
    """The JSON object that is the text, or the only one in it."""
    if not text.strip():
        raise InvalidAnswer("the answer is empty; give the JSON object")
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
    found: list[dict[str, Any]] = []
    position = text.find("{")
    failures = 0
    while position >= 0 and failures < MAX_FALSE_STARTS:
        try:
            value, end = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            position = text.find("{", position + 1)
            failures += 1
            continue
        found.append(value)
        position = text.find("{", end)
    if not found:
        raise InvalidAnswer("there is no complete JSON object in the answer")
    if len(found) > 1:
        raise InvalidAnswer(f"there are {len(found)} JSON objects in the answer; give exactly one")
    return found[0]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidAnswer(f"the key {twice!r} occurs twice; give every key exactly once")
    return values


@functools.lru_cache(maxsize=64)
def _answer_model(schema: str) -> type[BaseModel]:
    """The pydantic model of a schema as questions.py writes them: strings, and enumerated strings or integers."""
    fields: dict[str, Any] = {}
    for number, (name, kind) in enumerate(json.loads(schema)["properties"].items()):
        annotation: Any = str
        if "enum" in kind:
            annotation = Annotated[Literal[tuple(kind["enum"])], BeforeValidator(_no_boolean)]
        # A criterion may be called like a method of BaseModel, so the fields have names of their own.
        fields[f"field_{number}"] = (annotation, Field(alias=name))
    return create_model("Answer", __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _no_boolean(value: Any) -> Any:
    """JSON's true is no 1, although Python's is."""
    if isinstance(value, bool):
        raise ValueError("a boolean is not allowed")
    return value


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"the key {key!r} is missing"
    if item["type"] == "extra_forbidden":
        return f"the key {key!r} does not belong there"
    return f"{key}={item['input']!r:.100}: {item['msg']}"
