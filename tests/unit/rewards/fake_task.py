"""A task whose judgements are what a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polyray.types import Prompt


class FakeTask:
    """Classes, partition and distance from functions; a reward that nothing may ask for."""

    def __init__(
        self,
        class_of: Callable[[str], int] = lambda text: 77,
        distance: float = 0.5,
        partition: Callable[[Sequence[str]], list[int]] | None = None,
    ) -> None:
        self._class_of, self._distance, self._partition = class_of, distance, partition

    def reward(self, prompt: Prompt, completion: str) -> float:
        raise AssertionError("only the reward under test judges")

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return self._class_of(completion)

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        if self._partition is not None:
            return self._partition(completions)
        return [self.completion_class(prompt, completion) for completion in completions]

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return self._distance


def ranks_by_length(completions: Sequence[str]) -> list[int]:
    """A partition that depends on the whole group: the rank of each length."""
    lengths = sorted({len(completion) for completion in completions})
    return [lengths.index(len(completion)) for completion in completions]
