"""The chain: every journal entry under a salted commitment, every commitment linked to what came before it.

Where: beside the journal, which adds to it; the writer seals it in the group's own transaction. An entry is one seq of
the journal: an event with the label that came with it, or a later label. ``commitment = sha256(salt ‖ content)``, and
``hash = sha256(previous hash ‖ "ENTRY SEQ " ‖ commitment)``. A forget destroys content and salt and leaves the
commitment, so the chain still holds, and without the salt nobody can try contents against it. `adaptd.verify` proves it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, or_, select, update

from adaptd import tables as t
from adaptd.db import insert_many

SALT_BYTES = 16
# What is committed to, in this order: released, so never changed.
EVENT = ("seq", "id", "domain", "source", "key", "digest", "content", "payload", "answer", "subject", "time", "received")
LABEL = ("seq", "event", "label", "source", "received")  # not `held`: it says what became of it
Values = Sequence[Any]
_event, _label = itemgetter(*EVENT), itemgetter(*LABEL)
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the chain stands: its newest entry's number, seq and hash."""

    entry: int = 0
    seq: int = 0
    hash: bytes = bytes(32)

    def after(self, seq: int, committed: bytes) -> Head:
        """Return the head with one entry more."""
        return Head(entry=self.entry + 1, seq=seq, hash=link(self.hash, self.entry + 1, seq, committed))

    def shown(self) -> dict[str, Any]:
        """Return the head as people note it and documents carry it."""
        return {"entry": self.entry, "seq": self.seq, "hash": self.hash.hex()}


def link(previous: bytes, entry: int, seq: int, committed: bytes) -> bytes:
    """Return the hash that ties an entry to all before it."""
    return hashlib.sha256(previous + b"%d %d " % (entry, seq) + committed).digest()


def commitment(salt: bytes, event: Values | None, label: Values | None) -> bytes:
    """Return what an entry is bound to, its rows' values in the order of EVENT and LABEL; without the salt it says nothing."""
    return hashlib.sha256(salt + _encode([_plain(event), _plain(label)]).encode()).digest()


def _plain(values: Values | None) -> list[Any] | None:
    """Return values as JSON holds them and as the database gives them back: it knows no minus zero."""
    return None if values is None else [
        value.hex() if type(value) is bytes else value + 0.0 if type(value) is float else value for value in values]


def head(connection: Connection) -> Head:
    """Return the head of what is committed."""
    row = connection.execute(select(t.chain).order_by(t.chain.c.seq.desc()).limit(1)).one_or_none()
    return Head() if row is None else Head(entry=row.entry, seq=row.seq, hash=row.hash)


def destroy_salts(connection: Connection, events: Sequence[int]) -> int:
    """Destroy the salts of events and of their labels, which must still be there; return of how many entries."""
    labels = select(t.label.c.seq).where(t.label.c.event.in_(events))
    theirs = or_(t.chain.c.seq.in_(events), t.chain.c.seq.in_(labels))
    return connection.execute(update(t.chain).where(theirs, t.chain.c.salt.is_not(None)).values(salt=None)).rowcount


class Chain:
    """The chain as the writer goes on with it; only the writer's thread changes it."""

    def __init__(self) -> None:
        self._head = Head()
        self._waiting: list[tuple[int, bytes, bytes]] = []  # seq, salt, commitment

    def open(self, connection: Connection) -> None:
        """Go on from what is committed; before the writer starts."""
        self._head = head(connection)

    def add(self, events: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]]) -> None:
        """Commit to the rows of new entries; their link is made in `seal`."""
        of_event, of_label = {row["seq"]: _event(row) for row in events}, {row["seq"]: _label(row) for row in labels}
        seqs = sorted(of_event.keys() | of_label.keys())
        salts = secrets.token_bytes(SALT_BYTES * len(seqs))
        for place, seq in enumerate(seqs):
            salt = salts[place * SALT_BYTES:(place + 1) * SALT_BYTES]
            self._waiting.append((seq, salt, commitment(salt, of_event.get(seq), of_label.get(seq))))

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Take back what is added inside if it fails: its rows are undone, too."""
        before = len(self._waiting)
        try:
            yield
        except BaseException:
            del self._waiting[before:]
            raise

    def seal(self, connection: Connection) -> None:
        """Link what a group has added, in its transaction and before its commit."""
        if not self._waiting:
            return
        links, seq, digest = [], 0, self._head.hash
        for entry, (seq, salt, committed) in enumerate(self._waiting, self._head.entry + 1):
            digest = link(digest, entry, seq, committed)
            links.append({"seq": seq, "entry": entry, "salt": salt, "commitment": committed, "hash": digest})
        insert_many(connection, t.chain, links)
        self._head = Head(entry=self._head.entry + len(links), seq=seq, hash=digest)
        self._waiting.clear()
