"""Threads of a Stack Exchange site as social replies: real replies with up-votes, under CC BY-SA.

One JSON object a line, a question with everything said below it:

    {"id": "q1", "title", "text", "url", "license", ..., "replies": [
        {"id": "a2", "kind": "answer" | "comment", "parent": "q1", "text", "score", "created", "license"}, ...]}

A reply to an answer has that answer as its post. Age and position confound the score, and most comments have
none: compare replies to one post only and split by thread. Texts derived from this
must carry `url` and the licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyray.data.fields import RowFields
from polyray.data.json_lines import read_objects
from polyray.data.social import SocialReply

_EXAMPLE = (
    '{"id": "q1", "title": "...", "text": "...", "url": "...", "license": "CC BY-SA 4.0", "replies": '
    '[{"id": "a2", "kind": "answer", "parent": "q1", "text": "...", "score": 3}]}'
)
_THREAD = ("id", "title", "text", "tags", "score", "views", "created", "license", "url", "replies")
_REPLY = ("id", "kind", "parent", "text", "score", "created", "license")
_KINDS = ("answer", "comment")


@dataclass(frozen=True, slots=True)
class Threads:
    """Contents of a file of threads.

    Example:
        Threads(replies=(SocialReply(...), ...), num_threads=786)
    """

    replies: tuple[SocialReply, ...]
    num_threads: int
    """Number of threads, including those without a reply."""


def is_thread(record: dict[str, Any]) -> bool:
    """Whether a line is a thread rather than a row of an export."""
    return "replies" in record


def read_threads(path: Path, *, key: str = "task.path") -> Threads:
    """All replies in the order of the file; engagement is the score.

    `key` is the configuration's name for the file. Raises DataError naming file, line, value and fix.
    """
    replies: list[SocialReply] = []
    line_of_thread: dict[str, int] = {}
    for number, record in read_objects(path, key=key, example=_EXAMPLE):
        thread = RowFields(record, f"{path}:{number}")
        earlier = line_of_thread.setdefault(thread.text("id"), number)
        if earlier != number:
            raise thread.error(
                f"thread {thread.text('id')!r} is already that of line {earlier}; ids must differ"
            )
        replies += _replies(thread)
    return Threads(tuple(replies), len(line_of_thread))


def _replies(thread: RowFields) -> list[SocialReply]:
    thread.check_known(_THREAD, "remove it")
    found = thread.values.get("replies")
    if not isinstance(found, list) or not all(isinstance(reply, dict) for reply in found):
        raise thread.error(
            f"'replies' is a {type(found).__name__}; write a list of objects such as {_EXAMPLE}"
        )
    rows = [RowFields(reply, f"{thread.where}, replies[{at}]") for at, reply in enumerate(found)]
    title = thread.text("title")
    posts = {thread.text("id"): f"{title}\n\n{thread.text('text')}"}
    posts |= {row.text("id"): f"{title}\n\n{row.text('text')}" for row in rows}
    posted_at = {row.text("id"): row.optional_text("created") for row in (thread, *rows)}
    return [_reply(row, thread, posts, posted_at) for row in rows]


def _reply(
    row: RowFields, thread: RowFields, posts: dict[str, str], posted_at: dict[str, str]
) -> SocialReply:
    row.check_known(_REPLY, "remove it")
    parent, kind = row.text("parent"), row.text("kind")
    if parent not in posts:
        raise row.error(f"'parent' is {parent!r}, which is not in the thread; name the question or an answer")
    if kind not in _KINDS:
        raise row.error(f"'kind' is {kind!r}; it must be one of {', '.join(_KINDS)}")
    return SocialReply(
        prompt=posts[parent],
        reply=row.text("text"),
        engagement=row.number("score"),
        created_at=row.optional_text("created") or None,
        thread_id=thread.text("id"),
        parent_id=parent,
        kind=kind,
        reply_id=row.text("id"),
        posted_at=posted_at[parent] or None,
        url=thread.optional_text("url"),
        licence=row.optional_text("license") or thread.optional_text("license"),
    )
