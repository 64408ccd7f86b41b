"""The journal: events and labels in one order, and what they do to the learned rows, in the same transaction.

Where: between ingest and everything else. All `_functions(connection, …)` run inside the writer, so that what
they read cannot change under them. What a label is born as: `adaptd.births`; what is learned later than it came: `adaptd.late`.
"""

from __future__ import annotations

import functools
import hmac
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import repeat
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from adaptd import blobs, bounds, db, deadletters, outbox, tested
from adaptd import tables as t
from adaptd.births import Births
from adaptd.chain import EVENT, LABEL, Chain
from adaptd.db import Writer, insert_columns, insert_many, insert_missing, keys_of, of_keys
from adaptd.errors import BadPayload, Conflict, Forgotten, NotFound
from adaptd.late import Late, Targets
from adaptd.records import MISSING, Columns, DeadLetter, Erased, Feedback, Item, Learned, Outcome, Receipt, canonical, labelled
from adaptd.setaside import WAITING
from adaptd.tested import Tested
from adaptd.weak import is_weak

log = logging.getLogger(__name__)
TOKEN_BYTES = 4  # of an event's id, behind its seq


class Journal:
    """Appends items and labels through the writer; hands what they taught to `on_learned`, in order."""

    def __init__(self, writer: Writer, targets: Targets, on_learned: Callable[[Sequence[Learned]], None]) -> None:
        self._writer = writer
        self._on_learned = on_learned
        self._last_prediction = 0  # its id: not the database's to give, which would give one again that was forgotten
        self._key = b""  # the store's: recognises the ids of forgotten events
        self._tombs = False  # there are forgotten events
        self._chain = Chain()
        self.births = Births()
        self.late = Late(writer, self._chain, self.births, targets, self._deliver)
        writer.before_commit = self._chain.seal
        self.forgotten: set[int] = set()  # in this process's life: what is under way to them is dropped

    def open(self, connection: Connection) -> None:
        """Read what the writer needs to know; before the writer starts."""
        self._last_prediction = outbox.last_prediction(connection)
        self._key = bytes.fromhex(connection.scalar(select(t.store.c.value).where(t.store.c.key == "hmac")) or "")
        self._tombs = connection.scalar(select(t.event.c.seq).where(t.event.c.source == t.FORGOTTEN).limit(1)) is not None
        self._chain.open(connection)
        self.births.open(connection)

    def append(
        self,
        domain: int,
        items: Sequence[Item | Feedback] | Columns,
        *,
        cursor: tuple[str, str] | None = None,
        dead: Sequence[DeadLetter] = (),
        letters: Sequence[DeadLetter] = (),
        bounded: bool = False,
        lane: str = "events",
    ) -> Future[Outcome]:
        """Journal items and labels for earlier events (and move a feed's cursor, and keep what was not taken) in one transaction.

        `letters`: the feed's items as they came, in the same order; one that is refused here is kept so.
        """
        size = items.size if isinstance(items, Columns) else sum(item.size for item in items if isinstance(item, Item))
        size += sum(len(letter.raw) for letter in dead)

        def run(connection: Connection) -> Outcome:
            with self._chain.operation():
                new = self._append_new(connection, domain, items) if isinstance(items, Columns) else None
                outcome = new or self._append(connection, domain, [*items])
                if cursor is not None:
                    name, value = cursor
                    connection.execute(update(t.feed).where(t.feed.c.name == name).values(cursor=value))
                    refused = [
                        replace(letter, reason=canonical(receipt.error))
                        for letter, receipt in zip(letters, outcome.receipts, strict=True)
                        if receipt.error is not None and receipt.error["code"] != Forgotten.code  # it would be kept again
                    ]
                    deadletters.keep(connection, name, [*dead, *refused])
                return outcome

        return self._writer.submit(run, events=max(1, len(items)), size=size, bounded=bounded, lane=lane, after=self._deliver)

    def revive(
        self, domain: int, items: Mapping[int, Item | Feedback], refused: Mapping[int, str]
    ) -> Future[tuple[Outcome, list[int]]]:
        """Journal dead letters, by their ids, and let go of them in one transaction; return the ids that are gone.

        `refused`: those that the door refused again, and why. What was forgotten is let go of and not journalled.
        """

        def run(connection: Connection) -> tuple[Outcome, list[int]]:
            there = deadletters.still_there(connection, [*items])
            due = {number: item for number, item in items.items() if number in there}
            with self._chain.operation():
                outcome = self._append(connection, domain, [*due.values()])
            errors = {number: receipt.error for number, receipt in zip(due, outcome.receipts, strict=True)}
            gone = [number for number, error in errors.items() if error is None or error["code"] == Forgotten.code]
            deadletters.taken(connection, gone)
            again = {number: canonical(error) for number, error in errors.items() if number not in gone}
            deadletters.refused_again(connection, {**refused, **again})
            return outcome, gone

        return self._writer.submit(run, events=max(1, len(items)), after=lambda done: self._deliver(done[0]))

    def feedback(self, domain: int, given: Sequence[Feedback], *, bounded: bool = False) -> Future[Outcome]:
        """Journal labels for earlier events in one transaction."""

        def run(connection: Connection) -> Outcome:
            receipts, learned = [], []
            with self._chain.operation():
                for one in given:
                    receipt, taught = self._label(connection, domain, one)
                    receipts.append(receipt)
                    learned += taught
            return Outcome(receipts, learned, self._writer.last_seq)

        return self._writer.submit(run, events=len(given), bounded=bounded, after=self._deliver)

    def record(
        self, encoder: int, predictions: Sequence[Mapping[str, Any]], vectors: Sequence[tuple[int, int, bytes]],
        anew: Sequence[int] = ()
    ) -> Future[None]:
        """Store answers, and vectors (event, part, bytes) not stored yet; those stored of events that are read anew give way."""

        def run(connection: Connection) -> None:
            if kept := [one for one in predictions if one["event"] not in self.forgotten]:
                first, self._last_prediction = self._last_prediction + 1, self._last_prediction + len(kept)
                connection.execute(insert(t.prediction), [{"id": number, **one} for number, one in enumerate(kept, first)])
            if anew:
                stale = t.vector.c.event.in_(anew), t.vector.c.encoder == encoder
                connection.execute(delete(t.vector).where(*stale))
            if fresh := [one for one in vectors if one[0] not in self.forgotten]:
                statement = insert_missing(connection, t.vector)
                connection.execute(statement, [{"event": e, "part": p, "encoder": encoder, "data": d} for e, p, d in fresh])

        return self._writer.submit(run)

    def committed(self) -> Future[None]:
        """Return a future that is done when all that was given to the writer by now is committed."""
        return self._writer.submit(lambda connection: None)

    def evicted(self, domain: int, through: int, rows: Sequence[tuple[int, int]]) -> Future[None]:
        """Record what memory evicted, (row, seq): all of it up to `through`."""
        return self._writer.submit(lambda connection: bounds.record(connection, domain, through, rows))

    def tested(self, encoder: int, told: Sequence[Tested]) -> Future[None]:
        """Record what labels told before they were learned."""
        return self._writer.submit(lambda connection: tested.record(connection, encoder, told))

    def forget(self, run: Callable[[Connection], Erased]) -> Future[Erased]:
        """Let `run` take events out of the tables; what is under way to them is dropped from then on."""

        def write(connection: Connection) -> Erased:
            with self._chain.sealed(connection):  # what came in the same transaction has a salt to destroy, too
                erased = run(connection)
            self.births.forgotten(erased)
            self.forgotten.update(erased.events)
            self._tombs = self._tombs or bool(erased.events)
            return erased

        return self._writer.submit(write)

    def _deliver(self, outcome: Outcome) -> None:
        if outcome.learned:
            self._on_learned(outcome.learned)

    def _append_new(self, connection: Connection, domain: int, items: Columns) -> Outcome | None:
        """Journal unlabelled events whose ids are new, as most are, without a look at each; None, and nothing, where one is not.

        The insert finds that out, where a server does not log it with the ids: to ask for them takes as long as their index.
        """
        of, count, now = items.of, len(items), time.time()
        if labelled(items) or (self._tombs and self._are_forgotten(connection, domain, of["source"], of["key"])):
            return None
        if not db.fails_quietly(connection) and self._came_before(connection, domain, of["source"], of["key"]):
            return None
        seqs, tokens, width = self._writer.ahead(count), secrets.token_hex(TOKEN_BYTES * count), 2 * TOKEN_BYTES
        names = [f"{seq}-{tokens[at:at + width]}" for seq, at in zip(seqs, range(0, len(tokens), width), strict=True)]
        try:
            with connection.begin_nested():
                insert_columns(connection, t.event, EVENT, [
                    seqs, names, [domain] * count, of["source"], of["key"], of["digest"], of["content"], of["text"],
                    of["answered"], of["subject"], of["time"], [now] * count])
        except IntegrityError:
            return None
        self._writer.take(seqs)
        self._chain.add(zip(seqs, names, repeat(domain), of["columns"], repeat(now)), [])  # the first of them are endless
        return Outcome([], [], seqs[-1], names)

    def _came_before(self, connection: Connection, domain: int, sources: Sequence[str], keys: Sequence[str | None]) -> bool:
        """Say whether one of the ids came before, or comes twice."""
        names = Counter((source, key) for source, key in zip(sources, keys, strict=True) if key is not None)
        by_source = {source: [key for one, key in names if one == source] for source, _ in names}
        return names.total() > len(names) or any(
            True for source, mine in by_source.items() for _ in self._of_keys(connection, domain, source, mine))

    def _are_forgotten(self, connection: Connection, domain: int, sources: Sequence[str], keys: Sequence[str | None]) -> bool:
        """Say whether one of the ids is of an event that was forgotten."""
        tokens = [token(self._key, source, key) for source, key in zip(sources, keys, strict=True) if key is not None]
        return any(self._of_keys(connection, domain, t.FORGOTTEN, tokens))

    def _append(self, connection: Connection, domain: int, items: Sequence[Item | Feedback]) -> Outcome:
        known = self._known(connection, domain, [item for item in items if isinstance(item, Item)])
        receipts: list[Receipt] = []
        fresh: list[tuple[int, str, Item]] = []
        labels: list[tuple[Any, ...]] = []  # as LABEL says
        learned: list[Learned] = []
        late: list[tuple[int, Feedback]] = []
        waiting: list[int] = []
        now, tokens = time.time(), secrets.token_hex(TOKEN_BYTES * len(items))
        for place, item in enumerate(items):
            if isinstance(item, Feedback):
                late.append((place, item))
                receipts.append(Receipt(status="unknown"))
                continue
            name, digest = (item.source, item.key), item.digest
            if item.key is not None and name in known:
                receipts.append(self._again(known[name], digest, item, place, late))
                continue
            seq = self._writer.next_seq()
            identity = f"{seq}-{tokens[place * 2 * TOKEN_BYTES:(place + 1) * 2 * TOKEN_BYTES]}"
            fresh.append((seq, identity, item))
            if item.key is not None:
                known[name] = (seq, identity, digest)
            held = False
            if item.label is not MISSING:
                teacher = self.births.marked(domain, item.source)
                held = self.births.is_held(domain, teacher)
                labels.append((seq, seq, canonical(item.label), teacher, now))
                waiting.append(int(held))
                if not held:
                    text = None if item.example is None else item.example.text
                    learned.append(self.births.birth(domain, seq, seq, item.targets, teacher, item.content, text))
            receipts.append(Receipt(status="accepted", event=identity, event_seq=seq, held=held))
        insert_many(connection, t.event, EVENT, [
            (seq, identity, domain, item.source, item.key, item.digest, item.content, item.text,
             item.answered, item.subject, item.time, now)
            for seq, identity, item in fresh])
        blobs.keep(connection, [(seq, item.blobs) for seq, _, item in fresh if item.blobs])
        insert_many(connection, t.label, (*LABEL, "held"), [(*row, held) for row, held in zip(labels, waiting, strict=True)])
        self._chain.add([(seq, identity, domain, item.columns, now) for seq, identity, item in fresh], labels)
        self.births.write(connection, learned)
        for index, feedback in late:  # after the inserts: the label may be for an event of this very batch
            receipts[index], taught = self._label(connection, domain, feedback)
            learned += taught
        return Outcome(receipts, learned, self._writer.last_seq)

    def _again(
        self, stored: tuple[int, str, bytes], digest: bytes, item: Item, index: int, late: list[tuple[int, Feedback]]
    ) -> Receipt:
        """Judge an id that was seen before: a duplicate, a first label, or a conflict."""
        seq, identity, known_digest = stored
        if not known_digest:
            return Receipt(status="rejected", event=identity, event_seq=seq, error=_gone(f"id {item.key!r}").body())
        if digest != known_digest:
            error = Conflict(
                f"id {item.key!r} of source {item.source!r} came before with another payload",
                field="id",
                hint="give every event its own id; the stored event was not changed",
            )
            return Receipt(status="rejected", event=identity, event_seq=seq, error=error.body())
        if item.label is not MISSING:
            late.append(
                (index, Feedback(event=identity, label=item.label, targets=item.targets, teacher=item.source, first_only=True))
            )
        return Receipt(status="duplicate", event=identity, event_seq=seq)

    def _known(
        self, connection: Connection, domain: int, items: Sequence[Item]
    ) -> dict[tuple[str, str | None], tuple[int, str, bytes]]:
        by_source: dict[str, list[str]] = {}
        for item in items:
            if item.key is not None:
                by_source.setdefault(item.source, []).append(item.key)
        known: dict[tuple[str, str | None], tuple[int, str, bytes]] = {}
        for source, keys in by_source.items():
            known.update({(source, r.key): (r.seq, r.id, r.digest) for r in self._of_keys(connection, domain, source, keys)})
            if self._tombs:
                known.update(self._forgotten_of(connection, domain, source, keys))
        return known

    @staticmethod
    def _of_keys(connection: Connection, domain: int, source: str, keys: Sequence[str]) -> Iterable[Any]:
        dialect = connection.dialect.name
        return connection.execute(_by_key(dialect), {"of": domain, "from": source, "keys": keys_of(dialect, keys)})

    def _forgotten_of(
        self, connection: Connection, domain: int, source: str, keys: Sequence[str]
    ) -> dict[tuple[str, str | None], tuple[int, str, bytes]]:
        """Return those of the ids whose events were forgotten; they have no digest."""
        tokens = {token(self._key, source, key): key for key in keys}
        found = self._of_keys(connection, domain, t.FORGOTTEN, [*tokens])
        return {(source, tokens[r.key]): (r.seq, r.id, r.digest) for r in found}

    def _label(self, connection: Connection, domain: int, given: Feedback) -> tuple[Receipt, list[Learned]]:
        """Journal one label for an earlier event; the same label again is a no-op."""
        where = (
            (t.event.c.id == given.event)
            if given.event is not None
            else or_(
                and_(t.event.c.source == given.source, t.event.c.key == given.key),
                and_(t.event.c.source == t.FORGOTTEN, t.event.c.key == token(self._key, given.source, given.key)),
            )
        )
        event = connection.execute(
            select(t.event.c.seq, t.event.c.id, t.event.c.source, t.event.c.content).where(t.event.c.domain == domain, where)
        ).one_or_none()
        if event is None:
            name = given.event or f"{given.source}/{given.key}"
            error = NotFound(
                f"no event {name!r} in this domain", field="event", hint="use the id from the receipt, or (source, id)"
            )
            return Receipt(status="unknown", error=error.body()), []
        if event.source == t.FORGOTTEN:
            return Receipt(status="rejected", event=event.id, event_seq=event.seq, error=_gone("this event").body()), []
        try:
            read = self.births.text(connection, domain, event.seq)
            rows = self.births.rows(domain, given.targets, read)
        except BadPayload as wrong:
            return Receipt(status="rejected", event=event.id, event_seq=event.seq, error=wrong.body()), []
        text, teacher = canonical(given.label), self.births.marked(domain, given.teacher)
        earlier = connection.execute(
            select(t.label.c.label, t.label.c.held, t.label.c.source).where(t.label.c.event == event.seq)
            .order_by(t.label.c.seq.desc())
        ).all()
        if not is_weak(teacher):  # it takes the place of a weak one that says the same, too
            earlier = [one for one in earlier if not is_weak(one.source)]
        if given.first_only and earlier:  # the event was delivered again
            if text in {e.label for e in earlier}:
                return Receipt(status="duplicate", event=event.id, event_seq=event.seq), []
            refused = Conflict("this event has another label already", field="label", hint="correct it with POST …/feedback")
            return Receipt(status="rejected", event=event.id, event_seq=event.seq, error=refused.body()), []
        if is_weak(teacher):  # it is tried by itself, whatever others say
            earlier = [one for one in earlier if one.source == teacher]
        same = bool(earlier) and earlier[0].label == text  # else it is said anew, though an older one may hold again meanwhile
        if same and (earlier[0].held == WAITING or self.births.is_taught(connection, domain, event.seq, rows)):
            return Receipt(status="duplicate", event=event.id, event_seq=event.seq), []
        seq, held = self._writer.next_seq(), self.births.is_held(domain, teacher)
        row = (seq, event.seq, text, teacher, time.time())
        insert_many(connection, t.label, (*LABEL, "held"), [(*row, int(held))])
        self._chain.add([], [row])
        receipt = Receipt(status="accepted", event=event.id, event_seq=event.seq, held=held)
        if held:
            return receipt, []
        return receipt, [self.births.teach(connection, domain, seq, event.seq, given.targets, teacher, event.content, read)]


@functools.cache
def _by_key(dialect: str) -> Select[Any]:
    """Return the query for a source's events by their ids, made once: that takes longer than to ask it."""
    columns = t.event.c.key, t.event.c.seq, t.event.c.id, t.event.c.digest
    here = t.event.c.domain == bindparam("of"), t.event.c.source == bindparam("from")
    return of_keys(dialect, select(*columns).where(*here), t.event.c.key)


def token(key: bytes, source: str | None, name: str | None) -> str:
    """Return what is kept of a forgotten event's id: enough to recognise it, not to read it."""
    return hmac.digest(key, canonical([source, name]).encode(), "sha256").hex()


def _gone(what: str) -> Forgotten:
    return Forgotten(f"{what} was forgotten", field="id", hint="it is not learned again; what is new needs an id of its own")
