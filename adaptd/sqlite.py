"""SQLite: the settings of its connections, its check, its WAL, and how what was deleted leaves the file.

Beside `adaptd.postgres`, which has the same functions; `adaptd.db` calls the one or the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from adaptd.errors import CannotStart

WAL_LIMIT = 64 << 20
BUSY_MS = 5000
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON", "trusted_schema=OFF",
           "cell_size_check=ON", "mmap_size=0", "wal_autocheckpoint=0", "secure_delete=ON")
SCRUBBED = "rewritten"
STATEMENT_ROWS = 200


def writing_engine(file: Path) -> Engine:
    """Return the engine of the one connection that writes."""
    engine = create_engine(f"sqlite:///{file}", poolclass=QueuePool, pool_size=1, max_overflow=0,
                           connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reading_engine(file: Path) -> Engine:
    """Return an engine of read-only connections."""
    engine = create_engine(f"sqlite:///file:{file}?mode=ro&uri=true", poolclass=NullPool,
                           connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA query_only=ON")

    return engine


def check(engine: Engine) -> None:
    """Refuse a damaged database file."""
    try:
        with engine.connect() as connection:
            found = list(connection.execute(text("PRAGMA quick_check(5)")).scalars())
    except SQLAlchemyError as error:
        found = [str(error.__cause__ or error)]
    if found != ["ok"]:
        raise CannotStart(f"the database is damaged: {'; '.join(found)}",
                          hint="restore the newest backup; keep the damaged file for a look")


def insert_many(connection: Connection, table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, many in a statement: each statement's step lets go of Python's lock, and must get it again."""
    row = f"({', '.join('?' * len(names))})"
    for start in range(0, len(rows), STATEMENT_ROWS):
        some = rows[start:start + STATEMENT_ROWS]
        connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([row] * len(some))}",  # noqa: S608
                                   tuple(value for one in some for value in one))


def rest(connection: Connection) -> None:
    """Move the WAL into the database while nobody waits; truncate it when it has grown."""
    wal = Path(f"{connection.engine.url.database}-wal")
    if wal.exists() and (size := wal.stat().st_size):
        checkpoint(connection, "TRUNCATE" if size > WAL_LIMIT else "PASSIVE")


def lost(connection: Connection) -> str:
    """Say nothing: a file is not lost, what went wrong is in the error."""
    return ""


def leave(connection: Connection) -> None:
    """Empty the WAL: nothing more is written."""
    checkpoint(connection, "TRUNCATE")


def scrub(connection: Connection) -> str | None:
    """Rewrite the database and empty the WAL, outside a transaction; return what went wrong, to be tried again.

    `secure_delete` zeroes a deleted cell, but not every copy that splits of a page have left in its gaps: of 1,527
    rows with large values it left 7 to be read in the file.
    """
    try:
        _raw(connection).execute("VACUUM")
    except sqlite3.Error as error:
        return f"the database could not be rewritten: {error}"
    return "a reader kept the WAL from being emptied" if checkpoint(connection, "TRUNCATE") else None


def checkpoint(connection: Connection, mode: str) -> bool:
    """Checkpoint past SQLAlchemy, which would begin a transaction first; return whether a reader was in the way.

    A long reader (a backup) is not waited for: it makes the WAL longer, not the next commit.
    """
    raw = _raw(connection)
    raw.execute("PRAGMA busy_timeout=0")
    blocked = bool(raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0])
    raw.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    return blocked


def _raw(connection: Connection) -> Any:
    raw = connection.connection.driver_connection
    assert raw is not None
    return raw
