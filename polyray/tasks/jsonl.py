"""The user's own prompts: JSON Lines or a table, judged by exact match with the row's reference.

    {"prompt": "2+2=", "reference": "4"}
    {"messages": [{"role": "user", "content": "2+2?"}], "id": "q1", "cluster": "sums", "response": "4"}

Parquet files and directories that save_to_disk of `datasets` wrote have these fields as columns; empty cells are
left out. `response` is a demonstration for SFT; `metadata` is handed to the reward. The file is split by a hash of
clusters: rows of one cluster, and rows of equal prompts, are in one part, in any order. Every broken row is a
DataError that names the file, the row, what is wrong and the fix. Not for data that does not fit into memory.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyray.config.task import JsonlSpec
from polyray.data.splits import Part, linked_clusters, named_clusters, prompt_key, split_clusters
from polyray.data.tables import filled, is_table, read_rows
from polyray.errors import DataError, boundary
from polyray.tasks.base import class_id, classes_of_each
from polyray.types import WRONG_CLASS, Prompt

_FIELDS = ("prompt", "messages", "reference", "metadata", "id", "cluster", "response")
_EXAMPLE = '{"prompt": "2+2=", "reference": "4"}'


@dataclass(frozen=True, slots=True)
class JsonlRow:
    """One line, e.g. JsonlRow(prompt=Prompt("data-1", "2+2=", reference="4"), response=None,
    place="data.jsonl:1", keys=frozenset({"prompt ..."}))."""

    prompt: Prompt
    response: str | None
    place: str
    """File and line."""
    keys: frozenset[str]
    """No other part of the data may share one: the prompt, and the cluster that the line names."""


class JsonlTask:
    """Prompts from a file, in epochs, each a shuffle of its own."""

    name = "jsonl"
    has_verifier = True

    def __init__(self, spec: JsonlSpec) -> None:
        rows: list[JsonlRow] = []
        self.training_rows: list[JsonlRow] = []
        self.validation_rows: list[JsonlRow] = []
        if spec.path is not None:
            rows = read_prompts(Path(spec.path))
            self.training_rows, self.validation_rows, self.held_out_rows = _split(rows, spec, spec.path)
        if spec.held_out_path is not None:
            self.held_out_rows = read_prompts(Path(spec.held_out_path), "task.held_out_path")
            _check_apart(rows, self.held_out_rows)
        self._path = spec.path or spec.held_out_path
        self._demonstrations = [row for row in self.training_rows if row.response is not None]
        self._orders: dict[tuple[int, int, int], list[int]] = {}

    def training_prompt(self, index: int, seed: int) -> Prompt:
        """Prompt number `index`: epoch `index // n`, shuffled by seed and epoch."""
        return self._pick(self.training_rows, index, seed).prompt

    def held_out_prompts(self, limit: int | None = None) -> list[Prompt]:
        """Held-out prompts in the order of the file."""
        return [row.prompt for row in self.held_out_rows[:limit]]

    def validation_prompts(self, limit: int | None = None) -> list[Prompt]:
        """Validation prompts in the order of the file; none if its clusters are too few for a third part."""
        return [row.prompt for row in self.validation_rows[:limit]]

    def demonstration(self, index: int, seed: int) -> tuple[Prompt, str]:
        """A line that has a `response`. Raises DataError if the training part has none."""
        if not self._demonstrations:
            raise DataError(
                f"{self._path}: no training line has a 'response', so there is nothing to demonstrate; add it"
            )
        row = self._pick(self._demonstrations, index, seed)
        assert row.response is not None
        return row.prompt, row.response

    def reference(self, prompt: Prompt) -> str | None:
        """The line's own reference."""
        return prompt.reference

    def reward(self, prompt: Prompt, completion: str) -> float:
        """1 for the reference's text, outer white space aside, else 0. DataError without a reference."""
        if prompt.reference is None:
            raise DataError(
                f"prompt {prompt.prompt_id or prompt.text[:40]!r} has no 'reference', which the "
                "verifier reward compares with; add one to every line, or use reward.type=python"
            )
        return float(completion.strip() == prompt.reference.strip())

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The stripped text; WRONG_CLASS where there is a reference and it differs."""
        if prompt.reference is not None and self.reward(prompt, completion) == 0:
            return WRONG_CLASS
        return class_id(completion.strip())

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        """The class of each."""
        return classes_of_each(self, prompt, completions)

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        """1 between different classes, else 0; 0 where either is wrong."""
        first, second = self.completion_class(prompt, a), self.completion_class(prompt, b)
        return float(first != second and WRONG_CLASS not in (first, second))

    def place_of(self, prompt_id: str) -> str | None:
        """File and line of a prompt, for errors; None for an unknown one."""
        rows = (*self.training_rows, *self.validation_rows, *self.held_out_rows)
        return next((row.place for row in rows if row.prompt.prompt_id == prompt_id), None)

    def _pick(self, rows: Sequence[JsonlRow], index: int, seed: int) -> JsonlRow:
        if not rows:
            raise DataError(
                "task.path is missing: task.held_out_path alone gives prompts to evaluate, none to train on"
            )
        epoch, position = divmod(index, len(rows))
        key = (len(rows), seed, epoch)
        if key not in self._orders:
            order = list(range(len(rows)))
            random.Random(f"jsonl/{seed}/{epoch}").shuffle(order)
            self._orders = {key: order}
        return rows[self._orders[key][position]]


def read_prompts(path: Path, key: str = "task.path") -> list[JsonlRow]:
    """All rows of a file or table; blank lines are skipped. Raises DataError at the first broken one."""
    rows: list[JsonlRow] = []
    place_of_id: dict[str, str] = {}
    for where, record in read_rows(path, key=key, example=_EXAMPLE):
        number = where.removeprefix(f"{path}:").removeprefix("row ")
        row = _row(filled(record) if is_table(path) else record, where, default_id=f"{path.stem}-{number}")
        earlier = place_of_id.setdefault(row.prompt.prompt_id, where)
        if earlier != where:
            raise DataError(
                f"{where}: id {row.prompt.prompt_id!r} is already that of {earlier}; ids must differ"
            )
        rows.append(row)
    return _one_cluster_for_equal_prompts(rows)


def _one_cluster_for_equal_prompts(rows: Sequence[JsonlRow]) -> list[JsonlRow]:
    """Rows with the cluster of the first row that they are linked to: the unit of statistics."""
    first_of = linked_clusters([row.keys for row in rows])
    return [
        row
        if first == at
        else replace(row, prompt=replace(row.prompt, cluster_id=rows[first].prompt.cluster_id))
        for at, (row, first) in enumerate(zip(rows, first_of, strict=True))
    ]


def _split(
    rows: Sequence[JsonlRow], spec: JsonlSpec, path: str
) -> tuple[list[JsonlRow], list[JsonlRow], list[JsonlRow]]:
    """Rows for training, validation and test: whole clusters, by a hash of their names, in any order of the file."""
    clusters = named_clusters([row.keys for row in rows])
    count = len(set(clusters))
    test_share = spec.held_out_share if spec.held_out_path is None else 0.0
    needed = 2 if test_share else 1
    if count < needed:
        raise DataError(
            f"{path}: {len(rows)} prompts in 1 cluster cannot be split into training and held-out prompts; add "
            "prompts of another 'cluster', or set task.held_out_path"
        )
    has_validation = count > needed and round(spec.validation_share * count) > 0
    with boundary(DataError, f"{path}: task.held_out_share or task.validation_share"):
        part_of = split_clusters(
            clusters,
            test_share=test_share,
            validation_share=spec.validation_share if has_validation else 0.0,
            seed=spec.split_seed,
        )
    parts: dict[Part, list[JsonlRow]] = {"train": [], "validation": [], "test": []}
    for row, cluster in zip(rows, clusters, strict=True):
        parts[part_of[cluster]].append(row)
    return parts["train"], parts["validation"], parts["test"]


def _check_apart(rows: Sequence[JsonlRow], held_out: Sequence[JsonlRow]) -> None:
    place_of = {key: row.place for row in rows for key in sorted(row.keys)}
    shared = [(row, key) for row in held_out for key in sorted(row.keys) if key in place_of]
    if shared:
        row, key = shared[0]
        count = len({row.place for row, _ in shared})
        raise DataError(
            f"{row.place}: its {key.partition(' ')[0]} is also in {place_of[key]}; {count} of {len(held_out)} lines "
            "are like that. Held-out prompts must not be trained on: remove the lines from one of the files"
        )


def _row(record: dict[str, Any], where: str, default_id: str) -> JsonlRow:
    unknown = sorted(set(record) - set(_FIELDS))
    if unknown:
        raise DataError(
            f"{where}: unknown field {unknown[0]!r}; known: {', '.join(_FIELDS)}; put others under 'metadata'"
        )
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict):
        raise DataError(f"{where}: 'metadata' is a {type(metadata).__name__}; make it an object")
    text, messages = _question(record, where)
    prompt_id = _optional_text(record, "id", where) or default_id
    cluster = _optional_text(record, "cluster", where)
    prompt = Prompt(
        prompt_id=prompt_id,
        text=text,
        reference=_optional_text(record, "reference", where),
        messages=messages,
        cluster_id=cluster or prompt_id,
        metadata=metadata,
    )
    keys = {prompt_key(prompt)} | ({f"cluster {cluster}"} if cluster else set())
    return JsonlRow(prompt, _optional_text(record, "response", where), where, frozenset(keys))


def _question(record: dict[str, Any], where: str) -> tuple[str, tuple[dict[str, str], ...] | None]:
    """(text, messages): exactly one of `prompt` and `messages` must be there."""
    if ("prompt" in record) == ("messages" in record):
        found = "both 'prompt' and 'messages'" if "prompt" in record else "neither 'prompt' nor 'messages'"
        raise DataError(f"{where}: {found}; a line has exactly one of them")
    if "prompt" in record:
        text = _optional_text(record, "prompt", where)
        if not text:
            raise DataError(f"{where}: 'prompt' is empty; write the text the model is asked")
        return text, None
    messages = record["messages"]
    well_formed = isinstance(messages, list) and all(
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and all(isinstance(value, str) for value in message.values())
        for message in messages
    )
    if not well_formed or not messages or messages[-1]["role"] != "user":
        raise DataError(
            f'{where}: \'messages\' must be a list of {{"role", "content"}} objects with text values, '
            "the last one with the role 'user'"
        )
    return messages[-1]["content"], tuple(messages)


def _optional_text(record: dict[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"{where}: {key!r} is a {type(value).__name__} ({value!r}); write it as text in quotes"
        )
    return value
