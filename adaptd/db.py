"""The database: one connection writes, in one thread, in groups; readers are read-only and short.

Group commit (FAULTS): the writer takes what queued up during the last fsync, up to 256 events or 1 MiB, in one
``BEGIN IMMEDIATE … COMMIT`` with ``synchronous=FULL``, then completes their futures. Invariant: a future that is
done without an exception means durable. The first failed commit is fatal: nothing is acknowledged any more and
`failed` is set, so that the daemon exits and recovers from disk.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, ExceptionContext, Transaction, create_engine, event, text
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from adaptd.errors import Busy, CannotStart, SchemaMismatch, StoreFailed, StoreLocked, StoreUnreadable
from adaptd.fair import Rate
from adaptd.futures import fail, settle
from adaptd.stages import Told, Traces, traces, unheard

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_EVENTS, GROUP_BYTES = 256, 1 << 20
WAL_LIMIT = 64 << 20
BUSY_MS = 5000
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON", "trusted_schema=OFF",
           "cell_size_check=ON", "mmap_size=0", "wal_autocheckpoint=0", "secure_delete=ON")


def writing_engine(path: Path) -> Engine:
    """Return the engine of the one connection that writes."""
    engine = create_engine(f"sqlite:///{path}", poolclass=QueuePool, pool_size=1, max_overflow=0,
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


def reading_engine(path: Path) -> Engine:
    """Return an engine of read-only connections; keep their transactions under a second."""
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true", poolclass=NullPool,
                           connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "handle_error")
    def _failed(context: ExceptionContext) -> None:
        if isinstance(context.sqlalchemy_exception, OperationalError):  # gone, unreadable, busy: not a fault of the statement
            raise StoreUnreadable(f"the store cannot be read: {context.original_exception}",
                                  hint="look at the disk and at adaptd doctor; ask again when it is back")

    return engine


def migrations() -> Path:
    """Return the folder of the Alembic scripts: inside the wheel, or beside the package in a checkout."""
    inside = Path(str(resources.files("adaptd") / "migrations"))
    return inside if inside.is_dir() else Path(__file__).resolve().parent.parent / "migrations"


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return config


def head_revision() -> str:
    """Return the revision this adaptd wants."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert head is not None
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the store's revision, None for an empty store."""
    return MigrationContext.configure(connection).get_current_revision()


def check_known(revision: str) -> None:
    """Refuse a schema that this adaptd does not know.

    Raises
    ------
    SchemaMismatch
        It is newer than this adaptd.
    """
    if revision not in {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}:
        raise SchemaMismatch(f"the store's schema {revision!r} is newer than this adaptd (which knows {head_revision()!r})",
                             hint="install the adaptd that wrote it, or a newer one")


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the store's schema to this adaptd's, in one transaction; return the revisions before and after.

    Raises
    ------
    SchemaMismatch
        The store is newer than this adaptd.
    CannotStart
        A revision failed; the store is as it was.
    """
    try:
        with engine.begin() as connection:
            before = current_revision(connection)
            if before is not None:
                check_known(before)
            config = _alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise CannotStart(f"the store's schema could not be brought to {head_revision()!r}: {error.__cause__ or error}",
                          hint="the store is as it was; free some space or mend what is wrong, then try again") from error
    return before, head_revision()


def quick_check(engine: Engine) -> None:
    """Refuse a damaged database file."""
    try:
        with engine.connect() as connection:
            found = list(connection.execute(text("PRAGMA quick_check(5)")).scalars())
    except SQLAlchemyError as error:
        found = [str(error.__cause__ or error)]
    if found != ["ok"]:
        raise CannotStart(f"the database is damaged: {'; '.join(found)}",
                          hint="restore the newest backup; keep the damaged file for a look")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the store's lock; it goes with the process, and children do not inherit it.

    Raises
    ------
    StoreLocked
        Another process holds it.
    CannotStart
        It cannot be written: a disk with an error may say so only here.
    """
    with ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise StoreLocked(f"the store is locked by pid {holder}",
                              hint="stop that daemon first, or use another folder") from None
        except OSError as error:
            raise CannotStart(f"the state folder {path.parent} is not writable: {error.strerror}",
                              hint="look at its disk, its owner, and how it is mounted") from None
        yield


