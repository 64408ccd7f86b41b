"""Doctor: what is wrong with a store and its machine, found beside the daemon or without it, and without torch.

`examine` only reads. `repair` takes away what nobody needs or what is made again by itself: orphans, stale jobs,
damaged checkpoints. It makes nothing sound that is not.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from adaptd import config, db, feeds, modelfiles, plugins, postgres, registry
from adaptd.begun import FILE as BEGUN
from adaptd.errors import AdaptdError, BadConfig, CannotStart, CorruptFile, SchemaMismatch, StoreLocked, StoreUnreadable
from adaptd.host import bind, check_folder
from adaptd.interfaces import Examined
from adaptd.newstore import SOCKET_PATH_BYTES
from adaptd.paths import Paths
from adaptd.status import DAMAGED, Statements, is_there, open_store
from adaptd.tomlfile import secret_files
from adaptd.verify import verify

SPARE_BYTES = 256 << 20  # for the WAL and a version, beside room for the database once more
YOUNG_S = 600.0  # beside a daemon what is younger may be on its way into the database
OPEN_FILES = 2048  # fewer are too few for the connections that the daemon takes
SKEW_S = 300.0  # a clock may be wrong by so much
CREDENTIALS = Path("/run/credentials")  # where systemd shows secrets to a service alone
IMPORT_S = 60.0
SOURCE_S = 15.0  # in which a feed's source must say how it is set up
NEXT_START = "nothing is lost: it is made again at the next start; adaptd doctor --repair takes it away"
NOBODY_S = "a crash left it and nothing needs it: adaptd doctor --repair takes it away"
LOAD = "import sys; from importlib.metadata import EntryPoint; EntryPoint(*sys.argv[1:]).load()"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, and its cure."""

    code: str
    message: str
    hint: str
    remove: Path | None = None  # what a repair takes away

    def body(self) -> dict[str, str]:
        """Return what is printed."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


def is_running(paths: Paths) -> bool:
    """Say whether a daemon holds the store."""
    try:
        with db.locked(paths.lock):
            return paths.url is not None and postgres.holder(paths.url) is not None
    except StoreLocked:
        return True
    except (CannotStart, StoreUnreadable):  # found below
        return False


def examine(paths: Paths, given: str | None, *, running: bool) -> list[Finding]:
    """Look at everything; `given` is the configuration as the command line named it."""
    return [*_configuration(given, running), *_machine(paths), *_store(paths, running)]


def repair(paths: Paths, given: str | None) -> tuple[list[Finding], list[Finding]]:
    """Take away what can be, under the store's lock; return what was, and what is still wrong.

    Raises
    ------
    StoreLocked
        A daemon holds the store.
    """
    with db.locked(paths.lock):
        removed = [finding for finding in examine(paths, given, running=False) if finding.remove is not None]
        for finding in removed:
            assert finding.remove is not None
            if finding.remove.is_dir() and not finding.remove.is_symlink():
                shutil.rmtree(finding.remove)
            else:
                finding.remove.unlink()
        return removed, examine(paths, given, running=False)


# -- the configuration and the machine ----------------------------------------------------------------------------


def _configuration(given: str | None, running: bool) -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            settings, paths = config.load(given)
        except BadConfig as error:
            yield Finding(code=error.code, message=error.message, hint=error.hint)
            return
    for one in told:
        yield Finding(code="configuration", message=str(one.message), hint="unset it, or mend its name: adaptd config show")
    yield from around(settings, paths, running=running)
    yield from _plugins(settings.plugins.allow)
    yield from _feeds(settings.feeds, paths.config.parent)


def around(settings: config.Settings, paths: Paths, *, running: bool) -> Iterator[Finding]:
    """Look at what a valid configuration names: secrets, encoders, socket, port."""
    for file in secret_files(paths.config):
        if file.stat().st_mode & 0o077 and not file.is_relative_to(CREDENTIALS):
            yield Finding(code="open_file", message=f"{file} can be read by others, and holds a secret of {paths.config}",
                          hint=f"chmod 600 {file}, and change the secret where others may have read it")
    for name in sorted({domain.encoder for domain in settings.served().values()}):
        encoder = settings.encoders[name]
        if encoder.kind in ("transformers", "image", "audio") and not encoder.options.get("download"):
            try:
                modelfiles.find(str(encoder.options.get("model", modelfiles.MINILM)), download=False)
            except AdaptdError as error:
                yield Finding(code="encoder_missing", message=f"[encoders.{name}]: {error.message}", hint=error.hint)
    if len(os.fsencode(paths.socket)) > SOCKET_PATH_BYTES:
        yield Finding(code="long_path", message=f"{paths.socket} is too long for a unix socket ({SOCKET_PATH_BYTES} bytes)",
                      hint="set state to a folder nearer to the root")
    if settings.http.tcp and settings.http.port and not running:
        try:
            bind(settings.http.host, settings.http.port).close()
        except CannotStart as error:
            yield Finding(code="port_taken", message=error.message, hint=error.hint)


def _feeds(configured: Mapping[str, config.FeedSettings], folder: Path) -> Iterator[Finding]:
    """Ask the sources of built-in feeds whether they lose what they acknowledge; others' code is not run here."""
    kinds = plugins.collect(plugins.load("adaptd", []), "register_feeds")
    for name, settings in configured.items():
        if settings.kind not in kinds:
            continue
        try:
            feed, _ = feeds.build(kinds, name, settings, folder)
            risks = asyncio.run(asyncio.wait_for(feed.risks(), SOURCE_S)) if isinstance(feed, Examined) else []
        except AdaptdError as error:
            yield Finding(code=error.code, message=error.message, hint=error.hint)
        except Exception as error:  # whatever a client library raises when its broker is not there
            yield Finding(code="feed_unreachable", message=f"feed {name}: {str(error) or type(error).__name__}",
                          hint="a daemon tries again by itself; look at the broker, the url and the credentials")
        else:
            for risk in risks:
                yield Finding(code="feed_may_lose", message=f"feed {name}: {risk.message}", hint=risk.hint)


