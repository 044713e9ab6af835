"""Baselines that need no training: the same prompts asked in another way, with or without worked examples.

    template + demonstrations of the training part --few_shot_examples, leak check--> examples
    Prompt --asked--> Prompt with other text or messages, and the same id, reference, cluster and metadata

Only the policy sees the new wording: rewards, classes and hashes go by the task's own prompt. A template may ask for
all answers at once (verbalised sampling); listed_answers takes them apart. Called by arms.py and sampling.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from polyray.config.loader import load_config
from polyray.config.prompts import PromptTemplate
from polyray.errors import DataError, MissingFile
from polyray.tasks.base import Task
from polyray.types import Message, Prompt

SEARCHED_PER_SHOT = 50
"""Demonstrations looked at for each one that is wanted: streams repeat prompts."""


@dataclass(frozen=True, slots=True)
class Example:
    """One worked example, e.g. Example(Prompt("mbpp-1", "Write a function ..."), "def f(): ...")."""

    prompt: Prompt
    response: str


def load_template(path: str) -> PromptTemplate:
    """The template of a file. Raises MissingFile, or ConfigError where it is broken."""
    if not Path(path).is_file():
        raise MissingFile(f"{path}: no such file; give a template such as configs/prompts/few_shot.yaml")
    return load_config(PromptTemplate, path)


def few_shot_examples(task: Task, shots: int, seed: int, evaluated: Sequence[Prompt]) -> list[Example]:
    """`shots` demonstrations with different prompts: of the part that a data set keeps for that, else of training.

    Raises DataError where one of them is among the `evaluated` prompts, shares the thread or package of one
    (its cluster), and where there are too few.
    """
    leaks = _Leaks(evaluated)
    if isinstance(task, HasFewShotPart) and task.num_few_shot >= shots:
        kept = task.few_shot_examples(shots)
        for prompt, _ in kept:
            leaks.check(prompt)
        return [Example(prompt, response) for prompt, response in kept]
    examples: dict[str, Example] = {}
    for index in range(shots * SEARCHED_PER_SHOT):
        if len(examples) == shots:
            break
        prompt, response = task.demonstration(index, seed)
        leaks.check(prompt)
        examples.setdefault(_normal(prompt.text), Example(prompt, response))
    if len(examples) < shots:
        raise DataError(
            f"shots={shots}, but the training part of {task.name} has only {len(examples)} different "
            "demonstrations; lower shots or add demonstrations"
        )
    return list(examples.values())


@runtime_checkable
class HasFewShotPart(Protocol):
    """A task with problems that its data set reserves for prompts, as MBPP does."""

    @property
    def num_few_shot(self) -> int:
        """Number of problems reserved for prompts."""
        ...

    def few_shot_examples(self, num_examples: int) -> list[tuple[Prompt, str]]:
        """(prompt, response) of the first of them."""
        ...


class _Leaks:
    """Check that no worked example gives away an evaluated prompt."""

    def __init__(self, evaluated: Sequence[Prompt]) -> None:
        self._texts = {_normal(prompt.text): prompt.prompt_id for prompt in evaluated}
        self._clusters = {prompt.cluster_id: prompt.prompt_id for prompt in evaluated if prompt.cluster_id}

    def check(self, prompt: Prompt) -> None:
        """Raises DataError naming the evaluated prompt that is given away."""
        found = self._texts.get(_normal(prompt.text))
        why = "has the same text as"
        if found is None and prompt.cluster_id:
            found, why = (
                self._clusters.get(prompt.cluster_id),
                f"shares the cluster {prompt.cluster_id!r} with",
            )
        if found is not None:
            raise DataError(
                f"few-shot leak: the demonstration {prompt.prompt_id!r} {why} the evaluated prompt {found!r}; "
                "take demonstrations from the training part only"
            )


def asked(prompt: Prompt, template: PromptTemplate, examples: Sequence[Example]) -> Prompt:
    """`prompt` in the words of `template`; a chat prompt stays one, and a system message makes no text a chat."""
    if prompt.messages is not None:
        return replace(prompt, messages=_messages(prompt.messages, template, examples))
    parts = [template.system] if template.system else []
    parts += [f"{example.prompt.text}{example.response}" for example in examples]
    parts.append(f"{template.before}{prompt.text}{template.after}")
    return replace(prompt, text=template.separator.join(parts))


def listed_answers(text: str, number: int) -> list[str]:
    """The first `number` entries of a numbered list; empty texts stand for entries that are missing.

    An entry begins at a line with the next number and a period or bracket, and may have several lines. What comes
    before entry 1 is left out. A text without a list is one answer.
    """
    found = re.split(r"^[ \t]*(\d+)[.)][ \t]+", text, flags=re.MULTILINE)
    entries: list[str] = []
    for given, entry in zip(found[1::2], found[2::2], strict=True):
        if int(given) == len(entries) + 1:
            entries.append(entry)
        elif entries:  # a number inside the answer
            entries[-1] += f"{given}. {entry}"
    answers = [entry.strip() for entry in entries or [text]]
    return [*answers, *[""] * number][:number]


def _messages(
    messages: Sequence[Message], template: PromptTemplate, examples: Sequence[Example]
) -> tuple[Message, ...]:
    own_system = [message["content"] for message in messages if message["role"] == "system"]
    system = "\n\n".join([*([template.system] if template.system else []), *own_system])
    shown: list[Message] = [{"role": "system", "content": system}] if system else []
    for example in examples:
        shown += [
            {"role": "user", "content": example.prompt.text},
            {"role": "assistant", "content": example.response},
        ]
    *earlier, last = [message for message in messages if message["role"] != "system"]
    return (
        *shown,
        *earlier,
        {"role": last["role"], "content": f"{template.before}{last['content']}{template.after}"},
    )


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
