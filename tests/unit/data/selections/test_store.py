"""The store of selections: owners, order, client keys, restarts."""

from __future__ import annotations

import copy
import pickle
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest.mock import Mock

import pytest

from polyray.data.selections import (
    InvalidSelection,
    SelectionConflict,
    SelectionRecord,
    SelectionStore,
    StoredRecord,
    UnknownCandidates,
)
from polyray.data.selections import (
    store as store_module,
)
from polyray.errors import DataError
from polyray.serving.generation.candidates_wire import StoredCandidates
from tests.unit.data.selections.builders import candidates_record

TEXTS = ("left", "right", "back")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "selections.db"


@pytest.fixture
def store(path: Path) -> Iterator[SelectionStore]:
    opened = SelectionStore(f"sqlite:///{path}")
    yield opened
    opened.close()


def test_stored_records_survive_a_restart(store: SelectionStore, path: Path) -> None:
    strange = candidates_record(
        "c1", ['quotes " and \0', "emoji \U0001f600", "half \ud800"], [0.25, None, 1.0]
    )
    store.add_candidates(strange)
    picked, is_new = store.add_selection(
        "c1", owner="ann", selected_index=2, edited_text="emoji \U0001f600\nline", client_key="page-1"
    )
    assert is_new
    assert picked == SelectionRecord(
        picked.id, picked.created, "c1", "ann", 2, "emoji \U0001f600\nline", "page-1"
    )
    store.close()
    again = SelectionStore(str(path))  # a path is as good as a URL
    wire = {"request": strange.request, "answer": strange.answer, "selection": None}
    assert len(StoredCandidates.model_validate(wire).answer.candidates) == 3
    assert again.candidates("c1", "ann") == StoredRecord(strange, picked)
    assert again.name == store.name == str(path)
    again.close()


def test_owners_see_own_records_and_administrators_all(store: SelectionStore) -> None:
    for name, owner in (("a1", "ann"), ("b1", "bob"), ("a2", "ann")):
        store.add_candidates(candidates_record(name, TEXTS, owner=owner))
    assert store.candidates("b1", "ann") is None
    assert store.candidates("nothing", None) is None
    of_bob = store.candidates("b1", None)
    assert of_bob is not None and of_bob == store.candidates("b1", "bob")
    assert [record.candidates.id for record in store.page("ann", 10)[0]] == ["a2", "a1"]
    assert [record.candidates.id for record in store.page(None, 10)[0]] == ["a2", "b1", "a1"]
    assert store.page("carl", 10) == ([], False)
    with pytest.raises(UnknownCandidates, match="'b1'"):
        store.add_selection("b1", owner="ann", selected_index=0)
    with pytest.raises(UnknownCandidates, match="'b1'"):
        store.page("ann", 10, before="b1")
    by_admin, _ = store.add_selection("b1", owner="admin", selected_index=1, sees_all=True)
    seen = store.candidates("b1", "bob")
    assert seen is not None and seen.selection == by_admin and by_admin.owner == "admin"


def test_pages_are_newest_first_in_the_order_of_storing(store: SelectionStore) -> None:
    for place in range(5):
        # a clock that goes back
        store.add_candidates(candidates_record(f"c{place}", TEXTS, created=1000.0 - place))
    store.add_selection("c3", owner="ann", selected_index=0)
    latest, _ = store.add_selection("c3", owner="ann", selected_index=None)
    seen: list[str] = []
    before, has_more, sizes = None, True, []
    while has_more:
        records, has_more = store.page("ann", 2, before)
        seen += [record.candidates.id for record in records]
        sizes.append(len(records))
        before = seen[-1]
    assert (seen, sizes) == (["c4", "c3", "c2", "c1", "c0"], [2, 2, 1])
    records, has_more = store.page("ann", 5)
    assert [record.selection for record in records] == [None, latest, None, None, None]
    assert not has_more
    assert store.page("ann", 3, before="c0") == ([], False)
    with pytest.raises(ValueError, match=r"limit=0\b.*\b1\b"):
        store.page("ann", 0)


