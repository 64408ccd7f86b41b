"""Dead letters: what feeds gave and was not taken. Kept with the cursor in one transaction, listed, dropped, taken after all.

Functions over a connection; those that write run in the writer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select, update

from adaptd import db
from adaptd import tables as t
from adaptd.records import DeadLetter

SHOWN = 500  # characters of an element that a list shows


def keep(connection: Connection, feed: str, letters: Sequence[DeadLetter]) -> None:
    """Keep what was not taken; what is kept already is not kept twice."""
    if letters:
        now = time.time()
        rows = [{"feed": feed, "at": now, "reason": one.reason, "raw": one.raw, "key": one.key, "about": one.about}
                for one in letters]
        connection.execute(db.insert_missing(connection, t.dead), rows)


def counts(connection: Connection) -> dict[str, int]:
    """Return how many dead letters each feed has."""
    return {row.feed: row.n for row in connection.execute(select(t.dead.c.feed, func.count().label("n")).group_by(t.dead.c.feed))}


def page(connection: Connection, feed: str, *, after: int, limit: int) -> list[Mapping[str, Any]]:
    """Return a feed's dead letters behind an id, oldest first, with the beginning of each."""
    rows = connection.execute(_of(feed).where(t.dead.c.id > after).limit(limit))
    return [{"id": row.id, "at": row.at, "reason": row.reason, "raw": row.raw[:SHOWN].decode(errors="replace")} for row in rows]


def some(connection: Connection, feed: str, ids: Sequence[int] | None, *, after: int, limit: int) -> list[Any]:
    """Return whole rows behind an id, oldest first; `ids`: those only."""
    query = _of(feed).where(t.dead.c.id > after).limit(limit)
    return list(connection.execute(query if ids is None else query.where(t.dead.c.id.in_(ids))))


def drop(connection: Connection, feed: str, ids: Sequence[int] | None) -> int:
    """Let dead letters go, all of a feed where no ids are given; return how many went."""
    statement = delete(t.dead).where(t.dead.c.feed == feed)
    return connection.execute(statement if ids is None else statement.where(t.dead.c.id.in_(ids))).rowcount


def still_there(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Return which of these have not been dropped or taken meanwhile."""
    return set(connection.execute(select(t.dead.c.id).where(t.dead.c.id.in_(ids))).scalars())


def taken(connection: Connection, ids: Sequence[int]) -> None:
    """Let go of what is in the journal now; in the transaction that put it there."""
    connection.execute(delete(t.dead).where(t.dead.c.id.in_(ids)))


def refused_again(connection: Connection, reasons: Mapping[int, str]) -> None:
    """Note why a retry did not take them."""
    for number, reason in reasons.items():
        connection.execute(update(t.dead).where(t.dead.c.id == number).values(reason=reason))


def _of(feed: str) -> Select[Any]:
    return select(t.dead).where(t.dead.c.feed == feed).order_by(t.dead.c.id)
