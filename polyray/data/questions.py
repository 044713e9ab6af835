"""Questions with short answers: SQuAD 1.1 and 2.0, Natural Questions (NQ-open), and JSON Lines of one's own.

    SQuAD       {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}
    lines       {"question": ..., "answer": ["...", ...]} with context? and id?; {"answers": {"text": [...]}} as well

An empty list of answers means that the text does not say. The long-form files of Natural Questions (whole web
pages) are not read: NQ-open has their questions and short answers. Called by tasks/question_answering.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from polyray.data.examples import Example
from polyray.data.fields import required
from polyray.data.json_lines import read_bytes, read_objects
from polyray.errors import DataError
from polyray.types import Prompt

UNANSWERABLE = "unanswerable"
"""Expected answer, also in demonstrations, if the text has no answer."""
_EXAMPLE = '{"question": "What colour is the sky?", "answer": ["blue"]}'


def read_questions(path: Path) -> list[Example]:
    """All questions; `prompt.text` is the text, if any, a blank line and the question.

    `prompt.metadata["answers"]` are the accepted answers, `prompt.reference` the first. Raises DataError naming
    the place.
    """
    squad = _squad(path)
    if squad is not None:
        return list(_paragraphs(squad, str(path)))
    return [
        _row(row, f"{path}:{number}", f"{path.name.partition('.')[0]}-{number}")
        for number, row in read_objects(path, key="task.path", example=_EXAMPLE)
    ]


def _squad(path: Path) -> list[Any] | None:
    """The articles of a SQuAD file; None for a file of lines."""
    if not path.name.removesuffix(".gz").endswith(".json"):
        return None
    try:
        document = json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); a .json file is SQuAD's, others end in .jsonl"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise DataError(f"{path}: not a SQuAD file, which has a list 'data'; files of lines end in .jsonl")
    return document["data"]


def _paragraphs(articles: list[Any], where: str) -> Iterator[Example]:
    seen: set[str] = set()
    for number, article in enumerate(articles):
        at = f"{where}: data[{number}]"
        for index, paragraph in enumerate(required(article, "paragraphs", list, at)):
            here = f"{at}.paragraphs[{index}]"
            context = required(paragraph, "context", str, here)
            for question in required(paragraph, "qas", list, here):
                identity = str(required(question, "id", object, here))
                if identity in seen:
                    raise DataError(f"{here}: id {identity!r} occurs twice; ids must differ")
                seen.add(identity)
                accepted = [] if question.get("is_impossible") else _texts(question, here)
                text = required(question, "question", str, here)
                yield _example(identity, text, context, accepted, f"{number}/{index}")


def _row(row: Mapping[str, Any], where: str, default_id: str) -> Example:
    context = row.get("context") or ""
    if not isinstance(context, str):
        raise DataError(f"{where}: 'context' is a {type(context).__name__}; write a text")
    identity = str(row.get("id", default_id))
    answers = _texts(row, where)
    question = required(row, "question", str, where)
    example = _example(identity, question, context, answers, _cluster(context) or identity)
    return Example(example.prompt, example.response, str(row.get("part", "")))


def _cluster(context: str) -> str:
    """Questions about one text are one unit of statistics."""
    digest = hashlib.sha256(context.encode("utf-8", "surrogatepass")).hexdigest()
    return f"text-{digest[:12]}" if context else ""


def _texts(row: Mapping[str, Any], where: str) -> list[str]:
    """The answers in any of the formats: a text, a list of texts, a list of {"text"}, or {"text": [...]}."""
    found = row["answer"] if "answer" in row else required(row, "answers", object, where)
    if isinstance(found, dict):
        found = found.get("text")
    values = [found] if isinstance(found, str) else found
    if not isinstance(values, list):
        raise DataError(
            f"{where}: answers are a {type(found).__name__}; write a list of texts, e.g. {_EXAMPLE}"
        )
    texts: dict[str, None] = {}
    for value in values:
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise DataError(f"{where}: an answer is {text!r}; write a text")
        texts[text] = None
    return list(texts)


def _example(identity: str, question: str, context: str, answers: list[str], cluster: str) -> Example:
    prompt = Prompt(
        prompt_id=identity,
        text=f"{context}\n\n{question}" if context else question,
        reference=answers[0] if answers else UNANSWERABLE,
        cluster_id=cluster,
        metadata={"answers": answers},
    )
    return Example(prompt, answers[0] if answers else UNANSWERABLE)
