"""Retention: old versions that nobody goes back to lose their files; their rows stay and say so.

Only versions that were saved before a rollback or promotion, and candidates that no gate promoted, grow old: never the
live version, the ancestors that a rollback without a number walks to, or a snapshot. Invariant: the mark commits
before a file goes, so that no row ever names a file that is gone; what a crash leaves the next turn takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, update

from adaptd import registry
from adaptd import tables as t
from adaptd.history import act, last_seq
from adaptd.records import canonical
from adaptd.registry import EXPIRED, Version

DAY_S = 86_400.0


def outlived(connection: Connection, domain: int, keep: int, keep_days: float, now: float) -> list[Version]:
    """Return the versions of a domain that are beyond the newest `keep` of their kind, or older than `keep_days`."""
    versions = {one.number: one for one in registry.versions(connection, domain)}
    spared = _line(versions, registry.live(connection, domain).version)
    mortal = [one for one in versions.values() if _mortal(one) and one.number not in spared and EXPIRED not in one.metrics]
    mortal.sort(key=lambda one: -one.number)
    return [one for place, one in enumerate(mortal) if place >= keep or one.created < now - keep_days * DAY_S]


def _mortal(version: Version) -> bool:
    decision = (version.verdict or {}).get("decision")
    return version.kind == "saved" or (version.kind == "candidate" and decision != "promote" and not registry.was_live(version))


def _line(versions: Mapping[int, Version], number: int | None) -> set[int]:
    """Return a version and its ancestors."""
    line: set[int] = set()
    while number is not None and number in versions:
        line.add(number)
        number = versions[number].parent
    return line


def mark(connection: Connection, domain: int, gone: Sequence[Version], now: float) -> None:
    """Take the files out of the rows, and write the history, in the caller's transaction."""
    for one in gone:
        connection.execute(update(t.version).where(t.version.c.number == one.number)
                           .values(files="{}", metrics=canonical({**one.metrics, EXPIRED: now})))
    act(connection, last_seq(connection), domain, "expire", "adaptd", "older than [versions] keeps",
        detail={"versions": [one.number for one in gone]})


def sweep(connection: Connection, domain: int, folder: Path) -> None:
    """Remove the folders of a domain's marked versions; the marks are committed."""
    for one in registry.versions(connection, domain):
        if EXPIRED in one.metrics:
            registry.withdraw(folder / str(one.number))
