"""Versions and the pointer to the live one. A version is a row here and a folder of hashed safetensors files.

Every function takes a connection, so the caller decides the transaction: the running daemon passes them to the
writer, a command on a stopped store opens one itself under the store's lock.

Invariant: files are written, fsynced, renamed and the folder fsynced before the row that names them commits
(`publish`); the pointer `live` moves in the transaction that also writes the history line.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Insert, func, insert, select, update

from adaptd import chain
from adaptd import tables as t
from adaptd.errors import CorruptFile, NotFound, Refused
from adaptd.history import act, last_seq
from adaptd.records import canonical

EXPIRED = "expired"  # in a version's metrics: when retention took its files


@dataclass(frozen=True, kw_only=True)
class Version:
    """One row of `version`."""

    number: int
    domain: int
    kind: str
    parent: int | None
    branch: int
    seq: int
    encoder: str
    config: str
    files: Mapping[str, str]
    metrics: Mapping[str, Any]
    verdict: Mapping[str, Any] | None
    actor: str
    reason: str
    created: float

    @property
    def solved(self) -> bool:
        """Whether its heads were solved over its own rows; those of a moment may be an earlier version's."""
        return not self.metrics.get("moment", {}).get("behind")

    @property
    def trails(self) -> bool:
        """Whether its heads answered while their sums were made again, and are to be solved when these are there."""
        return bool(self.metrics.get("trails"))

    @property
    def folded(self) -> int:
        """Return the seq up to which its files and figures have folded outcomes; those of a moment are an earlier version's."""
        return int(self.metrics.get("moment", {}).get("folded", self.seq))


@dataclass(frozen=True, kw_only=True)
class Live:
    """The pointer of a domain: the version, the branch it grows on, since when."""

    version: int
    branch: int
    since: float


def domain_id(connection: Connection, name: str) -> int | None:
    """Return the id of a domain that the store knows."""
    return connection.scalar(select(t.domain.c.id).where(t.domain.c.name == name))


def live(connection: Connection, domain: int) -> Live:
    """Return the pointer of a domain."""
    row = connection.execute(select(t.live).where(t.live.c.domain == domain)).one()
    return Live(version=row.version, branch=row.branch, since=row.since)


def version(connection: Connection, number: int, domain: int | None = None) -> Version:
    """Return a version.

    Raises
    ------
    NotFound
        There is no such version (in that domain).
    """
    row = connection.execute(select(t.version).where(t.version.c.number == number)).one_or_none()
    if row is None or (domain is not None and row.domain != domain):
        raise NotFound(f"there is no version {number} here", field="to", hint="adaptd history lists the versions")
    return _version(row)


def versions(connection: Connection, domain: int) -> list[Version]:
    """Return all versions of a domain, oldest first."""
    query = select(t.version).where(t.version.c.domain == domain).order_by(t.version.c.number)
    return [_version(row) for row in connection.execute(query)]


def note_export(connection: Connection, domain: int, number: int, to: str, actor: str) -> None:
    """Write into the history where a version is exported to: a forget names the copies that may hold what it removed.

    Raises
    ------
    NotFound
        There is no such version in that domain.
    """
    detail = {"to": to, "seq": version(connection, number, domain).seq}
    act(connection, last_seq(connection), domain, "export", actor, "", after=number, detail=detail)


def _version(row: Any) -> Version:
    return Version(number=row.number, domain=row.domain, kind=row.kind, parent=row.parent, branch=row.branch, seq=row.seq,
                   encoder=row.encoder, config=row.config, files=json.loads(row.files), metrics=json.loads(row.metrics),
                   verdict=json.loads(row.verdict) if row.verdict else None, actor=row.actor, reason=row.reason,
                   created=row.created)


def next_number(connection: Connection) -> int:
    """Return the next version number; numbers are unique in the store."""
    return (connection.scalar(select(func.coalesce(func.max(t.version.c.number), 0))) or 0) + 1


def create_domain(connection: Connection, name: str, encoder: str, config: str) -> tuple[int, Version]:
    """Enter a new domain with its empty first version, live at once."""
    seq, now = last_seq(connection), time.time()
    domain = inserted(connection, insert(t.domain).values(name=name))
    branch = inserted(connection, insert(t.branch).values(domain=domain, fork=0, start=seq))
    first = Version(number=next_number(connection), domain=domain, kind="initial", parent=None, branch=branch, seq=seq,
                    encoder=encoder, config=config, files={}, metrics={}, verdict=None, actor="adaptd",
                    reason="a fresh store", created=now)
    add(connection, first)
    connection.execute(insert(t.live).values(domain=domain, version=first.number, branch=branch, since=now))
    act(connection, seq, domain, "created", "adaptd", first.reason, after=first.number)
    return domain, first


def add(connection: Connection, new: Version) -> None:
    """Enter a version whose files are published."""
    values = {**new.__dict__, "files": canonical(new.files), "metrics": canonical(new.metrics),
              "verdict": None if new.verdict is None else canonical(new.verdict),
              "chain": canonical(chain.head(connection).shown())}
    connection.execute(insert(t.version).values(**values))


