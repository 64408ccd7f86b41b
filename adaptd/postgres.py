"""PostgreSQL: one session writes, and to be that session is the store's lock; readers are short, read-only snapshots.

Beside `adaptd.sqlite`, which has the same functions; `adaptd.db` calls the one or the other.

Fencing: the writer holds an advisory lock in the session that it writes with, and never opens a second one. So whoever
has the lock is the only one that can commit. A daemon that is killed loses it with its session, at once. One that is
silent for `SILENT_S` (it is paused, or its machine is gone) has its session ended by whoever stands by; should it come
back, it finds the session gone, can commit nothing, and ends. All clocks that are compared are the server's.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adaptd.errors import CannotStart, MissingExtra, SchemaMismatch, StoreLocked, StoreUnreadable

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)
SILENT_S = 4.0  # the writer says something every second
PATIENCE_S, END_S, ASK_S = 1.0, 3.0, 0.1  # how long for the lock, for the end of a silent session; between two tries
READER_MS = 5000  # how long readers are waited for when tables are rewritten
SCRUBBED = "rewritten; PostgreSQL's WAL, its replicas and its own backups keep what they hold of it until they are let go"
UNSEEN = """SELECT txid_snapshot_xmin(txid_current_snapshot()) >= {newest} AND NOT EXISTS (SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid())"""
GONE = "the session that writes has ended: another daemon has taken the store over, or the server went away"
LOCK = "1633970544, current_schema()::regnamespace::oid::int"  # "adap", and one store a schema
HOLDER = """SELECT a.pid, a.application_name AS name, coalesce(host(a.client_addr), 'the database''s own host') AS host,
    (a.state <> 'active' OR a.wait_event_type = 'Client')
    AND clock_timestamp() - a.state_change > make_interval(secs => %s) AS silent
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1633970544 AND l.objsubid = 2
    AND l.objid = current_schema()::regnamespace::oid
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
WRITES = """SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"""
REACHABLE = "look at the server, and at [store] url; a password: in what the url refers to, or in libpq's ~/.pgpass"
OPTIONS = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
           "tcp_user_timeout": 10_000}


def connect(url: str, **options: Any) -> psycopg.Connection[Any]:
    """Return a session of its own.

    Raises
    ------
    MissingExtra
        The driver is not installed.
    StoreUnreadable
        The server cannot be reached, or does not let us in.
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise MissingExtra(f"PostgreSQL needs psycopg: {error}", field="store.url",
                           hint="pip install 'adaptd[postgres]'") from None
    try:
        given = conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
        name = f"adaptd {platform.node()}:{os.getpid()}"
        wanted: dict[str, Any] = {**OPTIONS, "application_name": name, **given, **options}
        return psycopg.connect(**wanted)
    except psycopg.Error as error:
        raise StoreUnreadable(f"PostgreSQL: {error}", hint=REACHABLE) from None


class _Session:
    """The session that writes. The pool asks for it once; when it has gone there is no second one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._raw: psycopg.Connection[Any] | None = None
        self._given = False

    def __call__(self) -> psycopg.Connection[Any]:
        """Give the session once it has the lock; until then it is kept, to be tried again."""
        import psycopg

        if self._given:
            raise StoreUnreadable(GONE, hint="nothing that was acknowledged is lost: start it again")
        try:
            if self._raw is None:
                self._raw = connect(self._url, autocommit=True)
                _check_server(self._raw)
            _take(self._raw)
            self._raw.execute(WRITES)
            self._raw.autocommit = False
        except psycopg.OperationalError as error:
            self._raw = None
            raise StoreUnreadable(f"PostgreSQL: {error}", hint=REACHABLE) from None
        self._given = True
        return self._raw