@dataclass
class _Operation:
    run: Callable[[Connection], Any]
    events: int
    size: int
    lane: str
    after: Callable[[Any], None] | None  # in the writer, after the commit: keeps journal order for the learner
    done: Future[Any] = field(default_factory=Future)
    traces: Traces = field(default_factory=traces.get)
    born: float = field(default_factory=time.monotonic)


class Writer:
    """The thread that owns the writing connection. `seq` is given here and nowhere else."""

    def __init__(self, engine: Engine, limit: int) -> None:
        self._engine = engine
        self._queue: queue.Queue[_Operation | None] = queue.Queue()
        self._limit = limit
        self._waiting = Counter[str]()  # events in the queue, by lane
        self.rate = Rate()  # of events
        self._count = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.failed: BaseException | None = None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.told: Told = unheard
        self.before_commit: Callable[[Connection], None] = lambda connection: None  # once a group, in its transaction
        self.beat = time.monotonic()  # the watchdog's view of this loop
        self._seq = 0
        self._commits = 0

    def start(self, seq: int) -> None:
        """Start after the journal's last seq."""
        self._seq = seq
        self._thread.start()

    @property
    def last_seq(self) -> int:
        """The newest seq given (it may not be committed yet)."""
        return self._seq

    def next_seq(self) -> int:
        """Give the next seq; only operations running in the writer call this."""
        self._seq += 1
        return self._seq

    def submit(self, run: Callable[[Connection], T], *, events: int = 1, size: int = 0, bounded: bool = False,
               lane: str = "events", after: Callable[[T], None] | None = None) -> Future[T]:
        """Queue an operation; its future completes after the commit, or fails with what it raised.

        Raises
        ------
        Busy
            `bounded`, and more than the limit of events are waiting in its lane: what fills one leaves room in the others.
        StoreFailed
            An earlier commit failed.
        """
        if self.failed is not None:
            raise StoreFailed(hint="the daemon is stopping; look at its log")
        with self._count:
            if bounded and self._waiting[lane] + events > self._limit and self._waiting[lane]:
                raise Busy("the journal's queue is full", retry_after_s=self.rate.retry_after_s(self._waiting.total()))
            self._waiting[lane] += events
        operation = _Operation(run, events, size, lane, after)
        self._queue.put(operation)
        return operation.done

    def scrub(self) -> Future[str | None]:
        """Rewrite the database and empty the WAL: what was deleted is on the disk no more; return what went wrong."""
        done: Future[str | None] = Future()

        def rewrite(connection: Connection) -> None:
            self.beat = math.inf  # it takes as long as the database is large
            settle(done, scrub(connection))

        self.submit(lambda connection: connection, after=rewrite)
        return done

    @property
    def waiting(self) -> int:
        """Events that wait to be committed."""
        return self._waiting.total()

    def close(self) -> None:
        """Commit what is queued, truncate the WAL, end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # a writer that is gone must not look as if it were there
            self.failed = error
            log.critical("the writer ended: %s", error, exc_info=error, extra={"action": "writer_failed"})
            self._drain()
            self.on_failure(error)

    def _write(self) -> None:
        with self._engine.connect() as connection:
            while True:
                self.beat = time.monotonic()
                try:
                    first = self._queue.get(timeout=1.0)
                except queue.Empty:
                    self._checkpoint(connection)
                    continue
                if first is None:
                    break
                group, last = self._collect(first)
                began = time.monotonic()
                self._commit(connection, group)
                self.rate.took(sum(operation.events for operation in group), time.monotonic() - began)
                if self.failed is not None:
                    return
                if last:
                    break
            _checkpoint_wal(connection, "TRUNCATE")

    def _collect(self, first: _Operation) -> tuple[list[_Operation], bool]:
        """Gather what queued up during the last fsync; the second value says that the writer is to end after it."""
        group, events, size = [first], first.events, first.size
        while events < GROUP_EVENTS and size < GROUP_BYTES:
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                break
            if operation is None:
                return group, True
            group.append(operation)
            events, size = events + operation.events, size + operation.size
        return group, False

    def _commit(self, connection: Connection, group: list[_Operation]) -> None:
        results: list[tuple[_Operation, Any, BaseException | None]] = []
        began = time.monotonic()
        for operation in group:
            self.told("journal_wait", operation.born, operation.traces)
        try:
            with connection.begin() as transaction:
                for operation in group:
                    savepoint = connection.begin_nested() if len(group) > 1 else None  # alone it needs none
                    results.append(self._one(connection, operation, savepoint or transaction))
                    if savepoint is not None and results[-1][2] is None:
                        savepoint.commit()
                self.before_commit(connection)
        except BaseException as error:  # the first failed commit is fatal, whatever it was
            self._fail(group, error)
            return
        with self._count:
            for operation in group:
                self._waiting[operation.lane] -= operation.events
        self.told("commit", began, tuple({trace: None for operation in group for trace in operation.traces}))
        for operation, value, failure in results:  # all of the group's, before anybody hears of it
            if failure is None and operation.after is not None:
                token = traces.set(operation.traces)
                operation.after(value)
                traces.reset(token)
        for operation, value, failure in results:
            settle(operation.done, value) if failure is None else fail(operation.done, failure)
        self._commits += 1
        if self._commits % 1000 == 0:
            self._checkpoint(connection)

    def _fail(self, group: list[_Operation], error: BaseException) -> None:
        self.failed = error
        log.critical("the journal could not be written: %s", error, extra={"action": "commit_failed"})
        for operation in group:
            fail(operation.done, StoreFailed(f"the journal could not be written: {error}"))
        self._drain()
        self.on_failure(error)

    def _one(self, connection: Connection, operation: _Operation,
             undo: Transaction) -> tuple[_Operation, Any, BaseException | None]:
        """Run one operation; its failure is its caller's, not its neighbours': what it wrote is undone."""
        try:
            return operation, operation.run(connection), None
        except Exception as error:  # an operation's own failure goes to its caller; the neighbours' writes stand
            if isinstance(error, OperationalError) or type(error) is DatabaseError:
                raise  # disk full, I/O error: the whole group fails and nothing is acknowledged
            undo.rollback()
            return operation, None, error

    def _drain(self) -> None:
        while not self._queue.empty():
            if (operation := self._queue.get_nowait()) is not None:
                fail(operation.done, StoreFailed())

    def _checkpoint(self, connection: Connection) -> None:
        """Move the WAL into the database while idle; truncate it when it has grown."""
        wal = Path(f"{self._engine.url.database}-wal")
        if wal.exists() and wal.stat().st_size > WAL_LIMIT:
            _checkpoint_wal(connection, "TRUNCATE")
        elif wal.exists() and wal.stat().st_size:
            _checkpoint_wal(connection, "PASSIVE")


def scrub(connection: Connection) -> str | None:
    """Rewrite the database and empty the WAL, outside a transaction; return what went wrong, to be tried again.

    `secure_delete` zeroes a deleted cell, but not every copy that splits of a page have left in its gaps: of 1,527
    rows with large values it left 7 to be read in the file.
    """
    try:
        _raw(connection).execute("VACUUM")
    except sqlite3.Error as error:
        return f"the database could not be rewritten: {error}"
    return "a reader kept the WAL from being emptied" if _checkpoint_wal(connection, "TRUNCATE") else None


def _checkpoint_wal(connection: Connection, mode: str) -> bool:
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
