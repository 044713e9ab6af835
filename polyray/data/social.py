"""Social replies: a post, a reply to it, and how people reacted; from the user's own export or from threads.

The schema of an export, as CSV (a header line, then rows) or as JSON Lines:

    prompt        the post that is replied to; required
    reply         required
    engagement    likes, up-votes or another measure of approval, a number; required; `likes` is an alias
    impressions   how often the reply was shown, a count
    created_at    ISO 8601, e.g. 2026-03-01T12:30:00Z
    author_hash   a pseudonym of the reply's author; never a name
    thread_id     what belongs together in splits and statistics; by default all replies to the same post
    reply_id      a name of the reply that stays from export to export
    kind          replies of two kinds (say, "answer" and "comment") are not compared
    url, licence  kept for attribution

Every broken row is a DataError that names file, line, value and fix. Headlines are not replies: headlines.py.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from polyray.data.fields import RowFields
from polyray.data.json_lines import read_bytes, read_objects
from polyray.errors import DataError

REQUIRED = ("prompt", "reply", "engagement")
OPTIONAL = (
    "impressions", "created_at", "author_hash", "thread_id", "reply_id", "kind", "url", "licence",
)  # fmt: skip
_KNOWN = (*REQUIRED, "likes", *OPTIONAL)
_EXAMPLE = '{"prompt": "Who else got up early?", "reply": "The cat did.", "engagement": 12}'


@dataclass(frozen=True, slots=True)
class SocialReply:
    """One reply to one post.

    Example:
        SocialReply(prompt="Should answers cite sources?", reply="Yes, where there are any.", engagement=26.0,
                    thread_id="q1", created_at="2011-10-11T19:44:27", url="https://...", licence="CC BY-SA 3.0")
    """

    prompt: str
    reply: str
    engagement: float
    """Finite; negative where a forum counts down-votes."""
    impressions: int | None = None
    created_at: str | None = None
    """ISO 8601 as the file has it."""
    author_hash: str | None = None
    thread_id: str = ""
    """The unit of splits and statistics."""
    parent_id: str = ""
    """The post that is replied to: replies to one post can be compared."""
    kind: str = ""
    """The forum's name of it, e.g. "answer" or "comment"; replies of two kinds are not compared."""
    url: str = ""
    licence: str = ""
    reply_id: str = ""
    """Unique within a thread; empty where the file has none."""
    posted_at: str | None = None
    """Time at which the post was written, ISO 8601."""

    @property
    def likes(self) -> float:
        """Alias of engagement."""
        return self.engagement


def read_export(path: Path, *, key: str = "task.path") -> list[SocialReply]:
    """The user's own export in the order of the file: CSV where the name says so, else JSON Lines.

    `key` is the configuration's name for the file. Raises DataError at the first broken row.
    """
    is_csv = ".csv" in [suffix.lower() for suffix in path.suffixes]
    rows = read_csv_rows(path) if is_csv else read_objects(path, key=key, example=_EXAMPLE)
    return [reply_of_row(RowFields(record, f"{path}:{number}")) for number, record in rows]


def read_csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number of the row's last line, row) below a header line; blank rows are skipped.

    Raises DataError for an empty file, text that is not UTF-8, and rows with more or fewer cells than the
    header has.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    empty = True
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells, path)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}:{reader.line_num}: {len(cells)} cells but the header has {len(header)}; put texts "
                    f"that contain {delimiter!r} or line breaks in double quotes"
                )
            empty = False
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: not valid CSV ({error}); quotes inside a quoted text are doubled"
        ) from None
    if empty:
        raise DataError(f"{path}: no rows; it needs a header line and at least one row below it")


def _header(cells: list[str], path: Path) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the header names {twice[0]!r} twice; rename or remove one of the columns")
    return header


def reply_of_row(row: RowFields) -> SocialReply:
    """One row of an export. Raises DataError."""
    row.check_known(_KNOWN, "rename or remove it (names of people do not belong here)")
    both = [name for name in ("engagement", "likes") if row.has(name)]
    if len(both) != 1:
        found = "both 'engagement' and 'likes'" if both else "neither 'engagement' nor 'likes'"
        raise row.error(f"{found}; a row has exactly one of them")
    prompt = row.text("prompt")
    post = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return SocialReply(
        prompt=prompt,
        reply=row.text("reply"),
        engagement=row.number(both[0]),
        impressions=row.count("impressions") if row.has("impressions") else None,
        created_at=_moment(row, "created_at"),
        author_hash=row.optional_text("author_hash") or None,
        thread_id=row.optional_text("thread_id") or f"post-{post}",
        parent_id=f"post-{post}",
        kind=row.optional_text("kind"),
        reply_id=row.optional_text("reply_id"),
        url=row.optional_text("url"),
        licence=row.optional_text("licence"),
    )


def _moment(row: RowFields, key: str) -> str | None:
    value = row.optional_text(key)
    if not value:
        return None
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise row.error(f"{key!r} is {value!r}; write ISO 8601, e.g. 2026-03-01T12:30:00Z") from None
    return value