def _check_server(raw: psycopg.Connection[Any]) -> None:
    if raw.info.server_version < 120000:
        raise CannotStart(f"PostgreSQL {raw.info.server_version // 10000} is too old", field="store.url", hint="12 or newer")
    if (encoding := raw.execute("SHOW server_encoding").fetchone()) != ("UTF8",):
        raise CannotStart(f"the database's encoding is {encoding and encoding[0]}", field="store.url",
                          hint="CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0")


def _take(raw: psycopg.Connection[Any]) -> None:
    """Take the lock; end a silent holder."""
    if _locked(raw, PATIENCE_S):
        return
    holder = raw.execute(HOLDER, (SILENT_S,)).fetchone()
    who = "another process" if holder is None else f"{holder[1]} ({holder[2]})"
    if holder is not None and holder[3]:
        log.warning("%s has said nothing for %g s: its session is ended", who, SILENT_S, extra={"action": "take_over"})
        raw.execute("SELECT pg_terminate_backend(%s)", (holder[0],))
        if _locked(raw, END_S):
            return
    raise StoreLocked(f"the store is held by {who}", hint="stop that daemon first; a second one stands by: adaptd run")


def _locked(raw: psycopg.Connection[Any], wait_s: float) -> bool:
    """Take the lock, and say whether it came in time: a session that has just ended may hold it a moment longer.

    Asked for, not waited for: each wait that ends without it would be an error in the server's log.
    """
    end = time.monotonic() + wait_s
    while not _one(raw, f"SELECT pg_try_advisory_lock({LOCK})")[0]:
        if time.monotonic() > end:
            return False
        time.sleep(ASK_S)  # bounded by `wait_s`
    return True


def _one(raw: psycopg.Connection[Any], query: str) -> Any:
    row = raw.execute(query.encode()).fetchone()
    assert row is not None
    return row


def holder(url: str) -> str | None:
    """Return who holds the store, None where nobody does."""
    with connect(url, autocommit=True) as raw:
        row = raw.execute(HOLDER, (SILENT_S,)).fetchone()
        return None if row is None else f"{row[1]} ({row[2]})"


# -- SQLAlchemy's engines ------------------------------------------------------------------------------------------


def writing_engine(url: str) -> Engine:
    """Return the engine of the one session that writes. Its first connection takes the lock.

    Raises, when it connects
    ------
    StoreLocked
        Another session holds it.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.pool import QueuePool

    return create_engine("postgresql+psycopg://", creator=_Session(url), poolclass=QueuePool, pool_size=1, max_overflow=0,
                         use_native_hstore=False)


def reading_engine(url: str) -> Engine:
    """Return an engine of read-only snapshots; a connection that was lost is replaced."""
    from sqlalchemy import create_engine

    def session() -> psycopg.Connection[Any]:
        raw = connect(url)
        _read_only(raw)
        return raw

    return create_engine("postgresql+psycopg://", creator=session, pool_size=5, max_overflow=20, pool_pre_ping=True,
                         use_native_hstore=False)


def _read_only(raw: psycopg.Connection[Any]) -> None:
    import psycopg

    raw.isolation_level, raw.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True


def check(engine: Engine) -> None:
    """Take the lock; PostgreSQL checks its own pages."""
    engine.connect().close()


def insert_columns(connection: Connection, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Insert rows."""
    import psycopg
    from sqlalchemy.exc import IntegrityError, OperationalError

    raw: Any = connection.connection.driver_connection
    try:
        with raw.cursor() as cursor, cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN".encode()) as copy:
            for row in zip(*columns, strict=True):
                copy.write_row(row)
    except psycopg.IntegrityError as error:
        raise IntegrityError(f"COPY {table}", None, error) from error
    except psycopg.OperationalError as error:
        raise OperationalError(f"COPY {table}", None, error) from error


def rest(connection: Connection) -> None:
    """Say something, and hear whether the session is still there."""
    import psycopg

    try:
        with _between(connection) as raw:
            raw.execute("SELECT 1")
    except psycopg.OperationalError as error:
        raise StoreUnreadable(f"{GONE} ({error})", hint="nothing that was acknowledged is lost: start it again") from None


