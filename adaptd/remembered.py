"""Remembered: the whole replies behind a `Reply` head's keys, read from the labels in which they came.

Where: beside describe; asked where an answer, or what is remembered beside it, has a shortened key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from adaptd import tables as t
from adaptd.errors import BadPayload
from adaptd.heads import SHORTENED
from adaptd.interfaces import Domain

TOGETHER = 500  # rows that are read at once


def replies(connection: Connection, domain: Domain, head: str, keys: Iterable[str], events: Iterable[int]) -> dict[str, str]:
    """Return the whole reply of each shortened key that a label of these events (seqs) gives; the digest says that it is it."""
    wanted = {key for key in keys if SHORTENED.search(key)}
    if not wanted:
        return {}
    said = connection.execute(select(t.label.c.label).where(t.label.c.event.in_(set(events)))).scalars()
    return {key: text for key, text in (_reply(domain, head, json.loads(label)) for label in said)
            if key in wanted and text != key}


def taught(connection: Connection, domain: Domain, head: str, rows: Sequence[int]) -> list[tuple[int, str]]:
    """Return the event (seq) and the whole text of each of these learned rows of a head."""
    found: dict[int, tuple[int, str]] = {}
    for start in range(0, len(rows), TOGETHER):
        some = connection.execute(select(t.learned.c.id, t.learned.c.event, t.learned.c.target)
                                  .where(t.learned.c.id.in_(rows[start:start + TOGETHER]))).all()
        whole = replies(connection, domain, head, {row.target for row in some}, {row.event for row in some})
        found |= {row.id: (row.event, whole.get(row.target, row.target)) for row in some}
    return [found[row] for row in rows]


def _reply(domain: Domain, head: str, label: object) -> tuple[str, str]:
    """Return key and text of a label's reply; a label without one, or that the domain takes no more, has none."""
    try:
        text = domain.targets(label)[head]
        return domain.heads[head].check(text, head), text.strip()
    except (BadPayload, KeyError):
        return "", ""
