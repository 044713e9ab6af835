"""Word problems with a number as the answer: GSM8K by path, and a small set of polyray's own.

    prompt       a chat message with the question, or "Question: ... Answer:"
    completion   reasoning and an answer: "#### 72", "The answer is 72", \\boxed{72} or the last number

A correct completion's class is its chain of equations, so that two ways to the same number are two classes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from polyray.config.verifiable_tasks import MathSpec
from polyray.data.examples import Example
from polyray.data.sources import data_path
from polyray.data.word_problems import read_word_problems
from polyray.errors import DataError
from polyray.tasks.base import class_id, classes_of_each
from polyray.tasks.code_trees import levenshtein
from polyray.tasks.example_task import ExampleTask
from polyray.tasks.math_answers import answer_of, as_number, normal_words, reasoning_steps
from polyray.types import WRONG_CLASS, Prompt

MATH_VERIFY_LIMIT_S = 5


class MathTask(ExampleTask):
    """See the module docstring."""

    name = "math"

    def __init__(self, spec: MathSpec) -> None:
        self.spec = spec
        super().__init__(spec.path, spec.train_path, spec.num_validation)

    def reward(self, prompt: Prompt, completion: str) -> float:
        """1 where the completion's answer equals the reference, else 0. DataError without a reference."""
        if prompt.reference is None:
            raise DataError(
                f"prompt {prompt.prompt_id or prompt.text[:40]!r} has no 'reference'; add the number"
            )
        if self.spec.extractor == "math_verify":
            return float(_math_verify(prompt.reference, completion))
        expected = as_number(prompt.reference)
        if expected is None:
            raise DataError(
                f"reference {prompt.reference!r} is not a number; correct it, or set task.extractor: math_verify"
            )
        return float(answer_of(completion) == expected)

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """Class by the equations in order, or by the words without equations; WRONG_CLASS for a wrong answer."""
        if not self.reward(prompt, completion):
            return WRONG_CLASS
        steps = reasoning_steps(completion)
        return class_id("|".join(steps) if steps else " ".join(normal_words(completion)))

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The class of each."""
        return classes_of_each(self, prompt, completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """Edit distance of the equations (of the words, where either has none) over the longer one; 0 unless
        both are correct."""
        if not self.reward(prompt, a) or not self.reward(prompt, b):
            return 0.0
        first, second = reasoning_steps(a), reasoning_steps(b)
        if not first or not second:
            first, second = normal_words(a), normal_words(b)
        return levenshtein(first, second) / max(len(first), len(second), 1)

    def _read(self, path: str, key: str) -> list[Example]:
        return [self._asked(example) for example in read_word_problems(data_path("math", path, key=key))]

    def _asked(self, example: Example) -> Example:
        """The example with the prompt in the words that the model reads."""
        question = example.prompt.text
        if self.spec.mode == "completion":
            prompt = replace(example.prompt, text=f"Question: {question}\nAnswer:")
            return replace(example, prompt=prompt, response=f" {example.response}")
        text = self.spec.instruction.replace("{question}", question)
        prompt = replace(example.prompt, text=text, messages=({"role": "user", "content": text},))
        return replace(example, prompt=prompt)


def _math_verify(reference: str, completion: str) -> bool:
    """The verdict of the math-verify package; its time limits work in the main thread only."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of each limit that is off
    limit_s = MATH_VERIFY_LIMIT_S if threading.current_thread() is threading.main_thread() else 0
    expected = parse(reference, parsing_timeout=limit_s)
    found = parse(completion, parsing_timeout=limit_s)
    return bool(verify(expected, found, timeout_seconds=limit_s))
