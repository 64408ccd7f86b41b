"""Mirror: a store in PostgreSQL keeps its versions' files in table `file` too, and a state folder mirrors them.

So whoever takes the store over needs nothing from another's folder. A transaction that changes `version` brings the
table to what the versions name, before it commits: a version is there with its files, or is not, and what a forget or
retention takes goes with it. On SQLite there is nothing to do: the folder and the database are one store.

Checkpoints are not in the tables. A folder's are used while nobody else has written since: each that takes the store
counts its `epoch` up and notes it in its folder; another number there means that they are of an earlier life.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Update, delete, event, insert, select
from sqlalchemy.sql.dml import UpdateBase

from adaptd import registry
from adaptd import tables as t
from adaptd.errors import CannotStart, CorruptFile
from adaptd.paths import Paths

EPOCH = "epoch"
Known = set[tuple[int, str, str]]  # (version, file, digest) that were seen to be sound


def attach(engine: Engine, paths: Paths) -> None:
    """Bring the folder to what the tables say, and from now on the tables to what the folder has; under the store's lock."""
    if paths.url is None:
        return
    with engine.begin() as connection:
        fetch(connection, paths, set())
        _begin_epoch(connection, paths)

    @event.listens_for(engine, "after_execute")
    def _executed(connection: Connection, statement: Any, *_: Any) -> None:
        if isinstance(statement, UpdateBase) and statement.table is t.version:
            connection.info["versions changed"] = True

    @event.listens_for(engine, "commit")
    def _commits(connection: Connection) -> None:
        if connection.info.pop("versions changed", False):
            store(connection, paths.versions)


def store(connection: Connection, versions: Path) -> None:
    """Let table `file` hold what the versions name, from a folder, and nothing else."""
    named = {digest: versions / str(number) / name for number, name, digest in _named(connection)}
    there = set(connection.execute(select(t.file.c.digest)).scalars())
    for digest in sorted(named.keys() - there):
        try:
            data = registry.read(named[digest].parent, {named[digest].name: digest})[named[digest].name]
        except CorruptFile:
            continue  # it was damaged before: the version is refused as unsound, here and anywhere
        connection.execute(insert(t.file).values(digest=digest, data=data))
    for digest in sorted(there - named.keys()):
        connection.execute(delete(t.file).where(t.file.c.digest == digest))


def fetch(connection: Connection, paths: Paths, known: Known) -> None:
    """Let a folder hold the versions' files that the tables have, and nothing else; `known` grows by what is sound.

    Raises
    ------
    CannotStart
        It is not this store's: it has files of versions that the tables do not know, and was never a mirror of them.
    """
    versions = paths.versions
    versions.mkdir(mode=0o700, parents=True, exist_ok=True)
    named = set(_named(connection))
    others = _others(versions, {(str(number), name) for number, name, _ in named})
    if not _mark(paths).exists():
        if others:
            raise CannotStart(f"{others[0]} is none of the store's in PostgreSQL: this state folder is another store's",
                              hint="use a new one; to bring that store to PostgreSQL: adaptd db copy")
        _put(_mark(paths), b"0")
    for number, name, digest in sorted(named - known):
        file = versions / str(number) / name
        if not is_sound(file, digest):
            data = connection.scalar(select(t.file.c.data).where(t.file.c.digest == digest))
            if data is None:
                continue
            _put(file, data)
        known.add((number, name, digest))
    known &= named
    for path in others:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def files(connection: Connection) -> dict[int, dict[str, str]]:
    """Return the digests of the files that versions name, by version and name."""
    found: dict[int, dict[str, str]] = {}
    for number, name, digest in _named(connection):
        found.setdefault(number, {})[name] = digest
    return found


def _named(connection: Connection) -> Iterator[tuple[int, str, str]]:
    """Yield (version, file, digest) of all files that versions name."""
    for row in connection.execute(select(t.version.c.number, t.version.c.files).order_by(t.version.c.number)):
        yield from ((row.number, name, digest) for name, digest in json.loads(row.files).items())


def is_sound(file: Path, digest: str) -> bool:
    """Say whether a file is the one that was hashed."""
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def _put(file: Path, data: bytes) -> None:
    """Write a file whole or not at all; it is checked against its digest when it is read."""
    file.parent.mkdir(mode=0o700, exist_ok=True)
    made = file.with_name(f".{file.name}.tmp")
    made.write_bytes(data)
    os.replace(made, file)


def _others(versions: Path, named: set[tuple[str, str]]) -> list[Path]:
    """Return what is in the folder and named by no version."""
    numbers = {number for number, _ in named}
    found = [folder for folder in versions.iterdir() if folder.name not in numbers]
    return found + [file for folder in versions.iterdir() if folder.name in numbers
                    for file in folder.iterdir() if (folder.name, file.name) not in named]


def _mark(paths: Paths) -> Path:
    """Return the file that says of which epoch a folder's checkpoints are; 0: it has mirrored, and never written."""
    return paths.state / f"adaptd.{EPOCH}"


def _begin_epoch(connection: Connection, paths: Paths) -> None:
    """Count the epoch up; leave checkpoints behind that are older than what another has written."""
    now = connection.scalar(select(t.store.c.value).where(t.store.c.key == EPOCH))
    if _mark(paths).read_text() != now:
        registry.withdraw(paths.checkpoints)
    new = str(int(now or 0) + 1)
    changed: Update = t.store.update().where(t.store.c.key == EPOCH).values(value=new)
    if not connection.execute(changed).rowcount:
        connection.execute(insert(t.store).values(key=EPOCH, value=new))
    _put(_mark(paths), new.encode())  # before the commit: one that fails leaves another number than the store's
