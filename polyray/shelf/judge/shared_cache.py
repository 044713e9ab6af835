"""The answers of one judge for several processes at once: the replicas of a reward service.

The same file and lines as cache.py, but the lock is held for a single write instead of a process's life, and
answers of others are read before anything is asked. So an answer is paid once unless two processes ask the same
at the same moment, and all of them share one budget: requests in flight in the others can exceed it.
Works on every file system with flock and O_APPEND; on a cluster the file must be visible to all machines, or
each machine has its own cache and budget.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from polyray.errors import DataError
from polyray.shelf.judge.cache import AnswerCache, tokens_of
from polyray.shelf.judge.items import Usage
from polyray.shelf.judge.providers import ChatAnswer

logger = logging.getLogger(__name__)


class SharedAnswerCache(AnswerCache):
    """An AnswerCache that any number of processes may have open; safe for one thread in each."""

    _elsewhere = Usage()

    def get(self, key: str) -> ChatAnswer | None:
        """The cached answer of `key`, also one that another process has just written."""
        if key not in self._offsets:
            self._catch_up()
        return super().get(key)

    def put(self, key: str, answer: ChatAnswer) -> None:
        """Appends an answer."""
        row = {"key": key, "owner": self._owner, "answer": asdict(answer)}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._locked():
            self._catch_up()
            if self._end < (size := os.fstat(self._descriptor).st_size):
                logger.warning(
                    "%s: %d bytes of an incomplete answer are cut off", self.path, size - self._end
                )
                os.ftruncate(self._descriptor, self._end)
            if os.write(self._descriptor, line) != len(line):
                raise DataError(f"{self.path}: a line of {len(line)} bytes did not fit; free disk space")
            self._offsets[key] = (self._end, len(line))
            self._end += len(line)

    def paid_elsewhere(self) -> Usage:
        """Payments of other processes on this owner's account since the last call."""
        self._catch_up()
        paid, self._elsewhere = self._elsewhere, Usage()
        return paid

    def _catch_up(self) -> None:
        """Indexes the whole lines that others have appended; a half-written one is left for its writer."""
        size = os.fstat(self._descriptor).st_size
        if size <= self._end:
            return
        added = os.pread(self._descriptor, size - self._end, self._end)
        for line in added.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            row = self._decode(line, len(self._offsets) + 1)
            self._offsets[row["key"]] = (self._end, len(line))
            self._end += len(line)
            if row.get("owner") == self._owner:
                self._elsewhere += tokens_of(ChatAnswer(**row["answer"]))

    def _lock(self) -> None:
        """No effect: no process owns the file; see `_locked`."""

    def _read(self) -> int:
        """Read the file at its opening; its answers count as paid by earlier starts."""
        with self._locked():
            return super()._read()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
