"""Database of candidates that were shown and of selections. Nothing acknowledged is lost.

Every method is one transaction that is on disk when it returns, and may be called from any thread and, for one
database, from any number of processes. Called by the generation service (in threads: all methods block) and by
polyray curate selections. A caller sees the sets of its `owner`; None means an administrator, who sees all.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from polyray.data.selections.database import Database
from polyray.data.selections.errors import InvalidSelection, SelectionConflict, UnknownCandidates
from polyray.data.selections.records import CandidatesRecord, SelectionRecord, StoredRecord
from polyray.data.selections.tables import adapters, candidate_sets, selections
from polyray.errors import DataError

_BATCH = 200
"""Sets that are read at a time."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_SET_COLUMNS = [column for column in candidate_sets.c if column.name != "num_candidates"]


class SelectionStore:
    """One open database.

    Example:
        store = SelectionStore("sqlite:///runs/selections.db")
        store.add_candidates(CandidatesRecord(id="cand-1", owner="ann", ...))
        picked, is_new = store.add_selection("cand-1", owner="ann", selected_index=1, client_key="page-7")
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Opens a URL of SQLAlchemy, or the path of a SQLite file.

        `create=False` opens for reading what is there, and changes nothing. Raises DataError for a URL that cannot
        be used, a missing file, another schema version; StoreUnavailable.
        """
        self._database = Database(url, create=create)

    @property
    def name(self) -> str:
        """The file's path, or the URL without its password."""
        return self._database.name

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def add_candidates(self, record: CandidatesRecord) -> None:
        """Stores what is about to be shown. Raises DataError for an id that is taken, StoreUnavailable."""
        values = {
            "id": record.id,
            "created": record.created,
            "owner": record.owner,
            "model": record.model,
            "policy_sha256": record.policy_sha256,
            "num_candidates": len(record.candidates),
            "request": json.dumps(dict(record.request)),
            "answer": json.dumps(dict(record.answer)),
        }
        try:
            with self._database.writing() as connection:
                connection.execute(insert(candidate_sets).values(values))
        except IntegrityError:
            raise DataError(
                f"candidates {record.id!r} are stored already; give each set an id of its own"
            ) from None

    def replace_answer(self, candidates_id: str, answer: Mapping[str, Any]) -> None:
        """The same candidates with scores that came later.

        Raises UnknownCandidates, StoreUnavailable, and InvalidSelection where the texts are not those that were
        shown: selections refer to them.
        """
        with self._database.writing() as connection:
            stored = connection.scalar(
                select(candidate_sets.c.answer).where(candidate_sets.c.id == candidates_id)
            )
            if stored is None:
                raise _unknown(candidates_id)
            shown, given = _texts(json.loads(stored)), _texts(answer)
            if shown != given:
                raise InvalidSelection(
                    f"candidates {candidates_id!r}: the answer has other texts than those that were shown "
                    f"({len(given)} against {len(shown)}); replace scores only"
                )
            changed = update(candidate_sets).where(candidate_sets.c.id == candidates_id)
            connection.execute(changed.values(answer=json.dumps(dict(answer))))

    def candidates(self, candidates_id: str, owner: str | None) -> StoredRecord | None:
        """One set with its latest selection; None where there is none that `owner` may see."""
        with self._database.reading() as connection:
            wanted = select(*_SET_COLUMNS).where(candidate_sets.c.id == candidates_id, *_seen_by(owner))
            return next(iter(_with_selections(connection, connection.execute(wanted).all())), None)

    def page(
        self, owner: str | None, limit: int, before: str | None = None
    ) -> tuple[list[StoredRecord], bool]:
        """(at most `limit` >= 1 sets, newest first, older than the set `before`; whether there are more).

        Raises UnknownCandidates where `before` is no set that `owner` may see.
        """
        if limit < 1:
            raise ValueError(f"limit={limit} must be at least 1")
        wanted = select(*_SET_COLUMNS).where(*_seen_by(owner)).order_by(candidate_sets.c.number.desc())
        with self._database.reading() as connection:
            if before is not None:
                place = select(candidate_sets.c.number).where(candidate_sets.c.id == before, *_seen_by(owner))
                number = connection.scalar(place)
                if number is None:
                    raise _unknown(before)
                wanted = wanted.where(candidate_sets.c.number < number)
            rows = connection.execute(wanted.limit(limit + 1)).all()
            return _with_selections(connection, rows[:limit]), len(rows) > limit

    def add_selection(
        self,
        candidates_id: str,
        *,
        owner: str,
        selected_index: int | None,
        edited_text: str | None = None,
        client_key: str | None = None,
        sees_all: bool = False,
    ) -> tuple[SelectionRecord, bool]:
        """Stores a choice: (the selection, whether it is new).

        The same `client_key` of the same owner again gives the selection that it gave first. Without a key each
        call is a selection of its own; the latest one of a set counts.

        Args:
            selected_index: None: none of them was good enough.
            edited_text: what the person made of it, or wrote instead.
            sees_all: the owner is an administrator, and may select of others' sets.

        Raises:
            UnknownCandidates, InvalidSelection, SelectionConflict, StoreUnavailable.
        """
        name = f"sel-{uuid4().hex}"
        wanted = SelectionRecord(
            name, time.time(), candidates_id, owner, selected_index, edited_text, client_key
        )
        _check_texts(wanted)
        try:
            return self._add_selection(wanted, sees_all)
        except IntegrityError:
            # Another process stored this client_key in between; now it is found.
            return self._add_selection(wanted, sees_all)

    def records(self, *, model: str | None = None, since: float | None = None) -> Iterator[StoredRecord]:
        """Sets with their latest selections in the order in which they were stored.

        Only sets of `model`, made at `since` (seconds since 1970) or later. Sets are read a batch at a time: later
        sets may or may not be among them.
        """
        wanted = (
            select(candidate_sets.c.number, *_SET_COLUMNS).order_by(candidate_sets.c.number).limit(_BATCH)
        )
        if model is not None:
            wanted = wanted.where(candidate_sets.c.model == model)
        if since is not None:
            wanted = wanted.where(candidate_sets.c.created >= since)
        last = -1
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(wanted.where(candidate_sets.c.number > last)).all()
                found = _with_selections(connection, rows)
            if not rows:
                return
            yield from found
            last = rows[-1].number

    def models(self) -> list[str]:
        """Names of the models that have sets, sorted."""
        with self._database.reading() as connection:
            return sorted(connection.scalars(select(candidate_sets.c.model).distinct()))

    def add_adapter(self, name: str, spec: Mapping[str, Any]) -> None:
        """An adapter that every replica should serve; one of the same name is replaced, and is the newest then."""
        with self._database.writing() as connection:
            connection.execute(delete(adapters).where(adapters.c.name == name))
            values = {"name": name, "spec": json.dumps(dict(spec)), "created": time.time()}
            connection.execute(insert(adapters).values(values))

    def remove_adapter(self, name: str) -> bool:
        """Whether there was one of that name."""
        with self._database.writing() as connection:
            return connection.execute(delete(adapters).where(adapters.c.name == name)).rowcount > 0

    def adapters(self) -> dict[str, dict[str, Any]]:
        """name -> spec, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(adapters.c.name, adapters.c.spec).order_by(adapters.c.number))
            return {row.name: json.loads(row.spec) for row in rows}

    def _add_selection(self, wanted: SelectionRecord, sees_all: bool) -> tuple[SelectionRecord, bool]:
        scope = _seen_by(None if sees_all else wanted.owner)
        of_set = select(candidate_sets.c.num_candidates).where(
            candidate_sets.c.id == wanted.candidates_id, *scope
        )
        with self._database.writing() as connection:
            num_candidates = connection.scalar(of_set)
            if num_candidates is None:
                raise _unknown(wanted.candidates_id)
            earlier = _of_key(connection, wanted)
            if earlier is not None:
                return earlier, False
            index = wanted.selected_index
            if index is not None and not 0 <= index < num_candidates:
                raise InvalidSelection(
                    f"selected_index={index} is none of the {num_candidates} candidates of "
                    f"{wanted.candidates_id!r}; give 0 to {num_candidates - 1}, or null for none of them"
                )
            values = {
                column.name: getattr(wanted, column.name)
                for column in selections.c
                if column.name != "number"
            }
            connection.execute(insert(selections).values(values))
        return wanted, True


def _of_key(connection: Connection, wanted: SelectionRecord) -> SelectionRecord | None:
    """The owner's selection of the same client_key; raises SelectionConflict where it is another one."""
    if wanted.client_key is None:
        return None
    same_key = (selections.c.owner == wanted.owner, selections.c.client_key == wanted.client_key)
    row = connection.execute(select(selections).where(*same_key)).one_or_none()
    if row is None:
        return None
    earlier = _selection(row)
    if earlier.content != wanted.content:
        raise SelectionConflict(
            f"client_key={wanted.client_key!r} names index {earlier.selected_index} of "
            f"{earlier.candidates_id!r} already (selection {earlier.id}), and this is another selection; "
            "use a new key for each"
        )
    return earlier


