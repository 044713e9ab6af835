"""No acknowledged record is lost: killed writers, full disks, locked and read-only databases."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from polyray.data.selections import SelectionStore, StoreFull, StoreUnavailable, database
from tests.full_disk import small_files_only
from tests.unit.data.selections.builders import candidates_record

ROOT = Path(__file__).resolve().parents[4]
TEXTS = ("left", "right")

WRITER = """
import sys
from polyray.data.selections import SelectionStore
from tests.unit.data.selections.builders import candidates_record
path, writer = sys.argv[1:]
store = SelectionStore(path)
for number in range(100_000):
    name = f"{writer}-{number}"
    store.add_candidates(candidates_record(name, ["left" * 500, "right" * 500]))
    print("set", name, flush=True)
    picked, _ = store.add_selection(name, owner="ann", selected_index=1, client_key=name)
    print("selection", picked.id, flush=True)
"""

READ_ONLY = """
import os, sys
from polyray.data.selections import SelectionStore, StoreUnavailable
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
try:
    SelectionStore(sys.argv[1])
except StoreUnavailable as error:
    print(error)
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_writers_lose_no_acknowledged_record(tmp_path: Path) -> None:
    """Two processes write into one database and are killed in the middle, twice."""
    path = tmp_path / "selections.db"
    acknowledged: dict[str, set[str]] = {"set": set(), "selection": set()}
    for attempt, num_lines in enumerate((40, 41)):
        writers = [python(WRITER, str(path), f"{attempt}{writer}") for writer in "ab"]
        first = writers[0].stdout
        assert first is not None
        lines = [first.readline() for _ in range(num_lines)]
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            assert writer.stdout is not None
            lines += writer.stdout.readlines()
            writer.stdout.close()
            assert writer.wait(timeout=30) == -signal.SIGKILL
        for line in lines:
            if line.endswith("\n"):  # the last one may have been cut
                kind, name = line.split()
                acknowledged[kind].add(name)
    assert len(acknowledged["selection"]) > 38
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    store = SelectionStore(str(path), create=False)
    stored = list(store.records())
    store.close()
    assert acknowledged["set"] <= {record.candidates.id for record in stored}
    assert acknowledged["selection"] <= {
        record.selection.id for record in stored if record.selection is not None
    }


def fill(store: SelectionStore, limit: int = 2000) -> list[str]:
    """Ids of the selections that were acknowledged until the database took no more."""
    done: list[str] = []
    try:
        for number in range(limit):
            picked, _ = store.add_selection(
                "c1", owner="ann", selected_index=1, edited_text=f"{number} " * 400
            )
            done.append(picked.id)
    except StoreUnavailable:
        return done
    raise AssertionError("it took everything")


def stored_ids(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    found = [name for (name,) in connection.execute("SELECT id FROM selections ORDER BY number")]
    connection.close()
    return found


def test_full_database_refuses_writes_until_there_is_space(tmp_path: Path) -> None:
    path = tmp_path / "selections.db"
    store = SelectionStore(str(path))
    store.add_candidates(candidates_record("c1", TEXTS))
    with store._database.writing() as connection:
        # of the only connection, so of all that follows
        connection.exec_driver_sql("PRAGMA max_page_count=40")
    done = fill(store)
    assert len(done) > 5
    with pytest.raises(StoreFull, match=r"\.db\b"):
        store.add_selection("c1", owner="ann", selected_index=1, edited_text="x" * 9000)
    assert stored_ids(path) == done
    seen = store.candidates("c1", "ann")
    assert seen is not None and seen.selection is not None and seen.selection.id == done[-1]
    with store._database.writing() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=100000")
    picked, _ = store.add_selection("c1", owner="ann", selected_index=0)
    assert stored_ids(path) == [*done, picked.id]
    store.close()


def test_full_disk_loses_no_acknowledged_record(tmp_path: Path) -> None:
    """The log of a write-ahead database is what grows first."""
    path = tmp_path / "selections.db"
    store = SelectionStore(str(path))
    store.add_candidates(candidates_record("c1", TEXTS))
    with small_files_only(200_000):
        done = fill(store)
        assert len(done) > 5
        with pytest.raises(StoreUnavailable, match=r"\.db\b"):
            store.add_selection("c1", owner="ann", selected_index=1, edited_text="x" * 9000)
    picked, _ = store.add_selection("c1", owner="ann", selected_index=0)
    store.close()
    assert stored_ids(path) == [*done, picked.id]


def test_locked_database_refuses_writes_and_serves_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    path = tmp_path / "selections.db"
    store = SelectionStore(str(path))
    store.add_candidates(candidates_record("c1", TEXTS))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"\(database is locked\)"):
        store.add_selection("c1", owner="ann", selected_index=0)
    assert store.candidates("c1", "ann") is not None  # readers do not wait
    holder.execute("COMMIT")
    holder.close()
    with (
        store._database.writing(),
        pytest.raises(StoreUnavailable, match=r"\b0\.2 s\b"),
    ):
        store.add_selection("c1", owner="ann", selected_index=0)
    picked, is_new = store.add_selection("c1", owner="ann", selected_index=0)
    assert is_new
    store.close()
    assert stored_ids(path) == [picked.id]


def test_store_opened_for_reading_writes_no_row(tmp_path: Path) -> None:
    path = tmp_path / "selections.db"
    store = SelectionStore(str(path))
    store.add_candidates(candidates_record("c1", TEXTS))
    reader = SelectionStore(str(path), create=False)
    with pytest.raises(StoreUnavailable, match=r"\(attempt to write a readonly database\)"):
        reader.add_selection("c1", owner="ann", selected_index=0)
    assert not isinstance(reader.candidates("c1", "ann"), type(None))
    reader.close()
    store.close()
    assert stored_ids(path) == []


def test_read_only_database_is_refused_at_the_start() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to other users
        path = Path(name) / "selections.db"
        SelectionStore(str(path)).close()
        os.chmod(path, 0o444)
        os.chmod(name, 0o555)
        with python(READ_ONLY, str(path)) as child:
            assert child.stdout is not None
            said = child.stdout.read()
        os.chmod(name, 0o755)
    assert said.startswith(f"{path}: ") and "writable" in said


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "selections.db"
    path.write_text("many words " * 1000)
    with pytest.raises(StoreUnavailable, match=r"\(file is not a database\)"):
        SelectionStore(str(path))
    assert path.read_text() == "many words " * 1000
    with pytest.raises(StoreUnavailable, match=r"below\.db"):
        SelectionStore(str(path / "below.db"))
