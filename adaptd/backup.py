"""Backup: the whole of a store in one file, taken while the daemon serves or from a stopped store; and the way back.

In it: a copy of the database (with it the store's key), the files of every version that the copy names, the
configuration. Not in it: the token and secrets that the configuration names (a new token is made; a backup lies in
more places than a secret should), checkpoints (derived, made again at the first start).

A store in PostgreSQL is copied into a SQLite file, which a restore makes a store of; `adaptd db copy` brings it back.
SQLite's file is copied through its backup API from a read-only connection that stays in one read transaction:
one moment's state, whatever is committed meanwhile. From the writer's connection it would stand between the
group commits; between transactions each commit would make it start again; VACUUM INTO would build every tree anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from sqlalchemy import Connection

from adaptd import __version__, archive, db, registry, storecopy
from adaptd.errors import BadBackup, BadName, Conflict, CorruptFile
from adaptd.history import act, last_seq
from adaptd.newstore import check_folder
from adaptd.paths import CONFIG, Paths
from adaptd.status import NEWEST_SEQ, open_store
from adaptd.tomlfile import line_of
from adaptd.verify import proved

Json = dict[str, Any]
PAGES = 256  # copied at a time; in between the daemon may stop
ATTEMPTS = 4
COUNTS: Mapping[str, str] = {"events": "event", "labels": "label", "learned": "learned", "versions": "version"}
ANOTHER = "take another backup"


def write(paths: Paths, file: Path, *, force: bool = False, go_on: Callable[[], None] = lambda: None) -> Json:
    """Write a backup of a store, verify it, give it its name; return what it holds.

    `go_on` is called now and then and may raise, which ends the work and removes what there is.

    Raises
    ------
    BadName
        The name does not say which kind of archive it is, or lies among the store's own files.
    Conflict
        The file is there and `force` is not given.
    BadBackup
        What was written does not verify; it was removed.
    """
    _check_target(paths, file, force)
    with _beside(file) as scratch:
        made = scratch / file.name
        _take(paths, scratch / paths.database.name, made, go_on)
        (scratch / paths.database.name).unlink()
        done = verify(made, scratch, go_on)
        _check_target(paths, file, force)
        os.replace(made, file)
        registry.sync_folder(file.parent)
    return {**done, "file": str(file)}


def note(connection: Connection, done: Mapping[str, Any], actor: str) -> None:
    """Write a backup into the history: a forget names the files that may still hold what it removed."""
    act(connection, last_seq(connection), None, "backup", actor, "",
        detail={"file": done["file"], "seq": done["seq"], "chain": (done["chain"] or {}).get("head")})


def verify(file: Path, scratch: Path, go_on: Callable[[], None] = lambda: None) -> Json:
    """Unpack a backup in a scratch folder and check it whole, as `restore` does; return what it holds.

    Raises
    ------
    BadBackup
        It is damaged or incomplete.
    SchemaMismatch
        A newer adaptd wrote it.
    """
    folder = scratch / "unpacked"
    folder.mkdir(mode=0o700)
    try:
        return _unpacked(file, folder, go_on)
    finally:
        shutil.rmtree(folder)


def restore(file: Path, folder: Path) -> Json:
    """Make a new store from a backup; return what it holds. A folder with a configuration in it is whole.

    Raises
    ------
    Conflict
        The folder is not empty.
    BadBackup
        The backup is damaged or incomplete; nothing is left in the folder.
    """
    check_folder(folder)
    new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = folder / ".restoring"
    try:
        scratch.mkdir(mode=0o700)
        done = _unpacked(file, scratch)
        (scratch / CONFIG).write_text(at_home((scratch / CONFIG).read_text(encoding="utf-8")), encoding="utf-8")
        _sync(scratch)
        folder.chmod(0o700)
        for entry in sorted(scratch.iterdir(), key=lambda path: path.name == CONFIG):
            os.rename(entry, folder / entry.name)
        scratch.rmdir()
        registry.sync_folder(folder)
        return done
    except BaseException:
        for left in folder.iterdir():  # it was empty
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if new:
            folder.rmdir()
        raise


def at_home(text: str) -> str:
    """Return a configuration whose state lies beside it, in SQLite, wherever it lay before.

    >>> at_home('state = "/var/lib/adaptd"  # far away')
    'state = "."  # before the restore: "/var/lib/adaptd"'
    >>> at_home('[store]\\nurl = "postgresql://db/adaptd"')
    '[store]\\n# before the restore: url = "postgresql://db/adaptd"'
    """
    was = tomllib.loads(text)
    lines, wanted = text.split("\n"), dict(was)
    if (before := was.get("state", ".")) != ".":
        lines[line_of(text, ["state"]) - 1] = f'state = "."  # before the restore: {json.dumps(before)}'
        wanted["state"] = "."
    if "url" in (store := was.get("store", {})):
        number = line_of(text, ["store", "url"]) - 1
        lines[number] = f"# before the restore: {lines[number]}"
        wanted["store"] = {name: value for name, value in store.items() if name != "url"}
    changed = "\n".join(lines)
    try:
        as_wanted = tomllib.loads(changed) == wanted
    except tomllib.TOMLDecodeError:
        as_wanted = False
    if not as_wanted:
        raise BadBackup("the settings `state` and `store.url` of its configuration are not each in one line", field=CONFIG)
    return changed


# -- taking it --------------------------------------------------------------------------------------------------


def _check_target(paths: Paths, file: Path, force: bool) -> None:
    if not file.name.endswith(archive.SUFFIXES):
        raise BadName(f"{file.name!r} is no name for a backup", field="file", hint=f"end it in {', '.join(archive.SUFFIXES)}")
    if any(file.is_relative_to(folder) for folder in (paths.versions, paths.checkpoints, paths.jobs)):
        raise BadName(f"{file} lies among the store's own files", field="file", hint="name another folder")
    if os.path.lexists(file) and not (force and file.is_file()):
        raise Conflict(f"{file} is there already", field="file", hint="name another, or replace it with --force")


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Give a scratch folder on the file's disk; it goes with the work."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        yield scratch
    except (OSError, sqlite3.Error) as error:
        raise BadBackup(f"{file} cannot be written: {getattr(error, 'strerror', None) or error}", field="file",
                        hint="name a file in a folder that this user may write, on a disk with room for two of it") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take(paths: Paths, copy: Path, made: Path, go_on: Callable[[], None]) -> None:
    """Copy the database, then pack it with the files that the copy names.

    A version's folder is replaced when a candidate goes live, so what is not sound at first is looked at again with a
    newer copy; what is not sound twice is so for good, and is left out by name.
    """
    unsound: list[str] | None = None
    for _ in range(ATTEMPTS):
        copy.unlink(missing_ok=True)
        _copy_server(paths.url, copy, go_on) if paths.url else _copy(paths.database, copy, go_on)
        files, wrong = _version_files(copy, paths.versions, go_on)
        if wrong and wrong != unsound:
            unsound = wrong
            continue
        config = paths.config.read_bytes()
        sources: dict[str, Callable[[], IO[bytes]]] = {
            copy.name: partial(io.FileIO, str(copy)), CONFIG: partial(io.BytesIO, config),
            **{name: partial(_sound, paths.state, name, entry["sha256"]) for name, entry in files.items()}}
        entries = {copy.name: _entry(copy), CONFIG: _entry_of(config), **files}
        try:
            facts = {**_facts(copy, go_on), "created": time.time(), "unsound": wrong, "files": entries}
            archive.pack(made, facts, sources, go_on)
            return
        except CorruptFile:
            made.unlink()
    raise Conflict("the store's versions changed all the while", hint="try again when no adaptation or rollback runs")


def _copy(database: Path, copy: Path, go_on: Callable[[], None]) -> None:
    """Copy one moment's state; the writer goes on, and its checkpoints do not wait for this reader."""
    with closing(_reading(database)) as source, closing(sqlite3.connect(copy)) as target:
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("PRAGMA synchronous=OFF")  # what is packed is synced, and verified
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the moment
        source.backup(target, pages=PAGES, progress=lambda *_: go_on())
    copy.chmod(0o600)