def _plugins(allow: Sequence[str]) -> Iterator[Finding]:
    entries = [entry for group in plugins.SPECS for entry in plugins.installed(group) if entry.dist]
    for name in sorted(set(allow) - {entry.dist.name for entry in entries if entry.dist}):
        yield Finding(code="plugin_missing", message=f"plugin {name!r} is on the allow-list but not installed",
                      hint=f"pip install {name}, or take it off plugins.allow")
    for entry in entries:
        if entry.dist and entry.dist.name in allow and (words := _import_error(entry)):
            yield Finding(code="plugin_error", message=f"plugin {entry.dist.name!r} ({entry.value}) does not load: {words}",
                          hint="mend it, or take it off plugins.allow")


def _import_error(entry: EntryPoint) -> str:
    """Import a plugin in a process of its own, which it may hang or bring torch into; return what went wrong."""
    try:
        done = subprocess.run([sys.executable, "-P", "-c", LOAD, entry.name, entry.value, entry.group], capture_output=True,
                              text=True, timeout=IMPORT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"not within {IMPORT_S:g} s"
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else said[-1] if said else f"exit code {done.returncode}"


def _machine(paths: Paths) -> Iterator[Finding]:
    try:
        check_folder(paths.state)
    except CannotStart as error:
        yield Finding(code="state_folder", message=error.message, hint=error.hint)
    for file, holds in ((paths.token, "lets them in over TCP"), (paths.database, "holds all texts and the store's key")):
        if file.exists() and file.stat().st_mode & 0o077:
            yield Finding(code="open_file", message=f"{file} can be read by others, and {holds}",
                          hint=f"chmod 600 {file}; a token that others have read: remove it, a start makes a new one")
    if (hard := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) != resource.RLIM_INFINITY and hard < OPEN_FILES:
        yield Finding(code="open_files", message=f"a process may have {hard} open files; clients and feeds hold one each",
                      hint=f"raise the limit to {OPEN_FILES}: LimitNOFILE= of the unit, or ulimit -Hn")
    owner = paths.state.stat().st_uid
    if strangers := sorted(str(path) for path in paths.state.rglob("*") if _owner(path, owner) != owner):
        yield Finding(code="owner", message=f"{strangers[0]} belongs to another user than {paths.state}"
                                            + (f", as do {len(strangers) - 1} more" if len(strangers) > 1 else ""),
                      hint=f"a command was run as another user: chown -R --reference={paths.state} {paths.state}")
    size = paths.database.stat().st_size if paths.database.exists() else 0
    if (free := shutil.disk_usage(paths.state).free) < size + SPARE_BYTES:
        yield Finding(code="disk_space", message=f"{free >> 20} MiB are free where {paths.state} is",
                      hint=f"make room: {(size + SPARE_BYTES) >> 20} MiB are for a growing journal, a version and a backup")


def _owner(path: Path, gone: int) -> int:
    """Return whose a file is; beside a daemon files come and go."""
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return gone


# -- the store ------------------------------------------------------------------------------------------------------


def _store(paths: Paths, running: bool) -> Iterator[Finding]:
    """Look at database and files. Where the database cannot be trusted no file is called an orphan."""
    try:
        if not is_there(paths.store):
            if any(paths.versions.glob("*")):
                where = "the database is empty" if paths.url else f"no {paths.database}"
                yield Finding(code="damaged_database", message=f"there are versions, but {where}", hint=DAMAGED)
            return
        with closing(open_store(paths.store)) as store:
            wrong = list(_server(store) if paths.url else _file(store)) or list(_schema(store))
            yield from wrong
            if not wrong:
                yield from _tables(store, paths, running)
    except StoreUnreadable as error:
        yield Finding(code=error.code, message=error.message, hint=error.hint)
    except CannotStart as error:
        yield Finding(code="damaged_database", message=error.message, hint=error.hint)
    except sqlite3.Error as error:
        yield Finding(code="damaged_database", message=f"{paths.database}: {error}", hint=DAMAGED)


def _file(store: Statements) -> Iterator[Finding]:
    found = [row[0] for row in store.execute("PRAGMA quick_check(5)")]
    if found != ["ok"]:
        yield Finding(code="damaged_database", message=f"the database is damaged: {'; '.join(found)}", hint=DAMAGED)


def _server(store: Statements) -> Iterator[Finding]:
    for setting in ("fsync", "full_page_writes"):
        if store.execute("SELECT current_setting(?)", (setting,)).fetchone()[0] != "on":
            yield Finding(code="database_may_lose", message=f"PostgreSQL has {setting} = off: a power cut damages the store",
                          hint=f"ALTER SYSTEM SET {setting} = on, and reload it")


def _schema(store: Statements) -> Iterator[Finding]:
    revision = store.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    try:
        db.check_known(revision)
    except SchemaMismatch as error:
        yield Finding(code=error.code, message=error.message, hint=error.hint)
        return
    if revision != (wanted := db.head_revision()):
        yield Finding(code="schema_mismatch", message=f"the store's schema is {revision!r}; this adaptd wants {wanted!r}",
                      hint="back it up, then: adaptd db upgrade")


def _tables(store: Statements, paths: Paths, running: bool) -> Iterator[Finding]:
    domains = [name for (name,) in store.execute("SELECT name FROM domain")]
    yield from _clock(store)
    yield from _journal(store)
    yield from _rows(store, running)
    yield from _versions(store, paths.versions, running)
    yield from _orphans(store, paths.versions, running)
    yield from _checkpoints(paths.checkpoints, domains, running)
    yield from _jobs(paths, running)


def _clock(store: Statements) -> Iterator[Finding]:
    newest = store.execute("SELECT received FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    if newest is not None and (ahead := newest[0] - time.time()) > SKEW_S:
        yield Finding(code="clock", message=f"the newest event came {ahead / 3600:.1f} hours from now: the clock was set back",
                      hint="set the clock (timedatectl set-ntp true); until then ages and schedules are wrong, the order is not")


def _journal(store: Statements) -> Iterator[Finding]:
    result = verify(store)
    if result.breaks:
        first = result.broken[0]
        yield Finding(code="journal_altered", message=f"the journal's chain does not hold in {result.breaks} places, first at"
                                                      f" seq {first.seq}: {first.message}",
                      hint="adaptd verify names them; a backup from before has what was written")


def _rows(store: Statements, running: bool) -> Iterator[Finding]:
    for name, version in store.execute(
            "SELECT d.name, l.version FROM domain d LEFT JOIN live l ON l.domain = d.id"
            " LEFT JOIN version v ON v.number = l.version WHERE coalesce(v.domain, -1) <> d.id"):
        yield Finding(code="no_live_version", message=f"domain {name!r} points to version {version}, which is none of its own",
                      hint=DAMAGED)
    missing = store.execute("SELECT count(*) FROM learned l WHERE NOT EXISTS"
                            " (SELECT 1 FROM vector v WHERE v.event = l.event AND v.part = l.part)").fetchone()[0]
    if missing and not running:  # beside a daemon they may be on their way
        yield Finding(code="missing_vectors", message=f"{missing} learned rows have no vector",
                      hint="they are encoded anew at the next start, which takes that much longer")
    for digest, few, many in store.execute(
            "SELECT e.digest, min(length(data)), max(length(data)) FROM vector v JOIN encoder e ON e.id = v.encoder"
            " GROUP BY e.id HAVING min(length(data)) <> max(length(data))"):
        yield Finding(code="damaged_vectors", message=f"vectors of encoder {digest[:12]} have from {few} to {many} bytes",
                      hint=DAMAGED)


def _versions(store: Statements, folder: Path, running: bool) -> Iterator[Finding]:
    wrong = _unsound(store, folder)
    if wrong and running:  # a candidate that goes live gets new files and a new row: look again
        wrong = {number: words for number, words in _unsound(store, folder).items() if number in wrong}
    live = dict(store.execute("SELECT l.version, d.name FROM live l JOIN domain d ON d.id = l.domain").fetchall())
    for number, words in wrong.items():
        if number in live:
            yield Finding(code="live_version_unsound", message=f"version {number}, live in domain {live[number]!r}: {words}",
                          hint="its newest sound ancestor answers; roll back to a sound one, or restore the newest backup")
        else:
            yield Finding(code="unsound_version", message=f"version {number}: {words}",
                          hint="a rollback to it is refused; a backup from before may have its files")


def _orphans(store: Statements, folder: Path, running: bool) -> Iterator[Finding]:
    named = {number: set(json.loads(files)) for number, files in store.execute("SELECT number, files FROM version")}
    for path in _entries(folder, running):
        if not path.name.isdecimal() or int(path.name) not in named:
            yield Finding(code="orphan", message=f"{path} belongs to no version", hint=NOBODY_S, remove=path)
            continue
        for file in _entries(path, running):
            if file.name not in named[int(path.name)]:
                yield Finding(code="orphan", message=f"{file} is none of its version's files", hint=NOBODY_S, remove=file)


def _unsound(store: Statements, folder: Path) -> Mapping[int, str]:
    """Return what is wrong with the files of each version where something is."""
    wrong = {}
    for number, files in store.execute("SELECT number, files FROM version ORDER BY number").fetchall():
        for name, digest in json.loads(files).items():
            try:
                registry.read(folder / str(number), {name: digest})
            except CorruptFile as error:
                wrong[number] = error.message
    return wrong


def _checkpoints(folder: Path, domains: Sequence[str], running: bool) -> Iterator[Finding]:
    for path in _entries(folder, running):
        if path.name not in domains:
            yield Finding(code="orphan", message=f"{path} belongs to no domain", hint=NOBODY_S, remove=path)
            continue
        for one in sorted(path.iterdir()):
            if not one.name.isdecimal():
                if one in _entries(path, running):
                    yield Finding(code="orphan", message=f"{one} is half a checkpoint", hint=NOBODY_S, remove=one)
            elif (words := _checkpoint_error(one)) and one.is_dir():  # a daemon may have dropped it meanwhile
                yield Finding(code="damaged_checkpoint", message=words, hint=NEXT_START, remove=one)


def _checkpoint_error(folder: Path) -> str:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for what in ("branch", "seq", "encoder", "version", "folds"):
            manifest["facts"][what]
        registry.read(folder, manifest["files"])
        return ""
    except AdaptdError as error:
        return error.message
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder}: its manifest cannot be read: {error}"


def _jobs(paths: Paths, running: bool) -> Iterator[Finding]:
    daemon = f"-{paths.lock.read_text().strip()}-" if running else None
    for path in sorted(paths.jobs.glob("*")):
        waits = not running and (path / BEGUN).is_file()  # the next start goes on with it
        if not waits and (daemon is None or daemon not in path.name):
            yield Finding(code="stale_job", message=f"{path} is a training job that nobody works on", hint=NOBODY_S, remove=path)


def _entries(folder: Path, running: bool) -> list[Path]:
    """List a folder; beside a daemon only what is old enough to have its row."""
    if not folder.is_dir():
        return []
    young = time.time() - YOUNG_S if running else float("inf")
    return sorted(path for path in folder.iterdir() if os.lstat(path).st_mtime < young)
