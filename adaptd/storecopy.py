"""Copy a store from one database to another: SQLite's file to PostgreSQL, PostgreSQL to SQLite's file.

Whole or not at all: one snapshot of the source, one transaction on the target, then counts and the journal's chain of
both are compared. In pages by primary key, so that memory is constant. `adaptd.backup` makes its copy of a store in
PostgreSQL with it, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Table, insert, text, update

from adaptd import db, mirror, registry
from adaptd import tables as t
from adaptd.errors import BadName, Conflict, StoreFailed
from adaptd.paths import SCHEMES, Paths
from adaptd.status import Statements, is_there, open_store
from adaptd.verify import verify

PAGE = 1000  # rows
FEW = 8  # rows of a table whose rows may have megabytes
SQLITE = "sqlite:///"
Counts = dict[str, int]
Advance = Callable[[int], None]


def target_of(url: str) -> Path | str:
    """Return where a URL leads: to PostgreSQL, or to SQLite's file.

    Raises
    ------
    BadName
        To neither.
    """
    if url.startswith(SCHEMES):
        return url
    if url.startswith(SQLITE) and len(url) > len(SQLITE):
        return Path(url.removeprefix(SQLITE)).absolute()
    raise BadName("that is no database's URL", field="--to",
                  hint="postgresql://USER@HOST/DATABASE, or sqlite:///FOLDER/adaptd.db (sqlite://// for an absolute path)")


def total(store: Path | str) -> int:
    """Return how many rows there are to copy."""
    with closing(open_store(store)) as source:
        return sum(_counts(source, [table.name for table in t.metadata.sorted_tables if table is not t.file]).values())


def copy(paths: Paths, target: Path | str, advance: Advance = lambda rows: None) -> dict[str, Any]:
    """Copy a stopped store; the caller holds its lock. Return what was copied.

    Raises
    ------
    Conflict
        There is a store already.
    StoreFailed
        What arrived is not what was there; nothing is left of it.
    """
    if is_there(target):
        raise Conflict("there is a store already", field="--to", hint="name an empty database, or a file that is not there")
    if isinstance(target, Path):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = db.writing_engine(target)
    try:
        with closing(open_store(paths.store)) as source:
            counts = copy_rows(source, engine, db.head_revision(), advance)
            files = _copy_files(paths, target, engine)
        if isinstance(target, Path):
            target.chmod(0o600)
        return {"rows": counts, "files": files, **_compare(paths.store, target)}
    except BaseException:
        _drop(engine)
        raise
    finally:
        engine.dispose()


def copy_rows(source: Statements, engine: Engine, revision: str, advance: Advance) -> Counts:
    """Copy one moment's rows, those of table `file` apart, to an empty database; return how many of each table."""
    db.upgrade(engine, revision)
    counts: Counts = {}
    with _moment(source), engine.begin() as connection:
        known = MetaData()
        known.reflect(connection)
        for table in known.sorted_tables:
            if table.name in ("alembic_version", t.file.name):
                continue
            connection.execute(table.delete())  # what a migration enters is the source's to say
            counts[table.name] = 0
            for rows in _pages(source, table, FEW if table.name == t.blob.name else PAGE):
                _enter(connection, table, rows)
                counts[table.name] += len(rows)
                advance(len(rows))
            _parents(connection, source, table)
            _go_on(connection, source, table)
    return counts


@contextmanager
def _moment(source: Statements) -> Iterator[None]:
    source.execute("BEGIN")
    try:
        yield
    finally:
        source.rollback()


