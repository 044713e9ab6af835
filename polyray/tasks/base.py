"""What a task is: prompts, and how a completion is judged. Pure Python; no torch, no Ray.

Called by the RL loop (prompt number `group_id`), SFT (demonstrations), evaluation (held-out prompts) and the
reward service. `reward`, `completion_class` and `distance` read only `prompt.text`, `prompt.reference` and
`prompt.metadata`: the reward service rebuilds a Prompt from an HTTP item and has nothing else.
"""

from __future__ import annotations

import hashlib
import random
from typing import Protocol

from polyray.types import Prompt

CLASS_BITS = 52
"""Classes travel through JSON and float64 arrays, which hold integers of this size exactly."""


class Task(Protocol):
    """Prompts with deterministic random access, and a verifier."""

    name: str

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """Prompt number `index` >= 0 of the endless stream that belongs to `seed`."""
        ...

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """The prompts that training never sees; the first `limit` of them."""
        ...

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """Demonstration number `index` >= 0: (prompt, response). Raises DataError if the task has none."""
        ...

    def reference(self, prompt: Prompt) -> str | None:
        """A correct answer where the task knows one."""
        ...

    def reward(self, prompt: Prompt, completion: str) -> float:
        """In [0, 1]; 1 is correct."""
        ...

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """WRONG_CLASS for wrong or unparsable completions, else `class_id` of the canonical form."""
        ...

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """In [0, 1], symmetric, 0 for equal completions."""
        ...


def class_id(key: str) -> int:
    """A stable integer in [0, 2**52) for a canonical form: equal in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> (64 - CLASS_BITS)


def indexed_rng(*parts: str | int) -> random.Random:
    """A generator that depends on `parts` alone: the same number `index` in every process, in any order."""
    return random.Random("/".join(str(part) for part in parts))
