"""Questions with short answers: SQuAD 1.1 and 2.0 and NQ-open by path, and a small set of polyray's own.

    prompt       a chat message with text and question, or "Question: ... Answer:"
    completion   the answer: its first line, without "Answer:"

Answers are compared as SQuAD's evaluation does: lower case, without punctuation, articles and extra spaces; exact
match and token F1, the best over the accepted answers (Rajpurkar et al. 2016, arXiv 1606.05250, section 6).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyray.config.verifiable_tasks import QuestionAnsweringSpec
from polyray.data.examples import Example
from polyray.data.questions import UNANSWERABLE, read_questions
from polyray.data.sources import data_path
from polyray.errors import DataError
from polyray.tasks.base import class_id, classes_of_each
from polyray.tasks.example_task import ExampleTask
from polyray.types import WRONG_CLASS, Prompt

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARK = re.compile(r"^\s*answer\s*:\s*", re.IGNORECASE)
_NO_ANSWER = frozenset({UNANSWERABLE, "no answer", "unknown"})


def normal_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_text(completion: str) -> str:
    """The answer in a completion: the first line that is not blank, without "Answer:"."""
    lines = (line for line in completion.splitlines() if line.strip())
    return _MARK.sub("", next(lines, "")).strip()


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 where the normalised answer is one of the accepted ones; for none of those, where it says so."""
    gold = _gold(accepted)
    return float(_normal(answer, gold) in gold)


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """The best F1 of the normalised words over the accepted answers; 1 or 0 where either side has none."""
    gold = _gold(accepted)
    found = _normal(answer, gold).split()
    return max(_f1(found, text.split()) for text in gold)


def _gold(accepted: Sequence[str]) -> list[str]:
    """Normalised answers; as in SQuAD 2.0 those that normalise to nothing do not count beside others."""
    return [normal for text in accepted if (normal := normal_answer(text))] or [""]


def _normal(answer: str, gold: Sequence[str]) -> str:
    """Nothing for "unknown" and the like where there is no answer; elsewhere they are answers as any other."""
    normal = normal_answer(answer)
    return "" if gold == [""] and normal in _NO_ANSWER else normal


def _f1(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold))


class QuestionAnsweringTask(ExampleTask):
    """See the module docstring."""

    name = "question_answering"

    def __init__(self, spec: QuestionAnsweringSpec) -> None:
        self.spec = spec
        super().__init__(spec.path, spec.train_path, spec.num_validation)

    def reward(self, prompt: Prompt, completion: str) -> float:
        """Exact match or F1, as configured. DataError where the prompt has no answers."""
        measure = token_f1 if self.spec.metric == "f1" else exact_match
        return measure(answer_text(completion), self._accepted(prompt))

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The normalised answer; WRONG_CLASS where its reward is 0."""
        if not self.reward(prompt, completion):
            return WRONG_CLASS
        return class_id(_normal(answer_text(completion), _gold(self._accepted(prompt))))

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The class of each."""
        return classes_of_each(self, prompt, completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """1 - F1 of the two answers; 0 where either has reward 0."""
        if not self.reward(prompt, a) or not self.reward(prompt, b):
            return 0.0
        gold = _gold(self._accepted(prompt))
        return 1.0 - _f1(*(_normal(answer_text(text), gold).split() for text in (a, b)))

    @staticmethod
    def _accepted(prompt: Prompt) -> Sequence[str]:
        answers: Any = prompt.metadata.get("answers")
        if answers is None:
            if prompt.reference is None:
                raise DataError(
                    f"prompt {prompt.prompt_id or prompt.text[:40]!r} has neither metadata 'answers' nor a "
                    "'reference'; add the accepted answers"
                )
            return [] if prompt.reference == UNANSWERABLE else [prompt.reference]
        if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
            raise DataError(f"metadata 'answers' is {str(answers)[:80]}; write a list of texts")
        return answers

    def _read(self, path: str, key: str) -> list[Example]:
        return [self._asked(example) for example in read_questions(data_path(self.name, path, key=key))]

    def _asked(self, example: Example) -> Example:
        """The example with the prompt in the words that the model reads."""
        if self.spec.mode == "completion":
            context, _, question = example.prompt.text.rpartition("\n\n")
            text = (
                f"{context}\n\nQuestion: {question}\nAnswer:" if context else f"Question: {question}\nAnswer:"
            )
            return replace(
                example, prompt=replace(example.prompt, text=text), response=f" {example.response}"
            )
        text = self.spec.instruction.replace("{question}", example.prompt.text)
        prompt = replace(example.prompt, text=text, messages=({"role": "user", "content": text},))
        return replace(example, prompt=prompt)
