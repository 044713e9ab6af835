"""One tracker, fed from metrics.jsonl in a thread of its own.

    learner --> metrics.jsonl --read as it grows--> Follower --> Tracker

The run never waits for it: the file is the queue, so what a slow tracker has not taken yet costs no memory, and
what a stopped one missed is there at the next start. A resumed learner cuts the file and writes steps again; steps
that the tracker has are passed over.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from polyray.runs.jsonl import Record, decode_lines
from polyray.runs.trackers.base import RunIdentity, Status, Tracker, numbers

logger = logging.getLogger(__name__)

POLL_S = 0.5


class GrowingFile:
    """The whole lines of a JSONL file, each once per version of the file: a file that was replaced is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def new_lines(self) -> Iterator[Record]:
        """Lines added since the last call."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield from decode_lines(line, self._path)


class Follower:
    """See the module. `tracker` is used by the thread only; its first error is the last thing asked of it."""

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        metrics: Path,
        config: Mapping[str, Any],
        identity: RunIdentity,
        poll_s: float = POLL_S,
    ) -> None:
        self.name = name
        self._tracker = tracker
        self._metrics = metrics
        self._config = config
        self._identity = identity
        self._poll_s = poll_s
        self._ending = threading.Event()
        self._status: Status = "killed"
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def end(self, status: Status) -> None:
        """Asks for the rest of the file and for the end."""
        self._status = status
        self._ending.set()

    def join(self, timeout_s: float) -> None:
        """Waits for it; says what is lost where it takes longer."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning(
                "tracker %s is not done after %g s and is left behind; metrics.jsonl has everything, and the next "
                "start of this run sends the rest",
                self.name,
                timeout_s,
            )

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # foreign code: any error is a warning
            logger.warning(
                "tracker %s failed and is dropped, the run continues without it: %s: %s",
                self.name,
                type(error).__name__,
                _first_line(error),
            )

    def _follow(self) -> None:
        next_step = self._tracker.start(self._config, self._identity)
        file = GrowingFile(self._metrics)
        while True:
            ending = self._ending.wait(self._poll_s)
            for line in file.new_lines():
                if line["step"] >= next_step:
                    self._tracker.log(line["step"], numbers(line))
                    next_step = line["step"] + 1
            if ending:
                self._tracker.finish(self._status)
                return


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
