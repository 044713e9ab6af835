"""Interface of a reward: items in, scores out; and the same per group, as arrays.

    ScoreItem --Reward.score--> Score              one completion, as the wire and the user's functions see it
    GroupToScore --groups.score_groups--> GroupScores    one group, as the training loop sees it

A score that could not be computed is None (NaN in arrays): unscored, never zero. Nothing here computes a
reward; that is verifier.py and python_function.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from polyray.types import WRONG_CLASS, Message, Prompt

UNIT_RANGE = (0.0, 1.0)
"""The widest range a score may have."""
MAX_ERROR_CHARS = 4000
"""Longer error texts keep their head and their tail: they travel once per completion."""


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """One completion to be scored.

    Example:
        ScoreItem(prompt="37|b1>e4=", completion="RRRUUU", metadata={"board": 37})
    """

    prompt: str
    completion: str
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None

    @classmethod
    def of(cls, prompt: Prompt, completion: str) -> ScoreItem:
        """The item for one completion of `prompt`."""
        return cls(prompt.text, completion, prompt.reference, prompt.metadata, prompt.messages)

    def as_prompt(self) -> Prompt:
        """The prompt as tasks read it: text, reference, metadata and messages, without an id."""
        return Prompt("", self.prompt, self.reference, self.messages, metadata=self.metadata)


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one item; build it with `checked_score` or `unscored`, which keep it in range.

    Example:
        Score(score=1.0, class_id=7731, components={"legal": 1.0}, error=None)
    """

    score: float | None
    """In [0, 1]; None = unscored."""
    class_id: int
    """WRONG_CLASS for wrong, unparsable and unscored completions."""
    components: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    """Reason why there is no score."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scores of one group as arrays.

    Example:
        GroupScores(rewards_G=np.array([1., np.nan]), classes_G=np.array([7731, -1]), distances_GG=None,
                    components={"legal": (1.0, nan)}, errors=(None, "reward function f.py:score raised ..."))
    """

    rewards_G: np.ndarray
    """[G] float64 in [0, 1]; NaN = unscored."""
    classes_G: np.ndarray
    """[G] int64."""
    distances_GG: np.ndarray | None
    """[G, G] float64 in [0, 1], symmetric, zero diagonal; None where they were not asked for."""
    components: Mapping[str, tuple[float, ...]]
    """[G] each, NaN where an item lacks the component."""
    errors: tuple[str | None, ...]

    @classmethod
    def unscored(cls, num_texts: int, reason: str) -> GroupScores:
        """A group of which nothing could be scored."""
        nothing_G, wrong_G = np.full(num_texts, np.nan), np.full(num_texts, WRONG_CLASS, np.int64)
        return cls(nothing_G, wrong_G, None, {}, (reason,) * num_texts)


class Judge(Protocol):
    """The part of a task that rewards need; every Task is one."""

    def reward(self, prompt: Prompt, completion: str) -> float:
        """In [0, 1]."""
        ...

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """WRONG_CLASS, or 0 and more."""
        ...

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """Classes within one group."""
        ...

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """In [0, 1], symmetric."""
        ...


class Reward(Protocol):
    """Scores completions. Errors of a single item are data in its Score; `score` raises for nothing that an
    item can contain."""

    name: str
    version: str
    """Changes whenever the same item could get another score."""
    inline: bool
    """True where a call is so short that it may run on a service's event loop."""
    deterministic: bool
    """True where an equal item always gets an equal score: only such scores may be kept and given again."""
    score_range: tuple[float, float]
    """(lowest, highest) score that can occur, within [0, 1]; anything else is unscored."""

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item, in order; an item's score does not depend on its neighbours."""
        ...

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """[G][G] distances in [0, 1] between the completions of one group: symmetric, zero diagonal; 0 to and
        from an unscored completion."""
        ...


@runtime_checkable
class GroupPartition(Protocol):
    """Optional part of a Reward: classes that depend on the other completions of the group."""

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        """One class per completion of one prompt; it replaces that of its score unless that is WRONG_CLASS."""
        ...


def unscored(reason: str) -> Score:
    """A Score that says why there is none; long reasons are shortened in the middle."""
    printable = reason.encode("utf-8", "backslashreplace").decode()
    if len(printable) > MAX_ERROR_CHARS:
        half = MAX_ERROR_CHARS // 2
        printable = f"{printable[:half]} [...] {printable[-half:]}"
    return Score(None, WRONG_CLASS, {}, printable)


def checked_score(
    value: float,
    class_id: int,
    components: Mapping[str, float],
    who: str,
    score_range: tuple[float, float] = UNIT_RANGE,
) -> Score:
    """A Score, or an unscored one that names value, limit and fix if something is out of range.

    `who` names the reward, e.g. "reward function my_reward.py:score"; `score_range` what it declares.
    """
    low, high = score_range
    if not math.isfinite(value) or not low <= value <= high:
        return unscored(
            f"{who} gave score {value}, which is not a finite number in [{low:g}, {high:g}]; "
            "rescale it, or return None to leave the completion unscored"
        )
    if not WRONG_CLASS <= class_id < 2**63:
        return unscored(
            f"{who} gave class {class_id}, which is not in [{WRONG_CLASS}, 2**63 - 1]; "
            f"use {WRONG_CLASS} for wrong completions and 0 or more, or a string, for the others"
        )
    for name, part in components.items():
        if not math.isfinite(part):
            return unscored(f"{who} gave component {name}={part}, which is not finite; leave it out instead")
    return Score(float(value), int(class_id), dict(components))
