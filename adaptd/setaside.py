"""Setting aside: what the tables say of a source that is held by itself. Queries only; the journal decides and writes order.

A quarantined source has two rows in `hold`: `learning`, which is the effect and what `resume` lifts, and `quarantine`, which
says why. Its labels since the evidence began wait like those that come later; their learned rows die, and history is not
rewritten.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from adaptd import tables as t
from adaptd.rows import Interval, alive
from adaptd.weak import PSEUDO, WEAK

LEARNED, WAITING, REFUSED, DROPPED = 0, 1, 2, 3  # label.held
QUARANTINE = "quarantine"  # hold.what, and the line in the history
DECIDED = (QUARANTINE, "hold-learning", "resume-learning", "drop-learning")
TRIALS = ADMITTED, REJECTED, UNDECIDED = "weak-admitted", "weak-rejected", "weak-undecided"  # of weak labels, in the history
ENDED = "weak-failed", "weak-cancelled"  # trials without a verdict
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


# -- weak labels, which wait for a trial ------------------------------------------------------------------------


def weak(source: Any) -> Any:
    """Return the condition that the labels of a source are weak (`adaptd.weak`)."""
    return or_(_begins(source, WEAK), _begins(source, PSEUDO))


def _begins(source: Any, prefix: str) -> Any:
    return func.substr(source, 1, len(prefix)) == prefix  # SQLite's LIKE takes no notice of case, `is_weak` does


def waiting(connection: Connection, domain: int) -> dict[str, int]:
    """Count the weak labels that wait, by source."""
    query = select(t.label.c.source, func.count().label("n")).where(*_weak_waiting(domain)).group_by(t.label.c.source)
    return {r.source: r.n for r in connection.execute(query.order_by(t.label.c.source))}


def to_try(connection: Connection, domain: int, source: str, most: int) -> Sequence[Any]:
    """Return the newest label of each event that waits from a weak source, the newest `most`, in journal order."""
    newest = select(func.max(t.label.c.seq)).where(t.label.c.source == source, *_weak_waiting(domain)).group_by(t.label.c.event)
    query = (select(t.label.c.seq, t.label.c.event, t.label.c.label, t.event.c.content)
             .join(t.event, t.event.c.seq == t.label.c.event).where(t.label.c.seq.in_(newest)))
    return connection.execute(query.order_by(t.label.c.seq.desc()).limit(most)).all()[::-1]


def labels_since(connection: Connection, domain: int, seq: int) -> int:
    """Return how many labels of a domain came after a seq, weak ones too, but not what the daemon proposed."""
    query = select(func.count()).select_from(t.label).join(t.event, t.event.c.seq == t.label.c.event)
    query = query.where(t.event.c.domain == domain, t.label.c.seq > seq, ~_begins(t.label.c.source, PSEUDO))
    return connection.scalar(query) or 0


def newest(connection: Connection) -> int:
    """Return the seq of the newest label of all domains; 0 where there is none."""
    return connection.scalar(select(func.max(t.label.c.seq))) or 0


def held_out(connection: Connection, domain: int) -> set[bytes]:
    """Return the contents of the rows that are kept for judging."""
    query = (select(t.event.c.content).join(t.learned, t.learned.c.event == t.event.c.seq)
             .where(t.learned.c.domain == domain, t.learned.c.holdout == 1))
    return set(connection.execute(query).scalars())


def _weak_waiting(domain: int) -> tuple[Any, ...]:
    """Return the conditions of a weak label that waits and that no other kind of label overrules."""
    return t.label.c.held == WAITING, weak(t.label.c.source), _is_of(domain), ~_is_told(t.label.c.event)


def _is_of(domain: int) -> Any:
    """Return the condition that a label's event is of a domain: looked up for the few labels that wait."""
    event = t.event.alias()
    return exists().where(event.c.seq == t.label.c.event, event.c.domain == domain)


def _is_told(event: Any) -> Any:
    """Return the condition that an event has a label that is not weak."""
    other = t.label.alias()
    return exists().where(other.c.event == event, ~weak(other.c.source))


def drop_overruled(connection: Connection, domain: int) -> None:
    """Let weak labels that wait for events that have another kind of label never be learned."""
    gone = t.label.c.held == WAITING, weak(t.label.c.source), _is_of(domain), _is_told(t.label.c.event)
    connection.execute(update(t.label).where(*gone).values(held=DROPPED))


def still_waiting(connection: Connection, seqs: Sequence[int]) -> Sequence[Any]:
    """Return those of some labels that wait, in journal order."""
    query = (select(t.label.c.seq, t.label.c.event, t.label.c.label, t.label.c.source, t.event.c.content)
             .join(t.event, t.event.c.seq == t.label.c.event).where(t.label.c.seq.in_(seqs), t.label.c.held == WAITING))
    return connection.execute(query.order_by(t.label.c.seq)).all()


def end_older(connection: Connection, labels: Sequence[Any]) -> None:
    """End the waiting of what the sources of some labels had said before about the same events."""
    newer = t.label.alias()
    for some in _some([r.seq for r in labels]):
        by = exists().where(newer.c.seq.in_(some), newer.c.event == t.label.c.event, newer.c.source == t.label.c.source,
                            newer.c.seq > t.label.c.seq)
        events = {r.event for r in labels if r.seq in set(some)}
        connection.execute(update(t.label).where(t.label.c.event.in_(events), t.label.c.held == WAITING, by).values(held=LEARNED))


def drop_proposed(connection: Connection, domain: int) -> None:
    """Let what the daemon proposed and nobody admitted never be learned."""
    mine = _begins(t.label.c.source, PSEUDO), t.label.c.held == WAITING, _is_of(domain)
    connection.execute(update(t.label).where(*mine).values(held=DROPPED))


def unlabelled(connection: Connection, events: Collection[int]) -> list[int]:
    """Return those of some events that are there and have no label but proposals that came to nothing, in order."""
    found: list[int] = []
    for some in _some(sorted(events)):
        query = select(t.event.c.seq).where(t.event.c.seq.in_(some), t.event.c.source != t.FORGOTTEN, unproposed())
        found += connection.execute(query.order_by(t.event.c.seq)).scalars()
    return found


def unproposed() -> Any:
    """Return the condition that an event has no label but proposals that wait or came to nothing."""
    proposal = _begins(t.label.c.source, PSEUDO), t.label.c.held.in_((WAITING, DROPPED))
    return ~exists().where(t.label.c.event == t.event.c.seq, ~and_(*proposal))


def _some(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[start : start + SOME] for start in range(0, len(values), SOME))
