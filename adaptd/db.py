"""The database: one connection writes, in one thread, in groups; readers are read-only and short.

Group commit (FAULTS): the writer takes what queued up during the last fsync, up to 256 events or 1 MiB, in one
transaction that is durable when it commits, then completes their futures. Invariant: a future that is
done without an exception means durable. The first failed commit is fatal: nothing is acknowledged any more and
`failed` is set, so that the daemon exits and recovers from disk.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ExceptionContext,
    Insert,
    Select,
    Table,
    Text,
    Transaction,
    bindparam,
    event,
    func,
    select,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from adaptd import postgres, sqlite
from adaptd.errors import Busy, CannotStart, SchemaMismatch, StoreFailed, StoreLocked, StoreUnreadable
from adaptd.fair import Rate
from adaptd.futures import fail, settle
from adaptd.records import canonical
from adaptd.stages import Told, Traces, traces, unheard

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_EVENTS, GROUP_BYTES = 256, 1 << 20
DIALECTS: dict[str, ModuleType] = {"sqlite": sqlite, "postgresql": postgres}


def writing_engine(store: Path | str) -> Engine:
    """Return the engine of the one connection that writes; on PostgreSQL its first connection takes the store's lock."""
    return postgres.writing_engine(store) if isinstance(store, str) else sqlite.writing_engine(store)


def reading_engine(store: Path | str) -> Engine:
    """Return an engine of read-only connections; keep their transactions under a second."""
    engine = postgres.reading_engine(store) if isinstance(store, str) else sqlite.reading_engine(store)

    @event.listens_for(engine, "handle_error")
    def _failed(context: ExceptionContext) -> None:
        if isinstance(context.sqlalchemy_exception, OperationalError) and not context.is_pre_ping:
            # gone, unreadable, busy: not a fault of the statement
            raise StoreUnreadable(f"the store cannot be read: {context.original_exception}",
                                  hint="look at the disk and at adaptd doctor; ask again when it is back")

    return engine


def _dialect(engine: Engine) -> ModuleType:
    return DIALECTS[engine.dialect.name]


def check(engine: Engine) -> None:
    """Refuse a damaged database, or one that another session writes."""
    _dialect(engine).check(engine)


def insert_missing(connection: Connection, table: Table) -> Insert:
    """Return an insert that leaves out what is there already."""
    if connection.dialect.name == "sqlite":
        return sqlite_dialect.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def insert_many(connection: Connection, table: Table, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows of the columns named."""
    if rows:
        insert_columns(connection, table, names, [*zip(*rows, strict=True)])


def insert_columns(connection: Connection, table: Table, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Insert rows, one at least, that are given by column, past what SQLAlchemy does for each value: the journal's fast way.

    Raises
    ------
    IntegrityError
        Of SQLAlchemy: one of them is there already.
    """
    _dialect(connection.engine).insert_columns(connection, table.name, names, columns)


def fails_quietly(connection: Connection) -> bool:
    """Say whether an insert that fails is nobody's but ours to know: PostgreSQL writes the values to its server's log."""
    return connection.dialect.name == "sqlite"


def of_keys(dialect: str, query: Select[Any], column: Column[Any]) -> Select[Any]:
    """Return the query for rows that have one of the keys, of which there is at most one each: its parameter `keys`.

    PostgreSQL is told to look each of them up: it knows too little of a table that grows to find that by itself.
    """
    if dialect == "sqlite":  # one parameter: SQLAlchemy takes a microsecond for each
        return query.where(column.in_(select(func.json_each(bindparam("keys")).table_valued("value").c.value)))
    wanted = bindparam("keys", type_=postgresql.ARRAY(Text))
    asked = func.unnest(wanted).table_valued("key").render_derived()
    found = query.where(column == asked.c.key).limit(1).lateral()
    return select(found).select_from(asked).join(found, true())


def keys_of(dialect: str, keys: Sequence[str]) -> Any:
    """Return the parameter of such a query."""
    return canonical(list(keys)) if dialect == "sqlite" else list(keys)


def scrub(connection: Connection) -> str | None:
    """Rewrite the database, so that what was deleted can be read no more; return what went wrong, to be tried again."""
    undone: str | None = _dialect(connection.engine).scrub(connection)
    return undone


def scrubbed(engine: Engine) -> str:
    """Return what a certificate says of the disk after `scrub`."""
    return str(_dialect(engine).SCRUBBED)


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


def upgrade(engine: Engine, revision: str = "head") -> tuple[str | None, str]:
    """Bring the store's schema to this adaptd's, in one transaction; return the revisions before and after.

    `revision`: to an earlier one, for a copy of a store that has it.

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
            command.upgrade(config, revision)
    except SQLAlchemyError as error:
        raise CannotStart(f"the store's schema could not be brought to {head_revision()!r}: {error.__cause__ or error}",
                          hint="the store is as it was; free some space or mend what is wrong, then try again") from error
    return before, head_revision()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the state folder's lock; it goes with the process, and children do not inherit it.

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
        self._engine, self._dialect = engine, _dialect(engine)
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

    def ahead(self, count: int) -> range:
        """Return the next so many; they are given once they are taken, in the same operation."""
        return range(self._seq + 1, self._seq + count + 1)

    def take(self, seqs: range) -> None:
        """Give those that were looked ahead at."""
        assert seqs.start == self._seq + 1
        self._seq = seqs[-1]

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
        """Rewrite the database: what was deleted is on its disk no more; return what went wrong."""
        done: Future[str | None] = Future()

        def rewrite(connection: Connection) -> None:
            self.beat = math.inf  # it takes as long as the database is large
            settle(done, scrub(connection))

        self.submit(lambda connection: connection, after=rewrite)
        return done

    @property
    def scrubbed(self) -> str:
        """What a certificate says of the disk after `scrub`."""
        return scrubbed(self._engine)

    @property
    def waiting(self) -> int:
        """Events that wait to be committed."""
        return self._waiting.total()

    def close(self) -> None:
        """Commit what is queued, end the thread."""
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
                    self._dialect.rest(connection)
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
            self._dialect.leave(connection)

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
            self._fail(group, self._dialect.lost(connection) or error)
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
            self._dialect.rest(connection)

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
