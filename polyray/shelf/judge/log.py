"""judgements.jsonl: one row per item in the order of the items, appended and resumable.

The bytes depend on the items and the answers alone: a job that was killed anywhere and started again ends with
the same file as an unbroken one. A start keeps the rows that are there, from the first row on that the endpoint
gave no answer for it asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from polyray.config.judge import JudgeMode, JudgeSpec
from polyray.errors import ConfigError, DataError
from polyray.runs.jsonl import JsonlWriter, read_jsonl
from polyray.shelf.judge.cache import request_sha256
from polyray.shelf.judge.items import JudgeItem, Judgement, Usage
from polyray.shelf.judge.judges import JUDGES
from polyray.shelf.judge.providers import ChatRequest

JUDGEMENTS_FILE = "judgements.jsonl"


class JudgementLog:
    """The rows of one job; a context manager."""

    def __init__(self, path: Path) -> None:
        """Takes up the file where its usable rows end."""
        self.path = path
        self._kept = _usable(read_judgements(path))
        if path.is_file():
            _cut_lines(path, len(self._kept))
        self._writer = JsonlWriter(path)

    def __enter__(self) -> JudgementLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    @property
    def kept(self) -> list[Judgement]:
        """The rows of earlier starts."""
        return self._kept

    def missing(self, items: Iterable[JudgeItem], mode: JudgeMode, spec: JudgeSpec) -> Iterator[JudgeItem]:
        """Items that have no row yet.

        Raises ConfigError if the rows belong to other items or to another judge: nothing is overwritten.
        """
        judge = JUDGES[mode]
        number = -1
        for number, item in enumerate(items):
            if number >= len(self._kept):
                yield item
                continue
            row = self._kept[number]
            asked = request_sha256(spec, ChatRequest(judge.questions(item, spec)[0]))
            if row.item_id != item.item_id or (row.requests and row.requests[0] != asked):
                raise ConfigError(
                    f"{self.path}:{number + 1} is about {row.item_id} as {row.judge} was asked before, not about "
                    f"{item.item_id} as it is asked now: samples, criteria or judge have changed; give this run "
                    "another name (name=...), or delete the file"
                )
        if number + 1 < len(self._kept):
            raise ConfigError(
                f"{self.path} has {len(self._kept)} rows but there are only {number + 1} items now; give this run "
                "another name (name=...), or delete the file"
            )

    def append(self, judgement: Judgement) -> None:
        """Adds a row."""
        self._writer.write(judgement.as_row())


def read_judgements(path: Path) -> list[Judgement]:
    """All whole rows; an absent file has none. Raises DataError naming a line that is no judgement."""
    return [_judgement(row, f"{path}:{number}") for number, row in enumerate(read_jsonl(path), 1)]


def _judgement(row: dict[str, Any], where: str) -> Judgement:
    try:
        return Judgement(
            item_id=row["item_id"],
            mode=row["mode"],
            task_id=row["task_id"],
            cluster_id=row["cluster_id"],
            models=tuple(row["models"]),
            samples=tuple(row["samples"]),
            status=row["status"],
            reason=row["reason"],
            result=row["result"],
            usage=Usage(**row["usage"]),
            requests=tuple(row["requests"]),
            judge=row["judge"],
        )
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where} is not a judgement ({type(error).__name__}: {error}); remove the file"
        ) from None


def _usable(rows: list[Judgement]) -> list[Judgement]:
    """The rows up to the first that another start may still get an answer for."""
    end = next((number for number, row in enumerate(rows) if row.may_be_asked_again), len(rows))
    return rows[:end]


def _cut_lines(path: Path, keep: int) -> None:
    """Shortens the file to its first `keep` lines, bytes untouched; all that follows is in the cache."""
    end = 0
    with path.open("r+b") as file:
        for _ in range(keep):
            end += len(file.readline())
        file.truncate(end)
