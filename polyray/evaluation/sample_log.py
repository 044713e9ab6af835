"""Growing samples.jsonl and results.jsonl: appended group by group, resumed after a kill.

A group is the samples of one prompt by one model: `num_samples` lines in each file, samples first. After a kill
both files are cut back to the whole groups that both have. Because samples depend on their seeds alone, the
files of an interrupted evaluation end up with the same samples as those of an unbroken one. Called by sampling.py.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from polyray.errors import DataError
from polyray.evaluation.records import ResultRecord, SampleRecord, as_line, parse_sample


class SampleLog:
    """The two files of one evaluation, open for appending."""

    def __init__(self, samples: Path, results: Path, num_samples: int) -> None:
        """Opens both and cuts them to the groups that both hold; `groups_done` says how many these are."""
        self._paths = samples, results
        self._num_samples = num_samples
        samples.parent.mkdir(parents=True, exist_ok=True)
        self.groups_done = min(_count_lines(path) for path in self._paths) // num_samples
        for path in self._paths:
            _cut(path, self.groups_done * num_samples)
        self._files = [path.open("ab") for path in self._paths]

    def groups(self) -> Iterator[list[SampleRecord]]:
        """The samples of the whole groups that are there, one group at a time."""
        with self._paths[0].open(encoding="utf-8") as file:
            for number in range(self.groups_done):
                where = f"{self._paths[0]}:{number * self._num_samples + 1}"
                lines = [next(file, "") for _ in range(self._num_samples)]
                if not all(lines):
                    raise DataError(f"{where}: the file shrank while it was read; does another job write it?")
                yield [parse_sample(line, where) for line in lines]

    def last_group(self) -> tuple[str, str] | None:
        """(model, task_id) of the newest whole group, None where there is none."""
        newest = deque(self.groups(), maxlen=1)
        return (newest[0][0].model, newest[0][0].task_id) if newest else None

    def append(self, samples: Sequence[SampleRecord], results: Sequence[ResultRecord]) -> None:
        """One group, in both files, each by a single write."""
        for file, records in zip(self._files, (samples, results), strict=True):
            file.write("".join(map(as_line, records)).encode())
            file.flush()
        self.groups_done += 1

    def close(self) -> None:
        """Closes both files; a second call does nothing."""
        for file in self._files:
            file.close()

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _count_lines(path: Path) -> int:
    """Whole lines; 0 where there is no file."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _cut(path: Path, num_lines: int) -> None:
    """Keeps the first `num_lines` lines."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        size = sum(len(next(file)) for _ in range(num_lines))
    os.truncate(path, size)
