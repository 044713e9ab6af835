"""Interface of a task: prompts, and the judgement of a completion. Pure Python; no torch, no Ray.

Called by the RL loop (prompt number `group_id`), SFT (demonstrations), evaluation (held-out prompts) and the
reward service. `reward`, `completion_class`, `partition` and `distance` read only text, reference, messages
and metadata of a prompt: the reward service rebuilds a Prompt from an HTTP item and has nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from typing import Protocol

from polyray.types import Prompt

CLASS_BITS = 52
"""Classes travel through JSON and float64 arrays, which hold integers of this size exactly."""


class Task(Protocol):
    """Prompts with deterministic random access, and a verifier."""

    name: str
    has_verifier: bool
    """False: `reward` is a heuristic quality, and a pass needs a checker with a threshold."""

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """Prompt number `index` >= 0 of the endless stream that belongs to `seed`."""
        ...

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """The prompts that training never sees; the first `limit` of them."""
        ...

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """The first `limit` prompts that neither training nor the held-out part has; [] where there are none.

        For choices such as a checker's threshold, which must not be made on the held-out part.
        """
        ...

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """Demonstration number `index` >= 0: (prompt, response). Raises DataError if the task has none."""
        ...

    def reference(self, prompt: Prompt) -> str | None:
        """A correct answer where the task knows one."""
        ...

    def reward(self, prompt: Prompt, completion: str) -> float:
        """In [0, 1]; 1 is correct where the task has a verifier."""
        ...

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """WRONG_CLASS for wrong or unparsable completions, else `class_id` of the canonical form."""
        ...

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The classes of one group's completions, WRONG_CLASS for wrong ones; comparable within this list only.

        `classes_of_each` where a completion's class does not depend on its neighbours.
        """
        ...

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """In [0, 1], symmetric, 0 for equal completions."""
        ...


def classes_of_each(task: Task, prompt: Prompt, completions: Sequence[str]) -> list[int]:
    """Class of each completion, for tasks with classes that do not depend on the group."""
    return [task.completion_class(prompt, completion) for completion in completions]


def class_id(key: str) -> int:
    """A stable integer in [0, 2**52) for a canonical form: equal in every process, unlike `hash`."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - CLASS_BITS)


def indexed_rng(*parts: str | int) -> random.Random:
    """A generator that depends on `parts` alone: the same number `index` in every process, in any order."""
    return random.Random("/".join(str(part) for part in parts))


def epoch_position(stream: str, index: int, size: int, seed: int) -> int:
    """Position among `size` items of number `index` of an endless stream: epochs, each with its own shuffle."""
    epoch, position = divmod(index, size)
    return _epoch_order(stream, size, seed, epoch)[position]


@functools.lru_cache(maxsize=16)
def _epoch_order(stream: str, size: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(size))
    indexed_rng(stream, seed, epoch).shuffle(order)
    return tuple(order)