def _check_texts(wanted: SelectionRecord) -> None:
    if wanted.edited_text is not None and not wanted.edited_text.strip():
        raise InvalidSelection("edited_text is blank; write a text, or leave it out")
    for key in ("candidates_id", "edited_text", "client_key"):
        text = getattr(wanted, key) or ""
        bad = _UNSTORABLE.search(text)
        if bad is not None:
            raise InvalidSelection(
                f"{key} has {bad.group()!a} at {bad.start()}, which databases do not keep; leave it out"
            )


def _seen_by(owner: str | None) -> tuple[Any, ...]:
    return () if owner is None else (candidate_sets.c.owner == owner,)


def _unknown(candidates_id: str) -> UnknownCandidates:
    return UnknownCandidates(f"no candidates {candidates_id[:80]!r} of yours; GET /v1/candidates lists them")


def _texts(answer: Mapping[str, Any]) -> list[str]:
    return [candidate["text"] for candidate in answer["candidates"]]


def _with_selections(connection: Connection, rows: Sequence[Row[Any]]) -> list[StoredRecord]:
    """Records in the order of the rows, each with its newest selection."""
    ids = [row.id for row in rows]
    newest = select(func.max(selections.c.number)).where(selections.c.candidates_id.in_(ids))
    newest = newest.group_by(selections.c.candidates_id)
    found = connection.execute(select(selections).where(selections.c.number.in_(newest)))
    latest = {row.candidates_id: _selection(row) for row in found}
    return [StoredRecord(_candidates(row), latest.get(row.id)) for row in rows]


def _candidates(row: Row[Any]) -> CandidatesRecord:
    return CandidatesRecord(
        row.id,
        row.created,
        row.owner,
        row.model,
        row.policy_sha256,
        json.loads(row.request),
        json.loads(row.answer),
    )


def _selection(row: Row[Any]) -> SelectionRecord:
    return SelectionRecord(
        row.id,
        row.created,
        row.candidates_id,
        row.owner,
        row.selected_index,
        row.edited_text,
        row.client_key,
    )
