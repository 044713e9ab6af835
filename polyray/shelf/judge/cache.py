"""Answers by content hash: asked once, paid once. An append-only JSONL file and an index of offsets in memory.

A line is {"key", "owner", "answer": {text, finish_reason, input_tokens, cached_tokens, output_tokens}}: what came
over the wire, usable or not, so a run that is started again repeats no request and reaches the same verdicts. The
key covers provider, model, template version, what is sent and the sampling settings; not the address. A line is
one system call, so only the last one can be torn, and it is cut off when the file is opened. The file belongs to
one process at a time (a lock that the kernel releases however the process ends).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from polyray.config.judge import JudgeSpec
from polyray.errors import ConfigError, DataError
from polyray.shelf.judge.items import Usage
from polyray.shelf.judge.providers import ChatAnswer, ChatRequest
from polyray.shelf.judge.questions import TEMPLATE_VERSION

ANSWER_FIELDS = ("text", "finish_reason", "input_tokens", "cached_tokens", "output_tokens")


def request_sha256(spec: JudgeSpec, request: ChatRequest) -> str:
    """The content hash that identifies an answer in the cache."""
    question = request.question
    content = {
        "provider": spec.provider,
        "model": spec.model,
        "template": TEMPLATE_VERSION,
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
        "structured_output": spec.structured_output,
        "system": question.system,
        "messages": request.messages,
        "schema": question.schema,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """The answers in `path`; `owner` is the run that pays for what is added."""

    def __init__(self, path: Path, owner: str = "") -> None:
        """Raises ConfigError where another process has the file, DataError for a line that is no answer."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._owner = owner
        self._offsets: dict[str, tuple[int, int]] = {}
        self.paid = Usage()
        """Tokens of this owner's answers in earlier starts; rollout_buffer.py counts the money."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._end = self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._offsets)

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: str) -> ChatAnswer | None:
        """The cached answer of `key`; None without one."""
        place = self._offsets.get(key)
        if place is None:
            return None
        return _answer(json.loads(os.pread(self._descriptor, place[1], place[0])))

    def put(self, key: str, answer: ChatAnswer) -> None:
        """Appends an answer."""
        row = {"key": key, "owner": self._owner, "answer": asdict(answer)}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        if os.write(self._descriptor, line) != len(line):
            raise DataError(f"{self.path}: a line of {len(line)} bytes did not fit; free disk space")
        self._offsets[key] = (self._end, len(line))
        self._end += len(line)

    def paid_elsewhere(self) -> Usage:
        """Payments of other processes into this file since the last call; none in this class."""
        return Usage()

    def close(self) -> None:
        """Closes the file and gives up the lock; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self.path} is in use by another judge; wait until it ends, or choose another cache_dir"
            ) from None

    def _read(self) -> int:
        """Indexes the whole lines, cuts off a torn one, returns where the file ends."""
        end = 0
        for number, line in enumerate(self._lines(), 1):
            row = self._decode(line, number)
            self._offsets[row["key"]] = (end, len(line))
            end += len(line)
        os.ftruncate(self._descriptor, end)
        return end

    def _lines(self) -> Iterator[bytes]:
        with open(self._descriptor, "rb", closefd=False) as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def _decode(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            answer = _answer(row)
            row["key"].encode()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path}:{number} is not a judge's answer ({type(error).__name__}: {error}); remove the line"
            ) from None
        if row.get("owner") == self._owner:
            self.paid += tokens_of(answer)
        return row


def tokens_of(answer: ChatAnswer) -> Usage:
    """One request's tokens, without a price."""
    return Usage(1, answer.input_tokens, answer.cached_tokens, answer.output_tokens)


def _answer(row: dict[str, Any]) -> ChatAnswer:
    return ChatAnswer(**{name: row["answer"][name] for name in ANSWER_FIELDS})
