"""review.csv: a person's decisions about records, in a file that spreadsheets open.

Columns: record_id, decision (keep, drop or empty), note, reason, engagement, prompt, completion. The first three
are read back; the others are there to decide by. A keep overrides the filters, a drop drops. Texts that a
spreadsheet would take for a formula get an apostrophe in front, which is taken away again. Changes by spreadsheets
are understood: a byte order mark, other line ends, semicolons between cells. Called by pipeline.py.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyray.errors import DataError, MissingFile

Decision = Literal["keep", "drop", ""]
COLUMNS = ("record_id", "decision", "note", "reason", "engagement", "prompt", "completion")
_DECISIONS: tuple[Decision, ...] = ("keep", "drop", "")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Review:
    """A person's decision about one record.

    Example:
        Review(decision="keep", note="funny, although short", where="review.csv:3")
    """

    decision: Decision
    note: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """One line to be written.

    Example:
        ReviewRow("q1/a2", "keep", "", "too short", 26.0, "Should answers ...", "Yes, where ...")
    """

    record_id: str
    decision: Decision
    note: str
    reason: str
    engagement: float
    prompt: str
    completion: str


def read_reviews(path: Path) -> dict[str, Review]:
    """record_id -> what was decided or noted; rows with neither are left out.

    Raises DataError for a file that is no such table, for another decision, and for an id twice.
    """
    header, rows = _table(path)
    for name in ("record_id", "decision"):
        if name not in header:
            raise DataError(f"{path}: no column {name!r}; the first line must be {','.join(COLUMNS)}")
    unknown = [name for name in header if name and name not in COLUMNS]
    if unknown:
        raise DataError(
            f"{path}: unknown column {unknown[0]!r}, which a new run would lose; move it into 'note' or remove it"
        )
    reviews: dict[str, Review] = {}
    for where, cells in rows:
        values = dict(zip(header, [*cells, *[""] * len(header)], strict=False))
        record_id, decision = _plain(values["record_id"]).strip(), values["decision"].strip().lower()
        if not record_id:
            raise DataError(f"{where}: record_id is empty; restore it or remove the row")
        if decision not in _DECISIONS:
            raise DataError(
                f"{where}: decision {values['decision']!r} of {record_id!r} must be keep, drop or empty"
            )
        if record_id in reviews:
            raise DataError(f"{where}: record_id {record_id!r} is already that of {reviews[record_id].where}")
        reviews[record_id] = Review(decision, _plain(values.get("note", "")).strip(), where)
    return {name: review for name, review in reviews.items() if review.decision or review.note}


def check_known(reviews: Mapping[str, Review], record_ids: Collection[str]) -> None:
    """Raises DataError for a decision or note on a record that the source does not have."""
    unknown = [name for name in reviews if name not in record_ids]
    if unknown:
        raise DataError(
            f"{reviews[unknown[0]].where}: record_id {unknown[0]!r} is not a record of this source ({len(unknown)} "
            "such rows); a spreadsheet may have changed the id: restore it, or empty the row's decision and note"
        )


def review_csv(rows: Iterable[ReviewRow]) -> bytes:
    """The file's content: UTF-8 with a byte order mark, so that spreadsheets see what it is."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        texts = (row.record_id, row.decision, row.note, row.reason)
        cells = [*map(_guarded, texts), f"{row.engagement:.6g}", *map(_guarded, (row.prompt, row.completion))]
        writer.writerow(cells)
    return text.getvalue().encode("utf-8-sig")


def _guarded(text: str) -> str:
    """A text that no spreadsheet runs; one that begins with an apostrophe gets one more, to be told apart."""
    return f"'{text}" if text.startswith((*_FORMULA_STARTS, "'")) else text


def _plain(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith((*_FORMULA_STARTS, "'")) else text


def _table(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(header, (file:line, cells) of every row that is not blank)."""
    if not path.is_file():
        raise MissingFile(f"{path}: no such file; set review to the review.csv of a run, or to null")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as 'CSV UTF-8'") from None
    first_line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [
            (f"{path}:{reader.line_num}", cells) for cells in reader if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None
    if not rows:
        raise DataError(f"{path}: empty; the first line must be {','.join(COLUMNS)}, or delete the file")
    header = [cell.strip().lower() for cell in rows[0][1]]
    named = [name for name in header if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {twice[0]!r} twice; remove one of the columns")
    for where, cells in rows[1:]:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise DataError(
                f"{where}: {len(cells)} cells but the header has {len(header)}; quote texts with {delimiter!r}"
            )
    return header, rows[1:]