def test_client_key_is_one_selection(store: SelectionStore, path: Path) -> None:
    for name in ("c1", "c2"):
        store.add_candidates(candidates_record(name, TEXTS))
    choice: dict[str, Any] = {"owner": "ann", "selected_index": 1, "edited_text": "right!", "client_key": "k"}
    first, is_new = store.add_selection("c1", **choice)
    assert is_new
    assert store.add_selection("c1", **choice) == (first, False)
    store.close()
    again = SelectionStore(str(path))
    assert again.add_selection("c1", **choice) == (first, False)
    for name, other in (
        ("c2", choice),
        ("c1", {**choice, "selected_index": 0}),
        ("c1", {**choice, "selected_index": None}),
        ("c1", {**choice, "edited_text": None}),
    ):
        with pytest.raises(SelectionConflict, match=r"client_key='k'.*\b1\b.*'c1'"):
            again.add_selection(name, **other)
    of_admin, is_new = again.add_selection("c1", **{**choice, "owner": "admin", "sees_all": True})
    assert is_new and of_admin.id != first.id
    without = {**choice, "client_key": None}
    assert again.add_selection("c1", **without)[0].id != again.add_selection("c1", **without)[0].id
    again.close()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM selections").fetchone() == (4,)


def test_client_key_of_many_threads_is_one_selection(path: Path) -> None:
    stores = [SelectionStore(str(path)) for _ in range(2)]  # as two replicas of the service
    stores[0].add_candidates(candidates_record("c1", TEXTS))
    num_threads, rounds = 8, 10
    barrier = Barrier(num_threads)

    def select(thread: int) -> list[tuple[SelectionRecord, bool]]:
        found = []
        for number in range(rounds):
            barrier.wait(timeout=30)
            store = stores[thread % 2]
            found.append(store.add_selection("c1", owner="ann", selected_index=1, client_key=f"k{number}"))
        return found

    with ThreadPoolExecutor(num_threads) as pool:
        answers = list(pool.map(select, range(num_threads)))
    for of_key in zip(*answers, strict=True):
        assert len({record.id for record, _ in of_key}) == 1
        assert sum(is_new for _, is_new in of_key) == 1
    for opened in stores:
        opened.close()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM selections").fetchone() == (rounds,)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"selected_index": 3}, r"selected_index=3.*\b3\b.*'c1'.*\b0\b.*\b2\b"),
        ({"selected_index": -1}, r"selected_index=-1.*\b3\b"),
        ({"selected_index": 0, "edited_text": " \n"}, "edited_text"),
        ({"selected_index": 0, "edited_text": "a\0b"}, r"edited_text.*'\\x00'.*\b1\b"),
        ({"selected_index": 0, "client_key": "key\ud800"}, r"client_key.*'\\ud800'.*\b3\b"),
    ],
)
def test_invalid_selection_is_refused(store: SelectionStore, choice: dict[str, Any], message: str) -> None:
    store.add_candidates(candidates_record("c1", TEXTS))
    with pytest.raises(InvalidSelection, match=message) as caught:
        store.add_selection("c1", owner="ann", **choice)
    assert type(pickle.loads(pickle.dumps(caught.value))) is InvalidSelection
    stored = store.candidates("c1", "ann")
    assert stored is not None and stored.selection is None


def test_candidates_id_is_stored_once(store: SelectionStore) -> None:
    store.add_candidates(candidates_record("c1", TEXTS))
    with pytest.raises(DataError, match="'c1'"):
        store.add_candidates(candidates_record("c1", ["other"]))
    stored = store.candidates("c1", "ann")
    assert stored is not None and stored.candidates == candidates_record("c1", TEXTS)


def test_replace_answer_adds_scores_and_keeps_texts(store: SelectionStore) -> None:
    store.add_candidates(candidates_record("c1", TEXTS))
    scored = candidates_record("c1", TEXTS, [0.1, 0.9, 0.5], selected_index=1)
    store.replace_answer("c1", scored.answer)
    stored = store.candidates("c1", "ann")
    assert stored is not None and stored.candidates == scored
    rewritten = copy.deepcopy(dict(scored.answer))
    rewritten["candidates"][0]["text"] = "up"
    for answer in (rewritten, {**scored.answer, "candidates": scored.candidates[:2]}):
        with pytest.raises(InvalidSelection, match=r"'c1'.*texts"):
            store.replace_answer("c1", answer)
    assert store.candidates("c1", "ann") == stored
    with pytest.raises(UnknownCandidates, match="'c2'"):
        store.replace_answer("c2", scored.answer)


