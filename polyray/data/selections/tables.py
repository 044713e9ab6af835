"""The tables of a database of selections, and the check that a database has these and no others' of the same name.

`number` counts rows in the order in which they were stored: unlike `created` it never jumps. Payloads are JSON in
ASCII, so that any text that JSON holds fits into any database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from polyray.errors import DataError

SCHEMA_VERSION = 1
MAX_NAME_CHARS = 255
"""Largest length of ids, owners, models and keys that every database can index."""

_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up 64-bit integers of this name only
_Long = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
_Name = String(MAX_NAME_CHARS)

_metadata = MetaData()

schema = Table(
    "polyray_schema",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)

candidate_sets = Table(
    "candidate_sets",
    _metadata,
    Column("number", _Number, primary_key=True),
    Column("id", _Name, nullable=False, unique=True),
    Column("created", Double, nullable=False),
    Column("owner", _Name, nullable=False),
    Column("model", _Name, nullable=False),
    Column("policy_sha256", _Name, nullable=False),
    Column("num_candidates", Integer, nullable=False),
    Column("request", _Long, nullable=False),
    Column("answer", _Long, nullable=False),
    Index("candidate_sets_of_owner", "owner", "number"),
)

selections = Table(
    "selections",
    _metadata,
    Column("number", _Number, primary_key=True),
    Column("id", _Name, nullable=False, unique=True),
    Column("candidates_id", _Name, ForeignKey(candidate_sets.c.id), nullable=False, index=True),
    Column("created", Double, nullable=False),
    Column("owner", _Name, nullable=False),
    Column("selected_index", Integer),
    Column("edited_text", _Long),
    Column("client_key", _Name),
    UniqueConstraint("owner", "client_key"),
)

adapters = Table(
    "adapters",
    _metadata,
    Column("number", _Number, primary_key=True),
    Column("name", _Name, nullable=False, unique=True),
    Column("spec", _Long, nullable=False),
    Column("created", Double, nullable=False),
)


def check_tables(connection: Connection, where: str, *, create: bool) -> None:
    """Create the tables if they are absent and `create` is set.

    Raises DataError, naming `where`, for a database of another schema version, for foreign tables of these names,
    and for a database without tables that is not to be changed.
    """
    names = set(inspect(connection).get_table_names())
    if schema.name in names:
        version = connection.scalar(select(schema.c.version))
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{where} has schema version {version}, and this polyray reads version {SCHEMA_VERSION} only; use "
                "the polyray that wrote it, or set another database"
            )
        return
    foreign = sorted(names & set(_metadata.tables))
    if foreign:
        raise DataError(f"{where} has a table {foreign[0]} that polyray did not make; set another database")
    if not create:
        raise DataError(f"{where} holds no selections; give the `database` of a generation service")
    _metadata.create_all(connection)
    connection.execute(insert(schema).values(id=1, version=SCHEMA_VERSION))
