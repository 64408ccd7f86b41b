"""Verify: proves from the store alone that the journal is what was written, entry by entry, and names what is not.

Read-only, beside a daemon or without one: short read transactions of a thousand
entries, rows streamed, so that memory is constant and no checkpoint waits. What somebody who can write the file has made
whole again from an entry on to the end shows only against a head that was noted before: versions, backups and the last
status note it, `adaptd verify --head` takes one from a person.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptd import blobs
from adaptd.chain import EVENT, LABEL, Head, commitment
from adaptd.errors import BadPayload
from adaptd.records import BLOB
from adaptd.status import Statements

Json = dict[str, Any]
CHUNK = 1000  # entries in one read transaction
SHOWN = 20  # of what does not hold; all are counted
FORGOTTEN = ""  # an emptied event's source
EVENT_AT, LABEL_AT = 5, 5 + len(EVENT)
ID, SOURCE, DIGEST, PAYLOAD = (EVENT.index(name) for name in ("id", "source", "digest", "payload"))
ENTRIES = (f"SELECT c.seq, c.entry, c.salt, c.commitment, c.hash, {', '.join(f'e.{name}' for name in EVENT)},"  # noqa: S608
           f" {', '.join(f'l.{name}' for name in LABEL)} FROM chain c LEFT JOIN event e ON e.seq = c.seq"
           " LEFT JOIN label l ON l.seq = c.seq WHERE c.seq > ? ORDER BY c.seq LIMIT ?")
STRAYS = ("SELECT DISTINCT seq FROM (SELECT seq FROM event UNION ALL SELECT seq FROM label) j WHERE seq > ? AND seq <= ?"
          " AND NOT EXISTS (SELECT 1 FROM chain c WHERE c.seq = j.seq) ORDER BY seq")
LAST = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Break:
    """One thing that does not hold."""

    seq: int
    code: str
    message: str


@dataclass
class Result:
    """What was found: the head that was reached, counts, and what does not hold, in the order of the journal."""

    head: Head = field(default_factory=Head)
    forgotten: int = 0
    begun: Mapping[str, Any] = field(default_factory=dict)
    broken: list[Break] = field(default_factory=list)
    breaks: int = 0

    def body(self) -> Json:
        """Return what is printed."""
        return {"holds": not self.breaks, "entries": self.head.entry, "forgotten": self.forgotten, "head": self.head.shown(),
                "begun": self.begun, "breaks": self.breaks, "broken": [one.__dict__ for one in self.broken]}

    def add(self, seq: int, code: str, message: str) -> None:
        """Count what does not hold, and keep the first ones."""
        self.breaks += 1
        insort(self.broken, Break(seq=seq, code=code, message=message), key=lambda one: one.seq)
        del self.broken[SHOWN:]


def noted(text: str) -> tuple[int, str]:
    """Read a head as a person noted it, ENTRY:HASH.

    Raises
    ------
    BadPayload
        It is none.

    >>> noted("3:" + "Ab" * 32)[0]
    3
    """
    entry, _, digest = text.partition(":")
    if entry.isdecimal() and len(digest) == 64 and set(digest.lower()) <= set("0123456789abcdef"):
        return int(entry), digest.lower()
    raise BadPayload(f"{text[:80]!r} is no head", field="head", hint="ENTRY:HASH, as adaptd verify printed it")


def verify(store: Statements, advance: Callable[[int], None] = lambda entries: None,
           head: tuple[int, str] | None = None) -> Result:
    """Walk the whole chain of a store; `head` is one that was noted before; `advance` hears of progress and may raise."""
    if isinstance(store, sqlite3.Connection):
        store.text_factory = _text
    begun = store.execute("SELECT value FROM store WHERE key = 'chain'").fetchone()
    result = Result(begun=json.loads(begun[0]) if begun else {})
    heads = _heads(store)
    if head is not None:
        heads.setdefault(head[0], {})[head[1]] = "it was noted"
    done = False
    while not done:
        after = result.head
        store.execute("BEGIN")  # a forget that comes between takes an entry's content and salt at once
        try:
            done = _chunk(store, result, heads)
        finally:
            store.rollback()
        advance(result.head.entry - after.entry)
    _check_end(result, heads)
    _check_forgets(store, result)
    return result


def proved(store: Statements, go_on: Callable[[], None]) -> Json | None:
    """Return the chain's head and what does not hold, for a backup's manifest; a schema before the chain has none."""
    if store.execute("SELECT 1 FROM sqlite_master WHERE name = 'chain'").fetchone() is None:
        return None
    result = verify(store, lambda _: go_on())
    return {"head": result.head.shown(), "forgotten": result.forgotten, "broken": [one.__dict__ for one in result.broken]}


def _chunk(store: Statements, result: Result, heads: Mapping[int, Mapping[str, str]]) -> bool:
    """Check the next entries; return whether they were the last."""
    after, seen = result.head.seq if result.head.entry else -LAST, 0
    for row in store.execute(ENTRIES, (after, CHUNK)):
        seen += 1
        _check_link(result, row, heads)
        _check_content(result, row)
        _check_blobs(store, result, row)
    last = seen < CHUNK
    for (seq,) in store.execute(STRAYS, (after, LAST if last else result.head.seq)):
        result.add(seq, "stray", "it is in the journal and not in the chain: adaptd did not write it")
    return last


def _check_link(result: Result, row: Any, heads: Mapping[int, Mapping[str, str]]) -> None:
    """Check that an entry follows on the one before, and move on to it."""
    seq, entry, _, committed, digest = row[:5]
    before = result.head
    result.head = Head(entry=entry, seq=seq, hash=digest)
    if entry > before.entry + 1:
        which = f"entry {before.entry + 1} is" if entry == before.entry + 2 else f"entries {before.entry + 1} to {entry - 1} are"
        result.add(seq, "missing", f"{which} missing before it, behind seq {before.seq}")
    elif before.after(seq, committed) != result.head:
        result.add(seq, "unlinked", f"it does not follow on what is before it (entry {before.entry}, seq {before.seq}):"
                                    " replaced, moved, or linked anew")
    for wanted, whose in heads.get(entry, {}).items():
        if wanted != digest.hex():
            result.add(seq, "rewritten", f"entry {entry} is not the one that was the head when {whose}")


def _check_content(result: Result, row: Any) -> None:
    """Check that an entry's rows are what was committed to."""
    seq, entry, salt, committed = row[:4]
    event, label = _there(row[EVENT_AT:LABEL_AT]), _there(row[LABEL_AT:])
    if salt is None:
        result.forgotten += 1
        if label is not None or (event is not None and event[SOURCE] != FORGOTTEN):
            result.add(seq, "unsalted", "its salt is destroyed and its content is there: nothing proves it")
    elif event is None and label is None:
        result.add(seq, "missing", f"entry {entry} is in the chain and not in the journal: its row was deleted")
    elif commitment(salt, event, label) != committed:
        result.add(seq, "altered", f"{_what(event, label)} is not what was written")


