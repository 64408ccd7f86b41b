"""Blobs: the bytes of images and sounds, by their sha256, in the store's tables beside the journal.

A blob commits with the event that brings it and goes with the last event that refers to it. So a backup, a copy to another
database, a second daemon and a forget have them as they have the journal; equal bytes are kept once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from adaptd import tables as t
from adaptd.db import insert_missing
from adaptd.records import BLOB, Blob

CHUNK = 500  # digests in one statement


def keep(connection: Connection, brought: Sequence[tuple[int, Sequence[Blob]]]) -> None:
    """Store what events (by seq) brought; in the transaction that journals them."""
    links = {(event, blob.sha256): blob for event, blobs in brought for blob in blobs}
    if links:
        rows = {blob.sha256: blob.data for blob in links.values()}
        connection.execute(insert_missing(connection, t.blob), [{"digest": one, "data": data} for one, data in rows.items()])
        connection.execute(insert(t.attached), [{"event": event, "digest": digest} for event, digest in links])


def read(connection: Connection, payload: str) -> dict[str, Any]:
    """Return a stored payload with its blobs; one whose bytes are gone stays the object that names it."""
    fields: dict[str, Any] = json.loads(payload)
    named = names(fields)
    if named:
        query = select(t.blob).where(t.blob.c.digest.in_(list(named.values())))
        data = {row.digest: row.data for row in connection.execute(query)}
        fields.update({name: Blob(data=data[digest]) for name, digest in named.items() if digest in data})
    return fields


def names(payload: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of a payload's blobs, by field."""
    return {name: value[BLOB] for name, value in payload.items() if isinstance(value, dict) and value.keys() == {BLOB}}


def drop(connection: Connection, events: Sequence[int]) -> int:
    """Let go of what events brought and no other event refers to; return how many blobs went."""
    mine = select(t.attached.c.digest).where(t.attached.c.event.in_(events))
    digests = list(connection.execute(mine.distinct()).scalars())
    connection.execute(delete(t.attached).where(t.attached.c.event.in_(events)))
    gone = 0
    for start in range(0, len(digests), CHUNK):
        some = digests[start:start + CHUNK]
        still = select(t.attached.c.digest).where(t.attached.c.digest.in_(some))
        gone += connection.execute(delete(t.blob).where(t.blob.c.digest.in_(some), t.blob.c.digest.not_in(still))).rowcount
    return gone


def is_sound(digest: str, data: bytes) -> bool:
    """Say whether a blob's bytes are those that were hashed."""
    return hashlib.sha256(data).hexdigest() == digest
