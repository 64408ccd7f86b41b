"""Setting aside: what the tables say of a source that is held by itself. Queries only; the journal decides and writes order.

A quarantined source has two rows in `hold`: `learning`, which is the effect and what `resume` lifts, and `quarantine`, which
says why. Its labels since the evidence began wait like those that come later; their learned rows die, and history is not
rewritten.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, update

from adaptd import tables as t
from adaptd.rows import Interval, alive

LEARNED, WAITING, REFUSED, DROPPED = 0, 1, 2, 3  # label.held
QUARANTINE = "quarantine"  # hold.what, and the line in the history
DECIDED = (QUARANTINE, "hold-learning", "resume-learning", "drop-learning")
SOME = 500  # values of one query


def decided(connection: Connection, domain: int, source: str, seq: int) -> bool:
    """Say whether a source was held or let go at or after a seq: evidence from before is judged already."""
    query = select(t.action.c.detail).where(t.action.c.domain == domain, t.action.c.seq >= seq, t.action.c.what.in_(DECIDED))
    return any(json.loads(detail)["source"] == source for detail in connection.execute(query).scalars())


def taught(connection: Connection, domain: int, intervals: Sequence[Interval], source: str, since: int) -> Sequence[Any]:
    """Return a source's rows that were born since and are alive in a lineage."""
    query = alive(domain, intervals).where(t.learned.c.source == source, t.learned.c.born >= since)
    return connection.execute(query).all()


def let_wait(connection: Connection, rows: Sequence[Any], source: str) -> int:
    """Let the labels behind a source's rows wait; return how many."""
    seqs = set()
    born = {row.event: row.born for row in rows}
    for some in _some(sorted(born)):
        query = select(t.label.c.seq, t.label.c.event).where(
            t.label.c.event.in_(some), t.label.c.source == source, t.label.c.held == LEARNED).order_by(t.label.c.seq)
        newest = {r.event: r.seq for r in connection.execute(query) if r.seq <= born[r.event]}
        seqs |= set(newest.values())
    for some in _some(sorted(seqs)):
        connection.execute(update(t.label).where(t.label.c.seq.in_(some)).values(held=WAITING))
    return len(seqs)


def overruled(connection: Connection, rows: Sequence[Any], source: str, since: int) -> list[Any]:
    """Return the labels that a source's rows had corrected, by others or by itself before, in journal order."""
    found: list[Any] = []
    for some in _some(sorted({row.event for row in rows})):
        query = (
            select(t.label.c.seq, t.label.c.event, t.label.c.label, t.label.c.source, t.event.c.content)
            .join(t.event, t.event.c.seq == t.label.c.event)
            .where(t.label.c.event.in_(some), t.label.c.held == LEARNED,
                   or_(t.label.c.source != source, t.label.c.seq < since)))
        found += connection.execute(query).all()
    return sorted(found, key=lambda r: int(r.seq))


def hold(connection: Connection, domain: int, source: str, reason: str) -> float:
    """Hold a source, and say why; return since when."""
    release(connection, domain, source)
    since = time.time()
    rows = [{"domain": domain, "what": what, "source": source, "since": since, "reason": reason}
            for what in ("learning", QUARANTINE)]
    connection.execute(insert(t.hold), rows)
    return since


def release(connection: Connection, domain: int, source: str, what: str = "learning") -> None:
    """Lift a hold of a source, whoever put it."""
    lifted = ("learning", QUARANTINE) if what == "learning" else (what,)
    connection.execute(delete(t.hold).where(t.hold.c.domain == domain, t.hold.c.what.in_(lifted), t.hold.c.source == source))


def drop(connection: Connection, domain: int, source: str) -> int:
    """Let what waits of a source never be learned; return how many labels."""
    here = select(t.event.c.seq).where(t.event.c.domain == domain)
    mine = t.label.c.source == source, t.label.c.held == WAITING, t.label.c.event.in_(here)
    return connection.execute(update(t.label).where(*mine).values(held=DROPPED)).rowcount


def _some(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[start : start + SOME] for start in range(0, len(values), SOME))