def test_records_are_in_order_and_filtered_by_model_and_time(
    store: SelectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_BATCH", 2)
    for place in range(7):
        model = "base" if place % 3 == 0 else "policy-v17"
        store.add_candidates(candidates_record(f"c{place}", TEXTS, created=float(place), model=model))
    latest, _ = store.add_selection("c4", owner="ann", selected_index=2)

    def ids(**wanted: Any) -> list[str]:
        return [record.candidates.id for record in store.records(**wanted)]

    assert ids() == [f"c{place}" for place in range(7)]
    assert ids(model="base") == ["c0", "c3", "c6"]
    assert ids(since=3.0) == ["c3", "c4", "c5", "c6"]
    assert ids(model="policy-v17", since=2.5) == ["c4", "c5"]
    assert ids(model="nobody") == []
    assert [record.selection for record in store.records(since=4.0)] == [latest, None, None]
    assert store.models() == ["base", "policy-v17"]


def test_adapters_keep_the_order_of_their_last_addition(store: SelectionStore, path: Path) -> None:
    other = SelectionStore(str(path))
    assert other.adapters() == {}
    for name in ("sft", "policy", "best"):
        store.add_adapter(name, {"run": f"runs/{name}", "version": None})
    assert list(other.adapters().items())[1] == ("policy", {"run": "runs/policy", "version": None})
    other.add_adapter("sft", {"path": "runs/sft/adapter"})
    assert list(store.adapters().items()) == [
        ("policy", {"run": "runs/policy", "version": None}),
        ("best", {"run": "runs/best", "version": None}),
        ("sft", {"path": "runs/sft/adapter"}),
    ]
    assert store.remove_adapter("policy")
    assert not store.remove_adapter("policy")
    assert list(other.adapters()) == ["best", "sft"]
    other.close()


def test_commits_are_synchronous(store: SelectionStore) -> None:
    with store._database.writing() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_relative_path_is_resolved_at_the_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SelectionStore("sqlite:///runs/selections.db")
    monkeypatch.chdir("elsewhere")
    store.close()  # the next connection is a new one
    store.add_candidates(candidates_record("c1", TEXTS))
    store.close()
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.db")] == ["runs/selections.db"]


def test_new_database_is_opened_by_many_threads_at_once(path: Path) -> None:
    num_threads = 6
    barrier = Barrier(num_threads)

    def open_and_write(thread: int) -> None:
        barrier.wait(timeout=30)
        store = SelectionStore(str(path))
        store.add_candidates(candidates_record(f"c{thread}", TEXTS))
        store.close()

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(open_and_write, range(num_threads)))
    store = SelectionStore(str(path), create=False)
    assert sorted(record.candidates.id for record in store.records()) == [
        f"c{at}" for at in range(num_threads)
    ]
    store.close()


def test_database_of_another_schema_is_refused(store: SelectionStore, path: Path, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE polyray_schema SET version = 2")
    for create in (True, False):
        with pytest.raises(DataError, match=r"version 2\b.*version 1\b"):
            SelectionStore(str(path), create=create)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE adapters (id TEXT)")
    with pytest.raises(DataError, match="table adapters"):
        SelectionStore(str(other))
    with sqlite3.connect(other) as connection:
        connection.execute("DROP TABLE adapters")
        connection.execute("CREATE TABLE trials (id TEXT)")
    content = other.read_bytes()
    with pytest.raises(DataError, match="`database`"):
        SelectionStore(str(other), create=False)
    assert other.read_bytes() == content
    with pytest.raises(DataError, match=r"none/x\.db.*`database`"):
        SelectionStore(f"sqlite:///{tmp_path}/none/x.db", create=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", r"sqlite:///runs/selections\.db"),
        ("sqlite:///:memory:", "%3Amemory%3A.* file"),
        ("sqlite:///file:x?mode=memory&uri=true", r"file%3Ax.*sqlite:///runs/selections\.db"),
        ("sqlite://runs/selections.db", r"sqlite://runs/selections\.db"),
        ("sqlite+aiosqlite:///x.db", "asynchronous"),
        ("nodb://ann:secret@host/x", r"nodb://\.\.\..*SQLAlchemy"),
        ("postgresql+pg8000://ann:secret@host/x", "'pg8000'"),
    ],
)
def test_unusable_url_is_refused_without_its_secret(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        SelectionStore(url)
    assert "secret" not in str(caught.value)


def test_client_key_stored_by_another_process_in_between_is_found(
    store: SelectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look is blind, as on databases whose transactions see no rows of others."""
    store.add_candidates(candidates_record("c1", TEXTS))
    first, _ = store.add_selection("c1", owner="ann", selected_index=1, client_key="k")
    look = store_module._of_key
    looks = Mock(side_effect=[None])
    monkeypatch.setattr(store_module, "_of_key", lambda *key: looks() if not looks.called else look(*key))
    assert store.add_selection("c1", owner="ann", selected_index=1, client_key="k") == (first, False)
