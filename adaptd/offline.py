"""What works on a stopped daemon's store, under its lock: rollback, forget, backup, the schema brought up to date; and a look.

Where: beside the daemon, on the same registry functions; the model is never loaded. Raises `StoreLocked` when a
daemon holds the store, `NotRunning` when there is no store.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select

from adaptd import backup, config, db, describe, erase, mirror, moments, registry, storecopy
from adaptd import tables as t
from adaptd import tokens as kept
from adaptd.config import DomainSettings
from adaptd.errors import CorruptFile, SchemaMismatch, UnknownDomain
from adaptd.history import last_seq
from adaptd.moments import ADAPTER, HEAD
from adaptd.paths import Paths
from adaptd.redact import redactor
from adaptd.rows import lineage, replay
from adaptd.selector import Selector
from adaptd.status import check_there


def rollback(paths: Paths, domain: str, to: int | None, reason: str, actor: str, at: float | None = None) -> dict[str, int]:
    """Move a domain's pointer back; save what was live first; put learning on hold. All in one transaction.

    With `at` the state of that moment is entered as a version; the daemon solves its heads when it starts.

    Raises
    ------
    NotFound
        There is no such version, no such moment, or nothing to roll back to.
    CorruptFile
        A file of the version does not match its digest.
    """
    with _store(paths) as engine, engine.begin() as connection:
        _wanted_schema(connection)
        number = _domain(connection, domain)
        target = _target(connection, paths, number, to, at, actor)
        registry.read(paths.versions / str(target.number), target.files)
        registry.add_missing(connection, target)
        saved = _save(connection, paths, domain, target, actor)
        branch = registry.fork(connection, target)
        registry.point(connection, number, target.number, branch, "rollback", actor, reason, detail={"saved": saved})
        _hold(connection, number, reason or "rollback")
        return {"version": target.number, "saved": saved}


def _target(connection: Connection, paths: Paths, domain: int, to: int | None, at: float | None, actor: str) -> registry.Version:
    if at is not None:
        moment = moments.find(connection, domain, at)
        return moments.enter(connection, moment, paths.versions, registry.next_number(connection), actor)
    target = registry.rollback_target(connection, domain) if to is None else registry.version(connection, to, domain)
    registry.check_restorable(target)
    return target


def back_up(paths: Paths, file: Path, actor: str, *, force: bool) -> dict[str, Any]:
    """Write a backup of a stopped store, whatever its schema; return what it holds."""
    check_there(paths.store)
    with _locked(paths) as engine:
        done = backup.write(paths, file, force=force)
        with engine.begin() as connection:
            if db.current_revision(connection) == db.head_revision():
                backup.note(connection, done, actor)
        return done


def forget(paths: Paths, domain: str, selector: Selector, reason: str, actor: str) -> dict[str, Any]:
    """Forget events: out of the tables and the files now; the next start makes the folds again from what is left.

    Raises
    ------
    NotFound
        There is no such event.
    """
    with _store(paths) as engine, engine.connect() as connection:
        with connection.begin():
            _wanted_schema(connection)
            number = _domain(connection, domain)
            selector = _named(connection, paths, domain, selector)
            erased = erase.erase(connection, number, selector, reason, actor)
            shutil.rmtree(paths.jobs, ignore_errors=True)  # an adaptation that would go on has read what is forgotten
            pending = erase.pending(connection, number) if erased.events else None
        checks: dict[str, Any] = {}
        if pending is not None:
            erase.remove_files(paths, domain, pending["files"])
            left = sum((paths.versions / file).exists() for file in pending["files"])
            checks = {"files": {"removed": len(pending["files"]), "left": left},
                      "disk": db.scrub(connection) or db.scrubbed(engine)}
        with connection.begin():
            checks |= {"tables": erase.left(connection, number)} if checks else {}
            certificate = erase.certify(connection, [erased.action], checks)
    return {**certificate, "asked": selector.asked()}


def _named(connection: Connection, paths: Paths, domain: str, selector: Selector) -> Selector:
    """Return the selector with names as the journal has them, where the domain is redacted."""
    settings = config.load(paths.config)[0].served().get(domain, DomainSettings())
    key = bytes.fromhex(connection.scalar(select(t.store.c.value).where(t.store.c.key == "hmac")) or "")
    policy = redactor(settings.redact, key, f"domains.{domain}.redact")
    return selector if policy is None else selector.named(policy.named)


def note_export(paths: Paths, domain: str, number: int, to: str, actor: str) -> None:
    """Write into the history where a version is exported to."""
    with _store(paths) as engine, engine.begin() as connection:
        _wanted_schema(connection)
        registry.note_export(connection, _domain(connection, domain), number, to, actor)


def create_token(paths: Paths, name: str, actor: str, *, roles: Collection[str], domains: Collection[str] | None,
                 source: str | None, expires: float | None) -> dict[str, Any]:
    """Make a token; return it, which is not kept, with what it allows."""
    with _store(paths) as engine, engine.begin() as connection:
        _wanted_schema(connection)
        token, made = kept.create(connection, last_seq(connection), actor, name, roles=roles, domains=domains, source=source,
                                  expires=expires)
        return {"token": token, **made}


def revoke_token(paths: Paths, name: str, reason: str, actor: str) -> dict[str, Any]:
    """End a token."""
    with _store(paths) as engine, engine.begin() as connection:
        _wanted_schema(connection)
        return kept.revoke(connection, last_seq(connection), actor, name, reason)


def tokens(paths: Paths) -> dict[str, Any]:
    """Return all tokens; needs no lock."""
    check_there(paths.store)
    with db.reading_engine(paths.store).connect() as connection:
        _wanted_schema(connection)
        return {"tokens": kept.listed(connection)}


def upgrade(paths: Paths) -> tuple[str | None, str]:
    """Bring the schema of a stopped store to this adaptd's, also of one that never ran; return before and after."""
    with _locked(paths) as engine:
        return db.upgrade(engine)


