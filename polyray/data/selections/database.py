"""A database that is opened and checked, and transactions that are on disk when they end. Called by store.py.

Any URL of SQLAlchemy whose driver is installed and synchronous. SQLite files (on a local disk) are set to WAL, so
that readers and the one writer do not wait for each other, and to synchronous=FULL, so that a commit is on disk.
An error of the database itself (full, locked, read-only, gone) becomes StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import DataError as ValueRefused
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polyray.data.selections.errors import StoreFull, StoreUnavailable
from polyray.data.selections.tables import check_tables
from polyray.errors import DataError, MissingFile

BUSY_TIMEOUT_S = 10.0
"""Wait for another writer or for a connection, in seconds."""

_FIXES = {
    "SQLITE_FULL": "free space on its disk",
    "SQLITE_IOERR": "look at its disk: full, over a quota, or broken",
    "SQLITE_READONLY": "make the file and its directory writable, or set another database",
    "SQLITE_CANTOPEN": "make the file and its directory readable and writable, or set another database",
    "SQLITE_BUSY": f"something else has held it for {BUSY_TIMEOUT_S:g} s: try again, or end that",
    "SQLITE_NOTADB": "set another database",
    "SQLITE_CORRUPT": "restore it from a copy, or set another database",
}
_NO_DIRECTORY = "make that directory and let it be written to, or set another database"
_OTHER_FIX = "look whether it runs and has space, then try again"
_FULL = ("SQLITE_FULL", "no space left", "disk full")
_A_FILE = "give a file, e.g. sqlite:///runs/selections.db"


class Database:
    """The engine behind a store.

    Example:
        database = Database("sqlite:///runs/selections.db", create=True)
        with database.writing() as connection: connection.execute(insert(adapters).values(...))
    """

    def __init__(self, url: str, *, create: bool) -> None:
        """`url` may be a path, too. Raises DataError and StoreUnavailable; without `create` nothing is changed."""
        parsed = _parsed(url)
        self._file = _sqlite_file(parsed)
        self.name = str(self._file) if self._file is not None else parsed.render_as_string(hide_password=True)
        with self._guarded("it cannot be opened"):
            if self._file is not None:
                parsed = parsed.set(database=str(self._file))  # a process may change its directory
                _check_file(self._file, create)
            self._engine = _engine(parsed, create)
        self._writer = self._engine.execution_options(is_write=True)
        self._turn = Lock() if self._file is not None else None
        self._prepare(create)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, committed and on disk when the block ends, else rolled back.

        Raises StoreUnavailable; IntegrityError passes.
        """
        with self._own_turn(), self._transaction(self._writer, "nothing was stored") as connection:
            yield connection

    def reading(self) -> AbstractContextManager[Connection]:
        """One transaction that sees one state of the database. Raises StoreUnavailable."""
        return self._transaction(self._engine, "it cannot be read")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _prepare(self, create: bool) -> None:
        """Checks or makes the tables; once more where another process made them at the same moment."""
        engine = self._writer if create else self._engine
        attempts = 2 if create else 1
        for attempt in range(1, attempts + 1):
            try:
                with self._transaction(engine, "it cannot be opened") as connection:
                    check_tables(connection, self.name, create=create)
                return
            except (IntegrityError, ProgrammingError, StoreUnavailable) as error:
                if attempt == attempts:
                    self.close()
                    raise self._unavailable(error, "its tables cannot be made") from error
            except DataError:
                self.close()
                raise

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """SQLite takes one writer and lets the others ask again after ever longer pauses: threads wait in a line."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise StoreUnavailable(
                f"{self.name}: nothing was stored (other writers have locked it for {BUSY_TIMEOUT_S:g} s); try again"
            )
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _transaction(self, engine: Engine, consequence: str) -> Iterator[Connection]:
        with self._guarded(consequence), engine.begin() as connection:
            yield connection

    @contextmanager
    def _guarded(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, ProgrammingError, ValueRefused):
            raise  # about a row or a statement, not about the database
        except (DBAPIError, PoolTimeout, OSError) as error:
            raise self._unavailable(error, consequence) from error

    def _unavailable(self, error: Exception, consequence: str) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        code = getattr(cause, "sqlite_errorname", None) or ""
        other = _NO_DIRECTORY if isinstance(error, OSError) else _OTHER_FIX
        fix = next((text for name, text in _FIXES.items() if code.startswith(name)), other)
        is_full = any(sign.lower() in f"{code} {cause}".lower() for sign in _FULL)
        kind = StoreFull if is_full else StoreUnavailable
        return kind(f"{self.name}: {consequence} ({cause}); {fix}")


def _parsed(text: str) -> URL:
    if "://" not in text:
        return URL.create("sqlite", database=text)
    shown = f"{text.partition('://')[0]}://..."  # what follows may hold a password
    try:
        url = make_url(text)
        is_async = url.get_dialect().is_async
    except (ArgumentError, NoSuchModuleError) as error:
        raise DataError(f"{shown} is not a database URL that SQLAlchemy knows ({error}); {_A_FILE}") from None
    if is_async:
        raise DataError(
            f"{shown} names an asynchronous driver; take a synchronous one, e.g. sqlite:// or postgresql+psycopg://"
        )
    return url


def _sqlite_file(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite":
        return None
    if url.host:
        raise DataError(
            f"sqlite://{url.host}/{url.database}: a path needs three slashes before it; {_A_FILE}"
        )
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise DataError(f"{url.render_as_string()}: acknowledged records must be kept in a file; {_A_FILE}")
    return Path(url.database).expanduser().resolve()


def _check_file(file: Path, create: bool) -> None:
    if create:
        file.parent.mkdir(parents=True, exist_ok=True)
    elif not file.is_file():
        raise MissingFile(f"{file}: no such database; give the `database` of a generation service")


def _engine(url: URL, create: bool) -> Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        engine = create_engine(
            url,
            pool_timeout=BUSY_TIMEOUT_S,
            pool_pre_ping=not is_sqlite,  # a server may have closed a connection that was idle
            connect_args={"timeout": BUSY_TIMEOUT_S} if is_sqlite else {},
        )
    except ImportError as error:
        raise DataError(f"{url.drivername}://...: its driver is missing ({error}); install it") from None
    if is_sqlite:
        event.listen(engine, "connect", _set_up_writer if create else _set_up_reader)
        event.listen(engine, "begin", _begin)
    return engine


def _set_up_writer(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions late; _begin does it
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _set_up_reader(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes then would fail where another writer came in between.
    is_write = connection.get_execution_options().get("is_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