def _copy_server(url: str, copy: Path, go_on: Callable[[], None]) -> None:
    """Copy one moment's state out of PostgreSQL into a SQLite file, as every backup has it."""
    with closing(open_store(url)) as source:
        revision = source.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        engine = db.writing_engine(copy)
        try:
            storecopy.copy_rows(source, engine, revision, lambda _: go_on())
        finally:
            engine.dispose()  # the last one to close it brings its WAL into it
    copy.chmod(0o600)


def _reading(database: Path, options: str = "") -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro{options}", uri=True, timeout=5.0, isolation_level=None)


def _version_files(copy: Path, versions: Path, go_on: Callable[[], None]) -> tuple[Json, list[str]]:
    """Return size and digest of each version file that a database names, and the names of those that are not sound."""
    files, wrong = {}, []
    for name, digest in _named(copy).items():
        go_on()
        try:
            data = _sound(versions.parent, name, digest).getvalue()
            files[name] = {"sha256": digest, "size": len(data)}
        except CorruptFile:
            wrong.append(name)
    return files, wrong


def _named(copy: Path) -> dict[str, str]:
    """Return the digests of the version files that a database names."""
    with closing(_reading(copy, "&immutable=1")) as store:
        rows = store.execute("SELECT number, files FROM version ORDER BY number").fetchall()
    return {f"versions/{number}/{name}": digest for number, files in rows for name, digest in json.loads(files).items()}