def copy(paths: Paths, url: str, advance: Callable[[int], None]) -> dict[str, Any]:
    """Copy a stopped store to another database; return what was copied."""
    target = storecopy.target_of(url)
    with _store(paths) as engine:
        with engine.begin() as connection:
            _wanted_schema(connection)
        return storecopy.copy(paths, target, advance)


def revisions(paths: Paths) -> tuple[str | None, str]:
    """Return the store's schema revision and the one that this adaptd wants; needs no lock."""
    check_there(paths.store)
    engine = db.reading_engine(paths.store)
    with engine.connect() as connection:
        return db.current_revision(connection), db.head_revision()


def version(paths: Paths, domain: str, number: int) -> dict[str, Any]:
    """Return one version in full; needs no lock."""
    return _read(paths, domain, describe.version, number)


def difference(paths: Paths, domain: str, one: int, other: int) -> dict[str, Any]:
    """Return what one version has more and less than another; needs no lock."""
    return _read(paths, domain, describe.difference, one, other)


def _read(paths: Paths, domain: str, query: Callable[..., dict[str, Any]], *about: int) -> dict[str, Any]:
    with reading(paths, domain) as (connection, number):
        return {"state": "stopped", **query(connection, number, *about)}


@contextmanager
def reading(paths: Paths, domain: str) -> Iterator[tuple[Connection, int]]:
    """Give a read-only connection and the domain's id; needs no lock, so the daemon may run."""
    check_there(paths.store)
    with db.reading_engine(paths.store).connect() as connection:
        _wanted_schema(connection)
        yield connection, _domain(connection, domain)


def _domain(connection: Connection, name: str) -> int:
    number = registry.domain_id(connection, name)
    if number is None:
        raise UnknownDomain(f"the store has no domain {name!r}", hint="adaptd status lists them")
    return number


@contextmanager
def _store(paths: Paths) -> Iterator[Engine]:
    check_there(paths.store)
    with _locked(paths) as engine:
        if paths.url is not None:
            with engine.begin() as connection:
                _wanted_schema(connection)
        mirror.attach(engine, paths)
        yield engine


@contextmanager
def _locked(paths: Paths) -> Iterator[Engine]:
    with db.locked(paths.lock):
        engine = db.writing_engine(paths.store)
        try:
            yield engine
        finally:
            engine.dispose()


def _wanted_schema(connection: Connection) -> None:
    """Refuse a store that this adaptd would write wrongly."""
    found, wanted = db.current_revision(connection), db.head_revision()
    if found != wanted:
        raise SchemaMismatch(f"the store's schema is {found!r}; this adaptd wants {wanted!r}",
                             hint="adaptd db upgrade, or install the adaptd that wrote it")


def _save(connection: Connection, paths: Paths, domain: str, target: registry.Version, actor: str) -> int:
    """Name the live state as a version: adapters and solved heads are copied; a head that is not there is made anew."""
    pointer = registry.live(connection, target.domain)
    current = registry.version(connection, pointer.version)
    number = registry.next_number(connection)
    folder, manifest = _checkpoint(paths.checkpoints / domain, pointer)
    base = manifest["facts"]["seq"] if manifest else current.seq
    behind = replay(connection, target.domain, lineage(connection, pointer.branch), base)  # what neither head nor folds know
    files = {name: digest for name, digest in current.files.items() if name.endswith(ADAPTER)}
    try:
        found = registry.read(paths.versions / str(current.number), files)
        if manifest and not behind:
            found |= registry.read(folder, {name: d for name, d in manifest["files"].items() if name.endswith(HEAD)})
        if found:
            files = registry.publish(paths.versions / str(number), found)
    except CorruptFile:
        pass  # one rolls back to get away from it; the saved version keeps the digests, so it is refused as unsound
    folds = manifest["facts"]["folds"] if manifest else current.metrics.get("folds")
    registry.add(connection, registry.Version(
        number=number, domain=target.domain, kind="saved", parent=current.number, branch=pointer.branch,
        seq=last_seq(connection), encoder=current.encoder, config=current.config, files=files,
        metrics={"folds": folds} if folds and not behind else {}, verdict=None, actor=actor,
        reason=f"before rollback to {target.number}", created=time.time()))
    return number


def _checkpoint(checkpoints: Path, pointer: registry.Live) -> tuple[Path, dict[str, Any]]:
    """Return the newest checkpoint of the live state and its manifest, which is empty when there is none."""
    for folder in sorted(checkpoints.glob("[0-9]*"), key=lambda p: -int(p.name)):
        try:
            manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
            facts = manifest["facts"]
            if (facts["branch"], facts["version"]) == (pointer.branch, pointer.version) and facts["folds"] and manifest["files"]:
                return folder, manifest
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: an older one, or the version's own figures, will do
    return checkpoints, {}


def _hold(connection: Connection, domain: int, reason: str) -> None:
    """Keep learning on hold until `resume`, else a poisoned feed relearns the poison at once."""
    key = {"domain": domain, "what": "learning", "source": ""}
    connection.execute(delete(t.hold).where(*(t.hold.c[name] == value for name, value in key.items())))
    connection.execute(insert(t.hold).values(**key, since=time.time(), reason=reason))
