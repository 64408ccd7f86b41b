"""Learned rows in a lineage: which are alive at a seq, which were born, what the journal taught after it.

Where: under the journal, which writes them, and under every reader of memory. A version's state is a branch and a
seq; a branch is a seq interval grown on its parent's state, so that a rollback is O(1) writes and history is never
rewritten. Queries only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, and_, exists, func, or_, select

from adaptd import heads
from adaptd import tables as t
from adaptd.records import Learned, Row, Said, place
from adaptd.weak import is_weak

Interval = tuple[int, int]  # births in (low, high]
FOREVER = 1 << 62


def lineage(connection: Connection, branch: int, seq: int = FOREVER) -> list[Interval]:
    """Return the seq intervals that make up the state of a branch at `seq`, oldest first."""
    intervals: list[Interval] = []
    current: int | None = branch
    while current is not None:
        row = connection.execute(select(t.branch).where(t.branch.c.id == current)).one()
        if seq > row.start:
            intervals.append((row.start, seq))
        current, seq = row.parent, min(seq, row.fork)
    return intervals[::-1]


def after(intervals: Sequence[Interval], seq: int) -> list[Interval]:
    """Return what of a lineage lies behind a seq."""
    return [(max(low, seq), high) for low, high in intervals if high > seq]


def within(column: Any, intervals: Sequence[Interval]) -> Any:
    """Return the condition that a seq lies in a lineage."""
    return or_(False, *(and_(column > low, column <= high) for low, high in intervals))


def alive(domain: int, intervals: Sequence[Interval]) -> Any:
    """Return the select of the rows that are alive in a lineage, in the order of their birth.

    alive = born inside the lineage and no death inside it.
    """
    dead = exists().where(t.death.c.row == t.learned.c.id, within(t.death.c.seq, intervals))
    return (
        select(t.learned.c.id, t.learned.c.event, t.learned.c.part, t.learned.c.head, t.learned.c.target,
               t.learned.c.source, t.learned.c.born, t.learned.c.holdout, t.event.c.content)
        .join(t.event, t.event.c.seq == t.learned.c.event)
        .where(t.learned.c.domain == domain, within(t.learned.c.born, intervals), ~dead)
        .order_by(t.learned.c.born, t.learned.c.id))


def evicted(intervals: Sequence[Interval]) -> Any:
    """Return the condition that an alive row is not retrievable in a lineage: it was evicted inside it."""
    return exists().where(t.eviction.c.row == t.learned.c.id, within(t.eviction.c.seq, intervals))


def counts(connection: Connection, domain: int, intervals: Sequence[Interval]) -> dict[str, dict[str, int]]:
    """Return how many rows each label of each head has alive in a lineage."""
    found = alive(domain, intervals).order_by(None).subquery()
    query = select(found.c.head, found.c.target, func.count().label("n")).group_by(found.c.head, found.c.target)
    heads: dict[str, dict[str, int]] = {}
    for r in connection.execute(query.order_by(found.c.head, found.c.target)):
        heads.setdefault(r.head, {})[r.target] = r.n
    return heads


def rows(result: Iterable[Any]) -> Iterator[Row]:
    """Make records of what `alive` selects."""
    for r in result:
        yield Row(id=r.id, event=r.event, part=r.part, head=r.head, target=r.target, born=r.born, source=r.source,
                  content=r.content, holdout=bool(r.holdout))


def births(connection: Connection, domain: int, intervals: Sequence[Interval], head: str) -> Sequence[Any]:
    """Return (id, target) of every row of a head born in a lineage, dead ones too, in order: ages follow it."""
    return connection.execute(_born(domain, intervals, head).with_only_columns(t.learned.c.id, t.learned.c.target)).all()


def labels(connection: Connection, domain: int, intervals: Sequence[Interval], head: str) -> Sequence[str]:
    """Return the labels of a head in a lineage, in the order of their first birth: classes follow it."""
    query = _born(domain, intervals, head).with_only_columns(t.learned.c.target).group_by(t.learned.c.target).order_by(None)
    return connection.execute(query.order_by(func.min(t.learned.c.born), func.min(t.learned.c.id))).scalars().all()


def retaught(connection: Connection, domain: int, intervals: Sequence[Interval], head: str) -> Sequence[Any]:
    """Return (id, place, target) of the rows of a head whose event had a row that died in a lineage, in order."""
    died = (select(t.learned.c.event).join(t.death, t.death.c.row == t.learned.c.id)
            .where(t.learned.c.domain == domain, within(t.death.c.seq, intervals)))
    query = _born(domain, intervals, head).with_only_columns(
        t.learned.c.id, place(t.learned.c.event, t.learned.c.part), t.learned.c.target)
    return connection.execute(query.where(t.learned.c.event.in_(died))).all()


@dataclass(frozen=True)
class Standing:
    """Ids of a head's rows in a lineage. Of many rows nothing else is read, so that a rollback is quick."""

    born: npt.NDArray[np.int64]  # in order, dead ones too
    alive: npt.NDArray[np.int64]
    evicted: npt.NDArray[np.int64]  # of those that are alive


