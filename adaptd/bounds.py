"""Bounds: what limits a domain's memory since when, and how far its evictions are recorded.

Where: under the journal. An eviction is a deterministic fold over the journal (`adaptd.retained`); the rows of table
`eviction` are what it came to, each at the seq of the label that it went for, so that memory as of any seq, version or
branch is one query. The note in table `store` says up to which seq that is complete, whatever the branch; what lies
behind is folded again (`adaptd.refold`), with the limits that held at the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from adaptd import db
from adaptd import tables as t
from adaptd.records import canonical

Limits = Mapping[str, Any]  # capacity, per_class, policy, options
NONE: Limits = {"capacity": 0, "per_class": 0}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A domain's note: limits with the seq after which they hold, oldest first; evictions are recorded up to `through`."""

    through: int
    limits: Sequence[tuple[int, Limits]]

    def at(self, seq: int) -> Limits:
        """Return what limits the memory when a row is born at a seq."""
        return next((limits for after, limits in reversed(self.limits) if seq > after), NONE)

    def bound_after(self, seq: int) -> bool:
        """Say whether anything behind a seq may have been evicted."""
        return any(_bounds(limits) for limits in [self.at(seq + 1), *(limits for after, limits in self.limits if after > seq)])


def _bounds(limits: Limits) -> bool:
    return bool(limits["capacity"] or limits["per_class"])


def read(connection: Connection, domain: int) -> Bounds:
    """Return a domain's note."""
    value = connection.scalar(select(t.store.c.value).where(t.store.c.key == _key(domain)))
    found: dict[str, Any] = {"through": 0, "limits": []} if value is None else json.loads(value)
    return Bounds(through=found["through"], limits=[(after, limits) for after, limits in found["limits"]])


def impose(connection: Connection, domain: int, limits: Limits, seq: int) -> Bounds:
    """Let limits hold for what is learned after a seq, unless they hold already."""
    bounds = read(connection, domain)
    now = bounds.limits[-1][1] if bounds.limits else NONE
    if dict(now) == dict(limits) or not (bounds.limits or _bounds(limits)):
        return bounds
    through = bounds.through if bounds.bound_after(bounds.through) else seq  # nothing was evicted where nothing was bound
    return _write(connection, domain, Bounds(through=through, limits=[*bounds.limits, (seq, limits)]))


def record(connection: Connection, domain: int, through: int, evicted: Iterable[tuple[int, int]]) -> None:
    """Record evictions, (row, seq), and that there are no others up to `through`."""
    if rows := [{"row": row, "seq": seq} for row, seq in evicted]:
        connection.execute(db.insert_missing(connection, t.eviction), rows)
    bounds = read(connection, domain)
    if through > bounds.through:
        _write(connection, domain, Bounds(through=through, limits=bounds.limits))


def cut(connection: Connection, domain: int, seq: int) -> None:
    """Take back the evictions from a seq on: what they rested on has changed, and they are to be folded again."""
    mine = select(t.learned.c.id).where(t.learned.c.domain == domain)
    connection.execute(delete(t.eviction).where(t.eviction.c.seq >= seq, t.eviction.c.row.in_(mine)))
    bounds = read(connection, domain)
    if bounds.limits and bounds.through >= seq:
        _write(connection, domain, Bounds(through=seq - 1, limits=bounds.limits))


def _write(connection: Connection, domain: int, bounds: Bounds) -> Bounds:
    connection.execute(delete(t.store).where(t.store.c.key == _key(domain)))
    value = canonical({"through": bounds.through, "limits": [[after, limits] for after, limits in bounds.limits]})
    connection.execute(insert(t.store).values(key=_key(domain), value=value))
    return bounds


def _key(domain: int) -> str:
    return f"memory:{domain}"