def _sound(state: Path, name: str, digest: str) -> io.BytesIO:
    file = state / name
    return io.BytesIO(registry.read(file.parent, {file.name: digest})[file.name])


def _entry(file: Path) -> Json:
    with file.open("rb") as data:
        return {"sha256": hashlib.file_digest(data, "sha256").hexdigest(), "size": file.stat().st_size}


def _entry_of(data: bytes) -> Json:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _facts(copy: Path, go_on: Callable[[], None]) -> Json:
    """Return what a database says of itself, for the manifest and against it."""
    with closing(_reading(copy, "&immutable=1")) as store:
        revision = store.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        live = dict(store.execute("SELECT d.name, l.version FROM live l JOIN domain d ON d.id = l.domain").fetchall())
        counts = {what: store.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for what, table in COUNTS.items()}  # noqa: S608
        seq = store.execute(NEWEST_SEQ).fetchone()[0] or 0
        chain = proved(store, go_on)
    return {"adaptd": __version__, "schema": revision, "domains": live, "seq": seq, "counts": counts, "chain": chain}


# -- checking it ------------------------------------------------------------------------------------------------


def _unpacked(file: Path, folder: Path, go_on: Callable[[], None] = lambda: None) -> Json:
    """Unpack a backup, check it whole, and return what it holds."""
    try:
        manifest = archive.unpack(file, folder, go_on)
        _check(manifest, folder, go_on)
    except BadBackup as error:
        raise BadBackup(f"{file.name}: {error.message}", field=error.field, hint=error.hint or ANOTHER) from None
    held = ("adaptd", "schema", "created", "seq", "domains", "counts", "unsound", "chain")
    return {"file": str(file), "bytes": file.stat().st_size, **{what: manifest.get(what) for what in held}}


def _check(manifest: Json, folder: Path, go_on: Callable[[], None]) -> None:
    """Check that the parts of a backup belong together."""
    copy = folder / "adaptd.db"
    if missing := {copy.name, CONFIG} - set(manifest["files"]):
        raise BadBackup(f"it has no {min(missing)}", field=min(missing))
    db.check_known(manifest["schema"])
    try:
        with closing(_reading(copy, "&immutable=1")) as store:
            found = [row[0] for row in store.execute("PRAGMA integrity_check(5)")]
        facts, named = _facts(copy, go_on), _named(copy)
    except (sqlite3.Error, TypeError) as error:
        raise BadBackup(f"its database is damaged: {error}", field=copy.name) from None
    if found != ["ok"]:
        raise BadBackup(f"its database is damaged: {'; '.join(found)}", field=copy.name)
    for what in ("schema", "domains", "seq", "counts", "chain"):
        if facts[what] != manifest.get(what):
            raise BadBackup(f"its database has {what} {facts[what]}, its manifest {manifest.get(what)}", field=what)
    have = {name: entry["sha256"] for name, entry in manifest["files"].items() if name in named}
    if wrong := [name for name, digest in named.items() if have.get(name) != digest and name not in manifest["unsound"]]:
        raise BadBackup(f"{wrong[0]} is not the file that its database names", field=wrong[0])


def _sync(folder: Path) -> None:
    """Make all files and folders below a folder durable."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(Path(parent) / name, "rb") as file:
                os.fsync(file.fileno())
        registry.sync_folder(Path(parent))
