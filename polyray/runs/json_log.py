"""Log lines as JSON, one object each, for a collector of logs from many processes.

    {"time": "2026-03-01T12:00:00.250Z", "level": "WARNING", "logger": "polyray.orchestrator.rollout_pool",
     "message": "...", "run": "first", "step": 17, "version": 18, "worker": "learner-0", "pid": 4711}

`run` and `worker` identify the process, `step` and `version` its progress; null if unknown.
With an exception also `error` (its type) and `traceback`. logging.py chooses the format.
A message is cut at MAX_MESSAGE_CHARS, and values of the environment's secrets are stars in both formats.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

MAX_MESSAGE_CHARS = 4000
"""Room for an error in words, not for a batch of texts that found its way into one."""
SECRET_SUFFIXES = ("_TOKEN", "_KEY", "_PASSWORD", "_SECRET")
MIN_SECRET_CHARS = 8
"""Shorter values of such variables are switches rather than secrets, and words of ordinary messages."""
STARS = "***"


class ProcessFields:
    """Identity and progress of this process. One per process: `fields`."""

    def __init__(self) -> None:
        self._values: dict[str, str | int | None] = dict.fromkeys(("run", "step", "version", "worker"))

    def set(self, **values: str | int | None) -> None:
        """Set some of run, step, version and worker. Raises KeyError for other names."""
        for name, value in values.items():
            if name not in self._values:
                raise KeyError(f"{name!r} is not a field of a log line; known: {', '.join(self._values)}")
            self._values[name] = value

    def as_dict(self) -> dict[str, str | int | None]:
        """All of them, in the order in which they are written."""
        return dict(self._values)


fields = ProcessFields()


class JsonFormatter(logging.Formatter):
    """See the module."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:MAX_MESSAGE_CHARS],
            **fields.as_dict(),
            "pid": record.process,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = self.formatException(record.exc_info)[-MAX_MESSAGE_CHARS:]
        hidden = {
            key: without_secrets(value) if isinstance(value, str) else value for key, value in line.items()
        }
        return json.dumps(hidden)


class TextFormatter(logging.Formatter):
    """Formatter for people at a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback where there is one."""
        return without_secrets(super().format(record))


def without_secrets(text: str) -> str:
    """`text` with stars for what the environment's variables named like secrets hold."""
    for name, value in os.environ.items():
        if name.endswith(SECRET_SUFFIXES) and len(value) >= MIN_SECRET_CHARS and value in text:
            text = text.replace(value, STARS)
    return text
