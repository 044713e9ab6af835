"""Samples of a prompt for scoring: from memory, or from a file with only its offsets in memory.

    SampleFile("samples.jsonl").group("base", "mbpp-11")  -> its samples in order of their index

An evaluation may have millions of samples: a SampleFile holds 8 bytes for each of them, and texts only of the
current prompt. Called by scoring.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Protocol

from polyray.errors import DataError
from polyray.evaluation.records import SampleRecord, checked_sample, parsed_before


class SampleSource(Protocol):
    """Samples by model and prompt, both in order of appearance."""

    @property
    def models(self) -> list[str]:
        """All models."""
        ...

    def task_ids(self, model: str) -> list[str]:
        """The prompts that a model was asked."""
        ...

    def group(self, model: str, task_id: str) -> list[SampleRecord]:
        """Samples in order of their index. Raises DataError if a sample occurs twice."""
        ...


class SampleList:
    """Samples that are in memory anyway."""

    def __init__(self, records: Iterable[SampleRecord]) -> None:
        self._groups: dict[str, dict[str, list[SampleRecord]]] = {}
        for record in records:
            self._groups.setdefault(record.model, {}).setdefault(record.task_id, []).append(record)

    @property
    def models(self) -> list[str]:
        """See SampleSource."""
        return list(self._groups)

    def task_ids(self, model: str) -> list[str]:
        """See SampleSource."""
        return list(self._groups[model])

    def group(self, model: str, task_id: str) -> list[SampleRecord]:
        """See SampleSource."""
        return _in_order(self._groups[model][task_id])


class SampleFile:
    """A samples.jsonl; every line is checked once, when it is opened. Close it, or use it in a with block."""

    def __init__(self, path: str | Path) -> None:
        """Raises DataError naming the file and the line that is broken."""
        path = Path(path)
        if not path.is_file():
            raise DataError(f"no samples at {path}; give the samples.jsonl that an evaluation wrote")
        self._groups: dict[str, dict[str, array[int]]] = {}
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    values = checked_sample(line, f"{path}:{number}")
                    prompts = self._groups.setdefault(values.get("model", "model"), {})
                    prompts.setdefault(values["task_id"], array("q")).append(offset)
                offset += len(line)
        if not self._groups:
            raise DataError(f"{path} holds no samples; at least one line is needed")
        self._file = path.open("rb")

    @property
    def models(self) -> list[str]:
        """See SampleSource."""
        return list(self._groups)

    def task_ids(self, model: str) -> list[str]:
        """See SampleSource."""
        return list(self._groups[model])

    def group(self, model: str, task_id: str) -> list[SampleRecord]:
        """See SampleSource."""
        return _in_order([self._at(offset) for offset in self._groups[model][task_id]])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, offset: int) -> SampleRecord:
        self._file.seek(offset)
        return parsed_before(self._file.readline())


def all_groups(source: SampleSource) -> Iterator[list[SampleRecord]]:
    """Every group of every model, one at a time."""
    for model in source.models:
        for task_id in source.task_ids(model):
            yield source.group(model, task_id)


def _in_order(samples: Sequence[SampleRecord]) -> list[SampleRecord]:
    ordered = sorted(samples, key=lambda sample: sample.sample_index)
    for first, second in pairwise(ordered):
        if first.sample_index == second.sample_index:
            raise DataError(
                f"sample {first.sample_index} of {first.task_id} ({first.model}) occurs twice; each sample "
                "belongs in one line"
            )
    return ordered
