"""Base class of tasks of questions with known answers: parts, ids, demonstrations.

A subclass reads its files and judges answers. Called by math.py and question_answering.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from polyray.data.examples import Example, by_file, by_part
from polyray.data.sources import BUILTIN
from polyray.errors import DataError
from polyray.tasks.base import epoch_position
from polyray.types import Prompt


class ExampleTask(ABC):
    """Held-out problems from `path`, training and validation problems from `train_path`."""

    name: str
    has_verifier = True

    def __init__(self, path: str, train_path: str | None, num_validation: int) -> None:
        """Reads both files. Raises DataError where one is absent or broken."""
        self._path = path
        held_out = self._read(path, "task.path")
        if train_path is not None:
            self.examples = by_file(held_out, self._read(train_path, "task.train_path"), num_validation)
        else:
            self.examples = by_part(held_out) if path == BUILTIN else by_file(held_out, (), 0)
        everything = (*self.examples.held_out, *self.examples.validation, *self.examples.training)
        self._by_id = {example.prompt.prompt_id: example.prompt for example in everything}

    @abstractmethod
    def _read(self, path: str, key: str) -> list[Example]:
        """The problems of a file, in the words that the model reads; `key` names the file in errors."""

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """A training problem, in shuffled epochs. Raises DataError where there is none."""
        return self._training_example(index, seed).prompt

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """Held-out prompts in the order of the file."""
        return [example.prompt for example in self.examples.held_out[:limit]]

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """The last `num_validation` problems of the training file."""
        return [example.prompt for example in self.examples.validation[:limit]]

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """A training problem and its answer."""
        example = self._training_example(index, seed)
        return example.prompt, example.response

    def prompt_of(self, task_id: str) -> Prompt:
        """The prompt with this id. Raises DataError for an unknown one."""
        if task_id not in self._by_id:
            raise DataError(
                f"task_id {task_id!r} is none of the {len(self._by_id)} problems of {self._path}, such as "
                f"{next(iter(self._by_id))!r}; give the problems that the samples were made for"
            )
        return self._by_id[task_id]

    def reference(self, prompt: Prompt) -> str | None:
        """The right answer, or the first of them."""
        return prompt.reference

    def _training_example(self, index: int, seed: int) -> Example:
        training = self.examples.training
        if not training:
            raise DataError(
                f"{self._path} is held out as a whole; set task.train_path to problems to train on"
            )
        return training[epoch_position(self.name, index, len(training), seed)]
