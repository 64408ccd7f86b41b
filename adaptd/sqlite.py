"""SQLite: the settings of its connections, its check, its WAL, and how what was deleted leaves the file.

Beside `adaptd.postgres`, which has the same functions; `adaptd.db` calls the one or the other.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
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
STATEMENT_ROWS, MANY_ROWS = 200, 1000  # the driver keeps a statement of each length that comes; they take memory
SAME, EACH = "?{parameter}", ""  # forms: one value for all rows, each row its own


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


def insert_columns(connection: Connection, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Insert rows, many in a statement: each statement's step lets go of Python's lock, and must get it again.

    It is held to bind each parameter; so where there are many rows a whole column is one parameter, if it can be.
    """
    start, end = 0, len(columns[0])
    while start < end:
        count = MANY_ROWS if end - start >= MANY_ROWS else min(STATEMENT_ROWS, end - start)
        some = [column[start:start + count] for column in columns]
        start += count
        if count < STATEMENT_ROWS:
            forms, parameters = (EACH,) * len(names), tuple(chain.from_iterable(zip(*some, strict=True)))
        else:
            forms, parameters = _by_column(some)
        connection.exec_driver_sql(_statement(table, tuple(names), forms, count), parameters)


def _by_column(columns: Sequence[Sequence[Any]]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return the columns' forms, and the parameters: first those of whole columns, then each row's own."""
    forms = tuple(map(_form, columns))
    whole = [b"".join(values) if form.startswith("substr") else values[0]
             for form, values in zip(forms, columns, strict=True) if form != EACH]
    own = [values for form, values in zip(forms, columns, strict=True) if form == EACH]
    return forms, (*whole, *chain.from_iterable(zip(*own, strict=True)))


def _form(values: Sequence[Any]) -> str:
    """Return how a row's value is got from its column's one parameter: the same in all, bytes of one length, numbers in turn."""
    first, count = values[0], len(values)
    if values.count(first) == count:
        return SAME
    if type(first) is bytes and {*map(type, values)} == {bytes} and len({*map(len, values)}) == 1:
        return f"substr(?{{parameter}}, 1 + {len(first)} * {{row}}, {len(first)})"
    if type(first) is int and [*values] == [*range(first, first + count)]:
        return "?{parameter} + {row}"
    return EACH


@lru_cache(maxsize=32)
def _statement(table: str, names: Sequence[str], forms: Sequence[str], count: int) -> str:
    """Return the insert of so many rows, its parameters numbered as `_by_column` gives them."""
    into = f"INSERT INTO {table} ({', '.join(names)}) VALUES "  # noqa: S608
    if not any(forms):
        return into + ", ".join([f"({', '.join('?' * len(names))})"] * count)
    whole = {place: number for number, place in enumerate((p for p, form in enumerate(forms) if form != EACH), 1)}
    own = itertools.count(len(whole) + 1)
    rows = [", ".join((form or SAME).format(parameter=whole.get(place) or next(own), row=row)
                      for place, form in enumerate(forms)) for row in range(count)]
    return into + ", ".join(f"({row})" for row in rows)


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
