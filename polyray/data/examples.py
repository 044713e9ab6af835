"""Prompts with their demonstrations, and the parts they are divided into. Called by the question-like tasks.

A data set is a held-out file and, for training, a second one; its last rows are for validation. The small sets
that polyray ships say in each row which part it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyray.errors import DataError
from polyray.types import Prompt

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    Example:
        Example(prompt=Prompt("gsm8k_train-1", "...", reference="72"), response="48 / 2 = 24 ... #### 72")
    """

    prompt: Prompt
    response: str
    """A demonstration."""
    part: str = ""
    """Part of a row of a built-in set; else the file determines it."""


@dataclass(frozen=True, slots=True)
class Examples:
    """A data set by use.

    Example:
        Examples(held_out=(Example(...),), validation=(), training=())
    """

    held_out: tuple[Example, ...]
    validation: tuple[Example, ...]
    training: tuple[Example, ...]


def by_part(rows: Sequence[Example]) -> Examples:
    """Divide a set by the parts that its rows name. Raises DataError for a part that is none of PARTS."""
    for row in rows:
        if row.part not in PARTS:
            raise DataError(f"{row.prompt.prompt_id}: part {row.part!r} is none of {', '.join(PARTS)}")
    test, validation, train = (
        tuple(row for row in rows if row.part == part) for part in ("test", "validation", "train")
    )
    return Examples(test, validation, train)


def by_file(held_out: Sequence[Example], training: Sequence[Example], num_validation: int) -> Examples:
    """Validation is the last `num_validation` training rows; rows that share a cluster with it are not trained on.

    Raises DataError where nothing is left to train on, or a training prompt is also held out.
    """
    known = {row.prompt.text for row in held_out}
    clusters = {row.prompt.cluster_id for row in held_out if row.prompt.cluster_id != row.prompt.prompt_id}
    leaked = [
        row.prompt.prompt_id
        for row in training
        if row.prompt.text in known or row.prompt.cluster_id in clusters
    ]
    if leaked:
        raise DataError(
            f"{len(leaked)} training prompts are also held out, or of a held-out cluster, the first is "
            f"{leaked[0]!r}; remove them from task.train_path"
        )
    if training and num_validation >= len(training):
        raise DataError(
            f"task.num_validation={num_validation} leaves none of the {len(training)} rows of task.train_path "
            "to train on; lower it"
        )
    first = len(training) - num_validation
    validation = tuple(training[first:])
    clusters = {row.prompt.cluster_id for row in validation}
    texts = {row.prompt.text for row in validation}
    kept = tuple(
        row
        for row in training[:first]
        if row.prompt.cluster_id not in clusters and row.prompt.text not in texts
    )
    return Examples(tuple(held_out), validation, kept)