def _pages(source: Statements, table: Table, size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows as dictionaries, in the order of its key."""
    names = [column.name for column in table.columns]
    key = [column.name for column in table.primary_key.columns]
    after: Sequence[Any] = ()
    while True:
        behind = f"WHERE ({_list(key)}) > ({', '.join('?' * len(key))})" if after else ""
        query = f"SELECT {_list(names)} FROM {_list([table.name])} {behind} ORDER BY {_list(key)} LIMIT {size}"  # noqa: S608
        rows = [dict(zip(names, row, strict=True)) for row in source.execute(query, after)]
        if rows:
            yield rows
            after = [rows[-1][name] for name in key]
        if len(rows) < size:
            return


def _list(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _own(table: Table) -> list[str]:
    """Return the columns that refer to the table itself."""
    return [key.parent.name for key in table.foreign_keys if key.column.table is table]


def _enter(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; what refers to others of the same table comes in the end, when all are there."""
    empty = dict.fromkeys(_own(table))
    connection.execute(insert(table), [{**row, **empty} for row in rows])


def _parents(connection: Connection, source: Statements, table: Table) -> None:
    key = next(iter(table.primary_key.columns))
    for name in _own(table):
        for row in source.execute(f"SELECT {_list([key.name, name])} FROM {_list([table.name])}"  # noqa: S608
                                  f" WHERE {_list([name])} IS NOT NULL"):
            connection.execute(update(table).where(key == row[0]).values({name: row[1]}))


def _go_on(connection: Connection, source: Statements, table: Table) -> None:
    """Let ids that the database gives go on behind the last one that was given."""
    key = list(table.primary_key.columns)
    if connection.dialect.name == "postgresql":
        default: Any = key[0].server_default
        if len(key) == 1 and default is not None and "nextval" in str(default.arg):
            last = max(_given(source, table), 1)
            connection.execute(text("SELECT setval(pg_get_serial_sequence(:table, :key), :last)"),
                               {"table": f'"{table.name}"', "key": key[0].name, "last": last})
    elif table.name == t.dead.name and (last := _given(source, table)):  # the one whose ids are never given twice
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), {"table": table.name})
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :last)"),
                           {"table": table.name, "last": last})


def _given(source: Statements, table: Table) -> int:
    """Return the last id that a table has given, as far as its database knows."""
    key = next(iter(table.primary_key.columns)).name
    last = source.execute(f"SELECT coalesce(max({_list([key])}), 0) FROM {_list([table.name])}").fetchone()[0]  # noqa: S608
    if table.name == t.dead.name:
        noted = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?" if _is_sqlite(source) else
                               "SELECT last_value FROM pg_sequences WHERE schemaname = current_schema()"
                               " AND sequencename LIKE ? || '_id_seq%'", (table.name,)).fetchone()
        last = max(last, (noted[0] or 0) if noted else 0)
    return int(last)


def _is_sqlite(source: Statements) -> bool:
    return isinstance(source, sqlite3.Connection)


def _counts(source: Statements, names: Sequence[str]) -> Counts:
    return {name: source.execute(f"SELECT count(*) FROM {_list([name])}").fetchone()[0] for name in names}  # noqa: S608


# -- the versions' files -------------------------------------------------------------------------------------------


def _copy_files(paths: Paths, target: Path | str, engine: Engine) -> int:
    """Bring the versions' files where the target has them: its tables, or the folder beside its file."""
    with engine.begin() as connection:
        if isinstance(target, str):
            mirror.store(connection, paths.versions)
            return int(connection.scalar(text("SELECT count(*) FROM file")) or 0)
        found = 0
        for number, files in mirror.files(connection).items():
            folder = target.parent / "versions" / str(number)
            mine = paths.versions / str(number)
            contents = registry.read(mine, {name: one for name, one in files.items() if mirror.is_sound(mine / name, one)})
            if contents and folder != mine:
                registry.publish(folder, contents)
            found += len(contents)
        return found


def _compare(source: Path | str, target: Path | str) -> dict[str, Any]:
    """Hold what arrived against what was there."""
    names = [table.name for table in t.metadata.sorted_tables if table is not t.file]
    with closing(open_store(source)) as one, closing(open_store(target)) as other:
        if (was := _counts(one, names)) != (there := _counts(other, names)):
            wrong = next(name for name in names if was[name] != there[name])
            raise StoreFailed(f"table {wrong} has {there[wrong]} rows, and had {was[wrong]}")
        before, after = verify(one).body(), verify(other).body()
    if before != after:
        raise StoreFailed(f"the journal's chain arrived otherwise than it was: {after['head']}, and was {before['head']}")
    return {"chain": after["head"], "holds": after["holds"]}


def _drop(engine: Engine) -> None:
    """Take away what a copy that failed has left: the target was empty."""
    try:
        with engine.begin() as connection:
            known = MetaData()
            known.reflect(connection)
            known.drop_all(connection)
    finally:
        if engine.dialect.name == "sqlite":
            engine.dispose()
            for ending in ("", "-wal", "-shm"):
                Path(f"{engine.url.database}{ending}").unlink(missing_ok=True)
