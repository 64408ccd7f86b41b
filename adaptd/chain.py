"""The chain: every journal entry under a salted commitment, every commitment linked to what came before it.

Where: beside the journal, which adds to it; the writer seals it in the group's own transaction. An entry is one seq of
the journal: an event with the label that came with it, or a later label. ``commitment = sha256(salt ‖ content)``, and
``hash = sha256(previous hash ‖ "ENTRY SEQ " ‖ commitment)``. A forget destroys content and salt and leaves the
commitment, so the chain still holds, and without the salt nobody can try contents against it. `adaptd.verify` proves it.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any

from sqlalchemy import Connection, or_, select, update

from adaptd import tables as t
from adaptd.db import insert_columns
from adaptd.records import encoder

SALT_BYTES = 16
# What is committed to, in this order: released, so never changed.
EVENT = ("seq", "id", "domain", "source", "key", "digest", "content", "payload", "answer", "subject", "time", "received")
LABEL = ("seq", "event", "label", "source", "received")  # not `held`: it says what became of it
ROW = ("seq", "entry", "salt", "commitment", "hash")
Values = Sequence[Any]
_encode = encoder(encode_basestring_ascii, bytes.hex, sorts=False)


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
    return _bound(salt, _encode([_plain(event), _plain(label)]))


def _plain(values: Values | None) -> list[Any] | None:
    """Return values as the database gives them back: it knows no minus zero."""
    return None if values is None else [value + 0.0 if type(value) is float else value for value in values]


def _bound(salt: bytes, text: str) -> bytes:
    return hashlib.sha256(salt + text.encode()).digest()


_shared = functools.lru_cache(_encode)  # what a whole batch has in common, once


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

    def add(self, events: Iterable[tuple[int, str, int, str, float]], labels: Sequence[Values]) -> None:
        """Commit to the rows of new entries; their link is made in `seal`.

        Events: seq, id, domain, what `columns` says of them, and when they were received; labels in the order of LABEL.
        """
        of_label = {row[0]: _encode(_plain(row)) for row in labels}
        texts = [(seq, f'[[{seq},"{name}",{domain},{columns},{_shared(received)}],{of_label.pop(seq, "null")}]')
                 for seq, name, domain, columns, received in events]
        texts += [(seq, f"[null,{text}]") for seq, text in of_label.items()]
        salts = secrets.token_bytes(SALT_BYTES * len(texts))
        for at, (seq, text) in zip(range(0, len(salts), SALT_BYTES), sorted(texts), strict=True):
            salt = salts[at:at + SALT_BYTES]
            self._waiting.append((seq, salt, hashlib.sha256(salt + text.encode()).digest()))

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Take back what is added inside if it fails: its rows are undone, too."""
        before = len(self._waiting)
        try:
            yield
        except BaseException:
            del self._waiting[before:]
            raise

    @contextmanager
    def sealed(self, connection: Connection) -> Iterator[None]:
        """Have all that was added in the table, for who changes it there; if that fails both are as before."""
        head, waiting = self._head, self._waiting.copy()
        self.seal(connection)
        try:
            yield
        except BaseException:
            self._head, self._waiting = head, waiting
            raise

    def seal(self, connection: Connection) -> None:
        """Link what a group has added, in its transaction and before its commit."""
        if not self._waiting:
            return
        seqs, salts, commitments = zip(*self._waiting, strict=True)
        entries, hashes, digest = range(self._head.entry + 1, self._head.entry + 1 + len(seqs)), [], self._head.hash
        for entry, seq, committed in zip(entries, seqs, commitments, strict=True):
            digest = link(digest, entry, seq, committed)
            hashes.append(digest)
        insert_columns(connection, t.chain, ROW, [seqs, entries, salts, commitments, hashes])
        self._head = Head(entry=entries[-1], seq=seqs[-1], hash=digest)
        self._waiting.clear()