def lost(connection: Connection) -> str:
    """Say that the session has ended, where it has."""
    try:
        raw: Any = connection.connection.driver_connection
        return GONE if raw is None or raw.closed else ""
    except Exception:  # SQLAlchemy has let go of it
        return GONE


def leave(connection: Connection) -> None:
    """Nothing is left to do; the lock goes with the session."""


def scrub(connection: Connection) -> str | None:
    """Rewrite adaptd's tables, and what the server's statistics have of them, outside a transaction; return what went wrong.

    A snapshot that is older than the deletions would keep the rows: a reader's here, or that of any transaction on the server
    that wrote before them, in other databases too, as a new snapshot begins with the oldest that runs.
    """
    import psycopg

    from adaptd.tables import metadata

    with _between(connection) as raw:
        try:
            raw.execute(f"SET lock_timeout = {READER_MS}")
            names = ", ".join(table.name for table in metadata.sorted_tables)
            newest, end = _one(raw, "SELECT txid_snapshot_xmax(txid_current_snapshot())")[0], time.monotonic() + READER_MS / 1e3
            while not _one(raw, UNSEEN.format(newest=newest))[0]:
                if time.monotonic() > end:
                    return "a reader, or a transaction elsewhere on the server, keeps what was deleted visible"
                time.sleep(ASK_S)
            raw.execute(f"VACUUM (FULL) {names}".encode())
            raw.execute(f"ANALYZE {names}".encode())  # statistics have samples of columns
            raw.execute(b"VACUUM (FULL) pg_catalog.pg_statistic")  # a role that does not own the database is told no, and goes on
            return None
        except psycopg.errors.LockNotAvailable:
            return "a reader kept the tables from being rewritten"
        except psycopg.Error as error:
            return f"the tables could not be rewritten: {error}"
        finally:
            if not raw.closed:
                raw.execute("SET lock_timeout = 0")


@contextmanager
def _between(connection: Connection) -> Iterator[psycopg.Connection[Any]]:
    """Give the driver's connection outside of a transaction."""
    raw: Any = connection.connection.driver_connection
    raw.autocommit = True
    try:
        yield raw
    finally:
        if not raw.closed:
            raw.autocommit = False


# -- reading without SQLAlchemy ------------------------------------------------------------------------------------


class Row(tuple[Any, ...]):
    """A row whose values are found by place and by name, as `sqlite3.Row`."""

    names: Sequence[str]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> Sequence[str]:
        """Return the names."""
        return self.names


def _rows(cursor: psycopg.Cursor[Any]) -> Any:
    names = [column.name for column in cursor.description or ()]
    made = type("Row", (Row,), {"names": names})
    return made


class Reader:
    """A read-only session that takes statements as `sqlite3.Connection` does."""

    def __init__(self, url: str) -> None:
        self._raw = connect(url, autocommit=True, row_factory=_rows)
        self._raw.execute("SET default_transaction_read_only = on; SET default_transaction_isolation = 'repeatable read'")

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> psycopg.Cursor[Any]:
        """Run a statement whose parameters are question marks.

        Raises
        ------
        SchemaMismatch
            There is no such table or column.
        StoreUnreadable
            The server went away.
        """
        import psycopg

        try:
            text = statement.replace("%", "%%").replace("?", "%s") if values else statement
            return self._raw.execute(text.encode(), values or None)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise SchemaMismatch(f"the store's schema is not the one this adaptd reads: {error.diag.message_primary}",
                                 hint="adaptd db upgrade, or install the adaptd that wrote it") from None
        except psycopg.Error as error:
            raise StoreUnreadable(f"PostgreSQL: {error}", hint=REACHABLE) from None

    def rollback(self) -> None:
        """End a transaction that was begun."""
        self._raw.rollback()

    def close(self) -> None:
        """End the session."""
        self._raw.close()