def standing(connection: Connection, domain: int, intervals: Sequence[Interval], head: str) -> Standing:
    """Read which rows of a head were born in a lineage, and which of them are alive and evicted."""
    def ids(query: Any) -> npt.NDArray[np.int64]:
        found = connection.execute(query).cursor.fetchall()  # the driver's own rows: of 100,000 in a fifth of the time
        return np.fromiter(chain.from_iterable(found), np.int64, len(found))

    born = ids(_born(domain, intervals, head).with_only_columns(t.learned.c.id))
    dead = ids(select(t.death.c.row).where(within(t.death.c.seq, intervals)))
    alive = born[~np.isin(born, dead)] if len(dead) else born
    evicted = ids(select(t.eviction.c.row).where(within(t.eviction.c.seq, intervals)))
    return Standing(born=born, alive=alive, evicted=alive[np.isin(alive, evicted)])


def _born(domain: int, intervals: Sequence[Interval], head: str) -> Any:
    return (select(t.learned)
            .where(t.learned.c.domain == domain, within(t.learned.c.born, intervals), t.learned.c.head == head)
            .order_by(t.learned.c.born, t.learned.c.id))


def replay(connection: Connection, domain: int, intervals: Sequence[Interval], after: int) -> list[Learned]:
    """Return what the journal taught in a lineage after `after`, entry by entry, as it was delivered then.

    Which of what was learned late had been admitted is not kept: all of it counts so.
    """
    at_once = exists().where(t.label.c.seq == t.learned.c.born).label("at_once")
    born = (select(t.learned, t.event.c.content, at_once).join(t.event, t.event.c.seq == t.learned.c.event)
            .where(t.learned.c.domain == domain, t.learned.c.born > after, within(t.learned.c.born, intervals))
            .order_by(t.learned.c.born, t.learned.c.id))
    died = (select(t.death.c.row, t.death.c.seq).join(t.learned, t.learned.c.id == t.death.c.row)
            .where(t.learned.c.domain == domain, t.death.c.seq > after, within(t.death.c.seq, intervals)))
    taught: dict[int, tuple[list[Row], list[int]]] = {}
    late = set()
    for r, row in zip(fetched := list(connection.execute(born)), rows(fetched), strict=True):
        if not r.at_once:
            late.add(r.born)
        taught.setdefault(r.born, ([], []))[0].append(row)
    for r in connection.execute(died):
        taught.setdefault(r.seq, ([], []))[1].append(r.row)
    return [Learned(seq=seq, domain=domain, born=taught[seq][0], died=taught[seq][1], admitted=seq in late)
            for seq in sorted(taught)]


def first_labels(entries: Iterable[Learned]) -> list[Row]:
    """Return the rows that judge an answer: corrections do not, what they correct was known to the answer; nor weak labels."""
    return [row for entry in entries if not entry.died for row in entry.born if not is_weak(row.source)]


def answered_before(connection: Connection, born: Mapping[int, int]) -> dict[int, Said]:
    """Return what events were answered with at the time: the newest answer that did not know their label.

    `born` gives, per event, the seq at which its label was learned.
    """
    found: dict[int, Said] = {}
    events = sorted(born)
    for start in range(0, len(events), 500):
        query = select(t.prediction).where(t.prediction.c.event.in_(events[start : start + 500]))
        for r in connection.execute(query.order_by(t.prediction.c.id)):
            if r.learned < born[r.event]:
                labels = {head: heads.said(label) for head, label in json.loads(r.labels).items()}
                found[r.event] = Said(labels=labels, confidence=r.confidence)
    return found


@dataclass(frozen=True)
class HoldoutRule:
    """Which rows are kept for judging: a share by content, once their class has enough learned examples."""

    share: float
    after: int
    written: frozenset[str] = frozenset()  # heads whose texts are all of one class

    def counted(self, head: str, target: str) -> str:
        """Return the class as which a head's target counts."""
        return heads.WRITTEN if head in self.written else target

    def chooses(self, content: bytes, earlier: int) -> bool:
        """Say whether a row is held out; `content` is an HMAC, so no client can pick."""
        return earlier >= self.after and int.from_bytes(content[:8], "big") < self.share * 2.0**64
