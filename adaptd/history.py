"""History: who or what changed something, when, from what to what, why; and how far the journal has come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select

from adaptd import tables as t
from adaptd.records import canonical


def act(
    connection: Connection,
    seq: int,
    domain: int | None,
    what: str,
    actor: str,
    reason: str,
    *,
    before: int | None = None,
    after: int | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write one line of the history."""
    connection.execute(
        insert(t.action).values(
            at=time.time(),
            seq=seq,
            domain=domain,
            what=what,
            before=before,
            after=after,
            actor=actor,
            reason=reason,
            detail=canonical(detail or {}),
        )
    )


def last_seq(connection: Connection) -> int:
    """Return the newest seq that anything in the store carries."""
    return max(
        connection.scalar(select(func.coalesce(func.max(column), 0))) or 0
        for column in (t.event.c.seq, t.label.c.seq, t.learned.c.born, t.death.c.seq, t.branch.c.start, t.action.c.seq)
    )