def add_missing(connection: Connection, new: Version) -> None:
    """Enter a version unless it is there: a moment is entered in the transaction that points to it."""
    if connection.scalar(select(t.version.c.number).where(t.version.c.number == new.number)) is None:
        add(connection, new)


def point(connection: Connection, domain: int, number: int, branch: int, what: str, actor: str, reason: str,
          detail: Mapping[str, Any] | None = None) -> None:
    """Move the pointer and write the history, in the caller's transaction."""
    before = live(connection, domain).version
    connection.execute(update(t.live).where(t.live.c.domain == domain).values(version=number, branch=branch, since=time.time()))
    act(connection, last_seq(connection), domain, what, actor, reason, before=before, after=number, detail=detail)


def fork(connection: Connection, target: Version) -> int:
    """Start a branch whose state is the target's; what is learned from now on grows on it. O(1) writes."""
    values = {"domain": target.domain, "parent": target.branch, "fork": target.seq, "start": last_seq(connection)}
    return inserted(connection, insert(t.branch).values(**values))


def inserted(connection: Connection, statement: Insert) -> int:
    """Run an insert and return the new row's id."""
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return int(key[0])


def rollback_target(connection: Connection, domain: int) -> Version:
    """Return one step back: the live version if anything was learned since it, else its parent.

    Raises
    ------
    NotFound
        The live version is the first one and nothing was learned since.
    """
    pointer = live(connection, domain)
    current = version(connection, pointer.version)
    start = connection.execute(select(t.branch.c.start).where(t.branch.c.id == pointer.branch)).scalar_one()
    since = max(current.seq, start)  # rows born between the fork and the branch's start were discarded, not learned
    if connection.scalar(select(func.count()).where(t.learned.c.domain == domain, t.learned.c.born > since)):
        return current
    if current.parent is None:
        raise NotFound("there is nothing to roll back to", field="to", hint="adaptd history lists the versions")
    return version(connection, current.parent)


def check_kept(target: Version) -> None:
    """Refuse a version whose files retention took.

    Raises
    ------
    Refused
        They are gone.
    """
    if EXPIRED in target.metrics:
        raise Refused(f"version {target.number} is older than [versions] keeps: its files are gone", field="to",
                      hint="choose another: adaptd versions; a backup from before has it")


def check_restorable(target: Version) -> None:
    """Refuse to roll back to a candidate that was never live, which would go around its gate, or to a retired version.

    Raises
    ------
    Refused
        It was never live, its files are gone, or its adapter was trained on what was forgotten.
    """
    check_kept(target)
    check_not_retired(target)
    if target.kind == "candidate" and not was_live(target):
        decision = (target.verdict or {}).get("decision")
        raise Refused(f"version {target.number} is a candidate that was never live (its gate said {decision})", field="to",
                      hint="adaptd promote N --force --reason … makes it live over the present memory")


def check_not_retired(target: Version) -> None:
    """Refuse a version whose adapter was trained on a record that was forgotten.

    Raises
    ------
    Refused
        It was.
    """
    if target.metrics.get("retired"):
        raise Refused(f"version {target.number} is retired: its adapter was trained on a record that was forgotten", field="to",
                      hint="adaptd versions lists those that did not see it; adapt again for one that has learned the rest")


def was_live(target: Version) -> bool:
    """Say whether a version was ever live: then it holds a head, or held one until a record was forgotten."""
    return "resolved" in target.metrics or any(name.endswith(".head") for name in target.files)


def publish(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Write a folder atomically and durably; return the sha256 of each file.

    With `facts` a `manifest.json` of facts and digests is written beside the files.

    Each file is written below a temporary folder and fsynced; then the folder is fsynced, renamed, and its parent
    fsynced. A power cut leaves the whole folder or none under its name.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {} if facts is None else {"manifest.json": canonical({"facts": facts, "files": digests}).encode()}
    for name, data in {**files, **manifest}.items():
        _write(temporary / name, data)
    sync_folder(temporary)
    withdraw(folder)
    os.rename(temporary, folder)
    sync_folder(folder.parent)
    return digests


def withdraw(folder: Path) -> None:
    """Remove a folder so that a crash leaves the whole of it, or nothing under its name; done again, what is left goes."""
    hidden = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


def complete(folder: Path, named: Mapping[str, str], files: Mapping[str, bytes]) -> dict[str, str]:
    """Add files to a version's folder durably; return the sha256 of each file, those `named` before included.

    What the version's row names is not touched: until the row names the new files too, the folder is the old version's.
    """
    digests = dict(named)
    for name in sorted(files.keys() - named.keys()):
        _write(folder / f".{name}.tmp", files[name])
        os.rename(folder / f".{name}.tmp", folder / name)
        digests[name] = hashlib.sha256(files[name]).hexdigest()
    sync_folder(folder)
    return digests


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    """Read a version's files and check each against its digest.

    Raises
    ------
    CorruptFile
        A file is missing or is not the one that was hashed.
    """
    found = {}
    for name, digest in files.items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise CorruptFile(f"{folder / name}: {error.strerror}", hint="the newest sound version is served") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptFile(f"{folder / name} does not match its digest", hint="the newest sound version is served")
        found[name] = data
    return found


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