def _check_blobs(store: Statements, result: Result, row: Any) -> None:
    """Check that the bytes which an event's payload names are there, and are what was hashed."""
    event = _there(row[EVENT_AT:LABEL_AT])
    if event is None or BLOB not in event[PAYLOAD]:
        return
    for name, digest in blobs.names(_object(event[PAYLOAD])).items():
        found = store.execute("SELECT data FROM blob WHERE digest = ?", (digest,)).fetchone()
        if found is None or not blobs.is_sound(digest, found[0]):
            what = "are not there" if found is None else "are not what was written"
            result.add(row[0], "altered", f"the bytes of {name!r} of event {event[ID]} {what}")


def _text(data: bytes) -> str:
    """Read what a flipped byte has made of a text: it is then not what was written, and no error."""
    return data.decode(errors="replace")


def _there(values: Sequence[Any]) -> Sequence[Any] | None:
    """Return a row's values, none where the join found none."""
    return None if values[0] is None else values


def _what(event: Sequence[Any] | None, label: Sequence[Any] | None) -> str:
    """Name what was altered as closely as the rows tell."""
    if event is None:
        return "the label"
    if event[DIGEST] != hashlib.blake2b(event[PAYLOAD].encode(), digest_size=16).digest():
        return f"the payload of event {event[ID]}"
    return f"event {event[ID]}" + ("" if label is None else ", or the label that came with it,")


def _heads(store: Statements) -> dict[int, dict[str, str]]:
    """Return the heads that the store itself has noted, by entry: what the hash was, and when."""
    heads: dict[int, dict[str, str]] = {}
    for whose, one in _notes(store):
        if one:
            heads.setdefault(one["entry"], {}).setdefault(one["hash"], whose)
    heads.pop(0, None)
    return heads


def _notes(store: Statements) -> Iterator[tuple[str, Json | None]]:
    for number, text in store.execute("SELECT number, chain FROM version ORDER BY number"):
        yield f"version {number} was made", json.loads(text) if text else None
    for detail in _details(store, "backup"):
        yield f"the backup {detail.get('file')} was taken", detail.get("chain")
    for (text,) in store.execute("SELECT value FROM store WHERE key = 'status'"):
        yield "the daemon last kept its status", _object(text).get("chain")


def _details(store: Statements, what: str) -> Iterator[Json]:
    for (text,) in store.execute("SELECT detail FROM action WHERE what = ? ORDER BY id", (what,)):
        yield _object(text)


def _object(text: str) -> Json:
    """Read a JSON object; what somebody made of it that is none says nothing."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_end(result: Result, heads: Mapping[int, Mapping[str, str]]) -> None:
    """Check that no entry is missing at the end."""
    entry = max(heads, default=0)
    if entry > result.head.entry:
        whose = next(iter(heads[entry].values()))
        result.add(result.head.seq, "truncated", f"the chain ends here, at entry {result.head.entry}; it had {entry}"
                                                 f" when {whose}: the newest entries are missing")


def _check_forgets(store: Statements, result: Result) -> None:
    """Check that certificates account for what is forgotten."""
    gone = store.execute("SELECT count(*) FROM chain WHERE salt IS NULL").fetchone()[0]
    certified = result.begun.get("forgotten", 0) + sum(detail.get("entries", 0) for detail in _details(store, "forget"))
    if gone != certified:
        result.add(result.head.seq, "uncertified",
                   f"{gone} entries are forgotten, and the certificates in the history have {certified}")
