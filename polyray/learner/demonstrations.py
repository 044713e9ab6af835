"""Training data of SFT: encoded rows by number, so that (seed, step) alone determines a step.

A task gives an endless stream of demonstrations. A file gives epochs, each with its own shuffle. The rows of a
file are encoded once, at the start, so that every row is known to fit before the first step. Validation rows of a
task are drawn with a seed that no training run can have. records.py parses files, chat.py encodes.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from polyray.config.run import SftConfig
from polyray.config.supervised import JsonlDataSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.data.chat import encode_demonstration
from polyray.data.records import Demonstration, read_demonstrations
from polyray.data.token_rows import TokenRow
from polyray.errors import DataError
from polyray.tasks import build_task

OF_GENERATED, MOST_CHECKED = 64, 20_000
"""Rows of a task that are encoded before a run starts."""
REPEATS = 200
"""Known rows in a row after which a task has shown all it has."""


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """The data of one run.

    Example:
        Demonstrations(row_of=rows.__getitem__, validation=(), validation_rows=(), num_steps=200, num_rows=None)
    """

    row_of: Callable[[int], TokenRow]
    """Row number `index` >= 0 of the run."""
    validation: Sequence[Demonstration]
    validation_rows: Sequence[TokenRow]
    """Encoded, in the same order."""
    num_steps: int
    num_rows: int | None
    """Rows of an epoch; None for an endless stream."""
    dropped: int = 0
    truncated: int = 0
    """Training rows of a file that were longer than max_tokens."""
    sha256: str | None = None
    """sha256 of the file's training rows as they are trained: a resumed run must find the same."""


def load_demonstrations(config: SftConfig, tokenizer: PreTrainedTokenizerBase) -> Demonstrations:
    """Reads and encodes. Raises DataError naming file and line, or the task's prompt."""
    if isinstance(config.data, JsonlDataSpec):
        return _from_file(config, config.data, tokenizer)
    task = build_task(config.task)

    def row_of(index: int) -> TokenRow:
        row = _encode(config, tokenizer, Demonstration(*task.demonstration(index, config.seed)))
        if row is None:
            raise DataError(
                f"demonstration {index}: its prompt alone has max_tokens={config.max_tokens} tokens or more; "
                "raise max_tokens"
            )
        return row

    other_seed = -1 - config.seed
    number = 0 if config.evaluation.every is None else config.evaluation.num_rows
    validation = [Demonstration(*task.demonstration(index, other_seed)) for index in range(number)]
    kept, rows, _ = _fitting(config, tokenizer, validation)
    return Demonstrations(row_of, kept, rows, config.learner.steps, None)


def check_rows(config: SftConfig, data: Demonstrations) -> None:
    """Encodes the demonstrations that a task gives, before a run starts. Raises DataError for one that does not fit.

    Rows of a file are encoded already. A task that generates them alike gives a sample.
    """
    if data.num_rows is None:
        num_rows = config.learner.steps * config.demonstrations_per_step
        check_task_rows(data.row_of, num_rows, isinstance(config.task, HiddenTrapGridSpec))


def check_task_rows(row_of: Callable[[int], TokenRow], num_rows: int, generated: bool) -> None:
    """Encodes the demonstrations of a task, a sample where it generates them. Raises DataError for one that does not
    fit."""
    known: set[TokenRow] = set()
    repeats = 0
    for index in range(min(num_rows, OF_GENERATED if generated else MOST_CHECKED)):
        row = row_of(index)
        repeats = repeats + 1 if row in known else 0
        if repeats > REPEATS:  # a task with a file goes through it in epochs
            return
        known.add(row)


def _from_file(config: SftConfig, spec: JsonlDataSpec, tokenizer: PreTrainedTokenizerBase) -> Demonstrations:
    training, validation = read_demonstrations(spec)
    _, rows, dropped = _fitting(config, tokenizer, training)
    if not rows:
        raise DataError(
            f"{spec.train}: all {dropped} rows are longer than max_tokens={config.max_tokens}; raise max_tokens"
        )
    kept, validation_rows = [], []
    if config.evaluation.every is not None:
        kept, validation_rows, _ = _fitting(config, tokenizer, validation[: config.evaluation.num_rows])
        if not kept:
            raise DataError(
                f"{spec.validation or spec.train}: no validation row fits into max_tokens={config.max_tokens}; "
                "raise max_tokens"
            )
    order = EpochOrder(len(rows), config.seed)
    return Demonstrations(
        lambda index: rows[order(index)],
        kept,
        validation_rows,
        num_steps(config, len(rows)),
        len(rows),
        dropped,
        sum(row.truncated for row in rows),
        hashlib.sha256(repr(rows).encode()).hexdigest(),
    )


def num_steps(config: SftConfig, num_rows: int) -> int:
    """Optimiser steps of a run on a file of `num_rows` rows."""
    if config.epochs is None:
        return config.learner.steps
    return math.ceil(config.epochs * num_rows / config.demonstrations_per_step)


class EpochOrder:
    """Row of the file that is number `index` of the run: epoch `index // num_rows`, shuffled by seed and
    epoch."""

    def __init__(self, num_rows: int, seed: int) -> None:
        self._num_rows, self._seed = num_rows, seed
        self._epoch, self._order = -1, list[int]()

    def __call__(self, index: int) -> int:
        epoch, position = divmod(index, self._num_rows)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._num_rows))
            random.Random(f"sft/{self._seed}/{epoch}").shuffle(self._order)
        return self._order[position]


def _fitting(
    config: SftConfig, tokenizer: PreTrainedTokenizerBase, demonstrations: Sequence[Demonstration]
) -> tuple[list[Demonstration], list[TokenRow], int]:
    """(kept demonstrations, their rows, number of dropped ones)."""
    encoded = [(item, _encode(config, tokenizer, item)) for item in demonstrations]
    kept = [(item, row) for item, row in encoded if row is not None]
    return [item for item, _ in kept], [row for _, row in kept], len(encoded) - len(kept)


def _encode(
    config: SftConfig, tokenizer: PreTrainedTokenizerBase, demonstration: Demonstration
) -> TokenRow | None:
    """Encode a demonstration; None for one that is dropped."""
    row = encode_demonstration(
        tokenizer,
        demonstration.prompt,
        demonstration.response,
        config.max_tokens if config.too_long == "error" else None,
        trained_turns=demonstration.trained_turns,
        completion_only=config.completion_only,
    )
    if len(row.token_ids) <= config.max_tokens:
        return row
    return truncate(row, config.max_tokens) if config.too_long == "truncate" else None


def truncate(row: TokenRow, max_tokens: int) -> TokenRow | None:
    """The first `max_tokens` tokens of a longer row; None where none of them is trained."""
    holes = tuple((start, min(end, max_tokens)) for start, end in row.untrained if start < max_tokens)
    cut = replace(row, token_ids=row.token_ids[:max_tokens], untrained=holes, truncated=True)
    return cut if cut.num_targets > 0 else None
