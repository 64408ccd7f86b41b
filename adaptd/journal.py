"""The journal: events and labels in one order, and what they do to the learned rows, in the same transaction.

Where: between ingest and everything else. All `_functions(connection, …)` run inside the writer, so that what
they read (holds, lineage, alive rows) cannot change under them. A label's learned rows are committed with the
label, which is why "exactly once, in journal order" needs no further proof than the transaction.
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
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, Protocol

from sqlalchemy import Connection, Select, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from adaptd import blobs, bounds, deadletters, outbox, relearn, setaside, tested
from adaptd import tables as t
from adaptd.chain import EVENT, LABEL, Chain
from adaptd.db import Writer, insert_columns, insert_many, insert_missing, keys_of, of_keys
from adaptd.drift import Change
from adaptd.errors import BadPayload, Conflict, Forgotten, NotFound, Refused
from adaptd.history import act
from adaptd.quarantine import Finding
from adaptd.records import MISSING, Columns, DeadLetter, Erased, Feedback, Item, Learned, Receipt, Row, canonical, labelled
from adaptd.relearn import Scope
from adaptd.rows import HoldoutRule, Interval, alive, lineage
from adaptd.setaside import LEARNED, QUARANTINE, REFUSED, WAITING
from adaptd.tagging import Tagging
from adaptd.tested import Tested
from adaptd.weak import family, is_weak, marked

log = logging.getLogger(__name__)
TOKEN_BYTES = 4  # of an event's id, behind its seq
CHUNK = 256  # held labels that are learned in one operation


class Targets(Protocol):
    """What the journal needs of a domain when a held label is learned at last."""

    def __call__(self, domain: int, label: Any) -> Mapping[str, str]:
        """Return the checked targets of a label, one per head."""
        ...


@dataclass
class _Live:
    """What the writer knows of a domain's live state; only the writer's thread changes it."""

    intervals: list[Interval]
    holds: set[str] = field(default_factory=set)  # sources whose labels wait; "" = all
    quarantined: dict[str, tuple[float, str]] = field(default_factory=dict)  # those held by themselves: since, why


@dataclass
class Outcome:
    """What an append did: one receipt per item, the learner's work, the newest seq."""

    receipts: list[Receipt]
    learned: list[Learned]
    seq: int
    new: Sequence[str] = ()  # in the place of receipts: the ids of the items' events, all of which are new and have no label


class Journal:
    """Appends items and labels through the writer; hands what they taught to `on_learned`, in order."""

    def __init__(self, writer: Writer, targets: Targets, on_learned: Callable[[Sequence[Learned]], None]) -> None:
        self._writer = writer
        self._targets = targets
        self._on_learned = on_learned
        self.holdout: dict[int, HoldoutRule] = {}
        self.tagging: dict[int, Tagging | None] = {}  # of the domains that tag words
        self.weak: dict[int, frozenset[str]] = {}  # sources whose labels are marked as weak
        self._seen: Counter[tuple[int, str, str]] = Counter()  # births per domain, head and class
        self._live: dict[int, _Live] = {}
        self._next_row = 0
        self._last_prediction = 0  # its id: not the database's to give, which would give one again that was forgotten
        self._key = b""  # the store's: recognises the ids of forgotten events
        self._tombs = False  # there are forgotten events
        self._chain = Chain()
        writer.before_commit = self._chain.seal
        self.forgotten: set[int] = set()  # in this process's life: what is under way to them is dropped

    def open(self, connection: Connection) -> None:
        """Read what the writer needs to know; before the writer starts."""
        self._next_row = connection.scalar(select(func.coalesce(func.max(t.learned.c.id), 0))) or 0
        self._last_prediction = outbox.last_prediction(connection)
        count = select(t.learned.c.domain, t.learned.c.head, t.learned.c.target, func.count().label("n"))
        for row in connection.execute(count.group_by(t.learned.c.domain, t.learned.c.head, t.learned.c.target)):
            self._seen[self._class(row.domain, row.head, row.target)] += row.n
        self._key = bytes.fromhex(connection.scalar(select(t.store.c.value).where(t.store.c.key == "hmac")) or "")
        self._tombs = connection.scalar(select(t.event.c.seq).where(t.event.c.source == t.FORGOTTEN).limit(1)) is not None
        self._chain.open(connection)
        for row in connection.execute(select(t.live)):
            self._live[row.domain] = _Live(lineage(connection, row.branch))
        for row in connection.execute(select(t.hold).where(t.hold.c.what == "learning")):
            self._live[row.domain].holds.add(row.source)
        for row in connection.execute(select(t.hold).where(t.hold.c.what == QUARANTINE)):
            self._live[row.domain].quarantined[row.source] = row.since, row.reason

    # -- what others call, from any thread -------------------------------------------------------------------

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

    def hold(self, domain: int, what: str, source: str, reason: str, actor: str) -> Future[None]:
        """Stop learning (of one source, or "" = all) or adaptation; journal and answers go on."""

        def run(connection: Connection) -> None:
            key = {"domain": domain, "what": what, "source": source}
            connection.execute(delete(t.hold).where(*(t.hold.c[k] == v for k, v in key.items())))
            connection.execute(insert(t.hold).values(**key, since=time.time(), reason=reason))
            act(connection, self._writer.last_seq, domain, f"hold-{what}", actor, reason, detail={"source": source})

            if what == "learning":  # here, not after the commit: the next operation of this group must see it
                self._live[domain].holds.add(source)

        return self._writer.submit(run)

    def resume(self, domain: int, what: str, source: str, reason: str, actor: str) -> int:
        """Lift a hold and learn what waited, except what other holds still keep; return how many labels.

        What waited of a source that is named is admitted: it is learned, whatever others taught. In chunks, so that answers
        need not wait for it; the hold goes with the last one. Blocks until then.
        """
        learned = 0
        while True:
            outcome, last = self._writer.submit(
                lambda c: self._resume_some(c, domain, what, source, reason, actor), after=lambda done: self._deliver(done[0])
            ).result()
            learned += len(outcome.learned)
            if last:
                return learned

    def drop(self, domain: int, source: str, reason: str, actor: str) -> Future[int]:
        """Lift the hold of a source; what waited is never learned. Return how many labels."""

        def run(connection: Connection) -> int:
            dropped = setaside.drop(connection, domain, source)
            setaside.release(connection, domain, source)
            detail = {"source": source, "dropped": dropped}
            act(connection, self._writer.last_seq, domain, "drop-learning", actor, reason, detail=detail)
            self._let_go(domain, source)
            return dropped

        return self._writer.submit(run)

    def admit(self, domain: int, source: str, labels: Sequence[int]) -> int:
        """Learn weak labels of a source that wait, by seq; return how many. What a label that is not weak overrules is dropped.

        In chunks, so that answers need not wait for it; a hold that comes in between ends it. Blocks until all are journalled.

        Raises
        ------
        Refused
            Learning, or this source, is on hold: nothing was learned.
        """
        learned = 0
        for start in range(0, len(labels), CHUNK):
            run = functools.partial(self._admit_some, domain=domain, source=source, labels=labels[start : start + CHUNK])
            try:
                learned += len(self._writer.submit(run, after=self._deliver).result().learned)
            except Refused:
                if not start:
                    raise
                break
        return learned

    def _admit_some(self, connection: Connection, domain: int, source: str, labels: Sequence[int]) -> Outcome:
        if any(not held or family(held) == family(source) for held in self._live[domain].holds):
            raise Refused("learning was put on hold meanwhile", hint="try them again after adaptd resume")
        setaside.drop_overruled(connection, domain)
        waiting = setaside.still_waiting(connection, labels)
        learned = self._learn_late(connection, domain, self._missing(connection, domain, waiting), admitted=True)
        _end_waiting(connection, [r.seq for r in waiting], LEARNED)
        setaside.end_older(connection, waiting)
        return Outcome([], learned, self._writer.last_seq)

    def overruled(self, domain: int, labels: Sequence[int]) -> set[int]:
        """End the waiting of those of some labels that a later label of their event overrules, which was learned; return them.

        In chunks, so that answers need not wait for it. Blocks until then.
        """
        def run(connection: Connection, some: Sequence[int]) -> set[int]:
            waiting = setaside.still_waiting(connection, some)
            over = {r.seq for r in waiting} - {r.seq for r, _ in self._missing(connection, domain, waiting)}
            _end_waiting(connection, sorted(over), LEARNED)
            return over

        chunks = (labels[start : start + CHUNK] for start in range(0, len(labels), CHUNK))
        return {seq for some in chunks for seq in self._writer.submit(functools.partial(run, some=some)).result()}

    def propose(self, domain: int, source: str, labels: Mapping[int, Any]) -> Future[int]:
        """Journal what the daemon would label events with, by their seqs, in the place of what it proposed before.

        It waits. Events that have been labelled or forgotten meanwhile are left out; returns how many were not.
        """

        def run(connection: Connection) -> int:
            setaside.drop_proposed(connection, domain)
            rows = [(self._writer.next_seq(), event, canonical(labels[event]), source, time.time())
                    for event in setaside.unlabelled(connection, labels)]
            with self._chain.operation():
                insert_many(connection, t.label, (*LABEL, "held"), [(*row, WAITING) for row in rows])
                self._chain.add([], rows)
            return len(rows)

        return self._writer.submit(run)

    def set_aside(self, domain: int, found: Finding, reason: str) -> Future[Outcome | None]:
        """Hold a source that contradicts others, and take out what it taught since the evidence began.

        What it had corrected holds again. None where somebody has decided about the source since: nothing is done.
        """

        def run(connection: Connection) -> Outcome | None:
            if setaside.decided(connection, domain, found.source, found.since):
                return None
            live, seq = self._live[domain], self._writer.next_seq()
            rows = setaside.taught(connection, domain, live.intervals, found.source, found.since)
            if rows:
                connection.execute(insert(t.death), [{"row": row.id, "seq": seq} for row in rows])
            waiting = setaside.let_wait(connection, rows, found.source)
            live.quarantined[found.source] = setaside.hold(connection, domain, found.source, reason), reason
            live.holds.add(found.source)
            detail = {**found.facts(), "set_aside": waiting}
            act(connection, seq, domain, QUARANTINE, "adaptd", reason, detail=detail)
            again = self._missing(connection, domain, setaside.overruled(connection, rows, found.source, found.since))
            learned = [Learned(seq=seq, domain=domain, died=[row.id for row in rows]),
                       *self._learn_late(connection, domain, again, admitted=True)]
            return Outcome([], learned, self._writer.last_seq)

        return self._writer.submit(run, after=lambda done: None if done is None else self._deliver(done))

    def follow(self, domain: int, found: Change, reason: str) -> Future[Outcome | None]:
        """Let remembered rows follow a label that changed its meaning: each dies, and most are born with the label of now.

        None where that was done already, or nothing of it is alive: nothing is done.
        """

        def run(connection: Connection) -> Outcome | None:
            if relearn.followed(connection, domain, found):
                return None
            rows = relearn.still_alive(connection, domain, self._live[domain].intervals, list(found.moves))
            if not rows:
                return None
            seq, ended = self._writer.next_seq(), [row.id for row in rows if found.moves[row.id] is None]
            if ended:
                connection.execute(insert(t.death), [{"row": row, "seq": seq} for row in ended])
            learned = [Learned(seq=seq, domain=domain, died=ended)] if ended else []
            learned += [self._move(connection, domain, row, target) for row in rows if (target := found.moves[row.id])]
            act(connection, self._writer.last_seq, domain, relearn.DRIFT, "adaptd", reason, detail=found.facts())
            return Outcome([], learned, self._writer.last_seq)

        return self._writer.submit(run, after=lambda done: None if done is None else self._deliver(done))

    def _move(self, connection: Connection, domain: int, row: Any, target: str) -> Learned:
        """Let a row die and be born with another target, at a seq of its own."""
        seq = self._writer.next_seq()
        connection.execute(insert(t.death).values(row=row.id, seq=seq))
        birth = self._birth(domain, seq, row.event, {row.head: target}, row.source, row.content, None)
        self._insert_rows(connection, [birth])
        return replace(birth, died=[row.id], admitted=True)

    def replay(self, domain: int, scope: Scope, reason: str, actor: str) -> tuple[int, int]:
        """Learn again what the live lineage lacks, in journal order; return how many labels were learned and how many stayed out.

        The hold of all sources does not bind it, nor does it lift it; a source that is on hold by itself stays out. In
        chunks, each of them whole; done again it does nothing.
        """
        relearned, skipped, after = 0, 0, 0
        while True:
            run = functools.partial(self._replay_some, domain=domain, scope=scope, after=after)
            outcome, out, last = self._writer.submit(run, after=lambda done: self._deliver(done[0])).result()
            relearned, skipped = relearned + len(outcome.learned), skipped + out
            if last is None:
                break
            after = last
        detail = {**scope.facts(), "relearned": relearned, "skipped": skipped}
        self._writer.submit(lambda c: act(c, self._writer.last_seq, domain, "replay", actor, reason, detail=detail)).result()
        return relearned, skipped

    def _replay_some(self, connection: Connection, domain: int, scope: Scope, after: int) -> tuple[Outcome, int, int | None]:
        """Learn a chunk again; return what was learned, how many stayed out, and the last seq unless it is the last chunk."""
        found = relearn.page(connection, domain, scope, after, CHUNK)
        missing = self._missing(connection, domain, found)
        sources, events = (self._live[domain].holds | scope.sources) - {""}, set(scope.events.values())
        due = [(r, targets) for r, targets in missing if r.source not in sources and r.event not in events
               and not (r.held == WAITING and is_weak(r.source))]
        learned = self._learn_late(connection, domain, due)
        last = found[-1].seq if len(found) == CHUNK else None
        return Outcome([], learned, self._writer.last_seq), len(missing) - len(learned), last

    def _missing(self, connection: Connection, domain: int, labels: Sequence[Any]) -> list[tuple[Any, Mapping[str, str]]]:
        """Return the labels that the live lineage lacks, with their targets."""
        def rows(event: int, targets: Mapping[str, str]) -> Sequence[tuple[str, int, str]]:
            return self._rows(domain, targets, self._text(connection, domain, event))

        return relearn.missing(connection, domain, self._live[domain].intervals, labels,
                               functools.partial(self._targets, domain), rows)

    def _resume_some(
        self, connection: Connection, domain: int, what: str, source: str, reason: str, actor: str
    ) -> tuple[Outcome, bool]:
        """Learn a chunk of what waits; with the last one lift the hold."""
        learned: list[Learned] = []
        seen = 0
        still = self._live[domain].holds - {source}
        if what == "learning" and "" not in still:
            learned, seen = self._learn_waiting(connection, domain, still, source)
        if seen == CHUNK:
            return Outcome([], learned, self._writer.last_seq), False
        setaside.release(connection, domain, source, what)
        act(connection, self._writer.last_seq, domain, f"resume-{what}", actor, reason, detail={"source": source})
        if what == "learning":
            self._let_go(domain, source)
        return Outcome([], learned, self._writer.last_seq), True

    def _let_go(self, domain: int, source: str) -> None:
        live = self._live[domain]
        live.holds.discard(source)
        live.quarantined.pop(source, None)

    def forget(self, run: Callable[[Connection], Erased]) -> Future[Erased]:
        """Let `run` take events out of the tables; what is under way to them is dropped from then on."""

        def write(connection: Connection) -> Erased:
            with self._chain.sealed(connection):  # what came in the same transaction has a salt to destroy, too
                erased = run(connection)
            self._seen.subtract(self._class(erased.domain, head, target) for _, head, target in erased.rows)
            self.forgotten.update(erased.events)
            self._tombs = self._tombs or bool(erased.events)
            return erased

        return self._writer.submit(write)

    def adopt(self, domain: int, intervals: list[Interval], *, hold: bool) -> None:
        """Follow a moved pointer; runs in the writer, in the operation that moves it."""
        live = self._live.setdefault(domain, _Live([]))
        live.intervals = intervals
        if hold:
            live.holds.add("")

    def holds(self, domain: int) -> set[str]:
        """Return the sources whose learning is on hold; "" stands for all."""
        return set(self._live[domain].holds)

    def quarantined(self, domain: int) -> dict[str, tuple[float, str]]:
        """Return the sources that are held by themselves, since when and why."""
        return dict(self._live[domain].quarantined)

    # -- inside the writer -----------------------------------------------------------------------------------

    def _deliver(self, outcome: Outcome) -> None:
        if outcome.learned:
            self._on_learned(outcome.learned)

    def _append_new(self, connection: Connection, domain: int, items: Columns) -> Outcome | None:
        """Journal unlabelled events whose ids are new, as most are, without a look at each; None, and nothing, where one is not.

        The insert finds that out: to ask for the ids before it takes as long as their index.
        """
        of, count, now = items.of, len(items), time.time()
        if labelled(items) or (self._tombs and self._are_forgotten(connection, domain, of["source"], of["key"])):
            return None
        seqs, tokens, width = self._writer.next_seqs(count), secrets.token_hex(TOKEN_BYTES * count), 2 * TOKEN_BYTES
        names = [f"{seq}-{tokens[at:at + width]}" for seq, at in zip(seqs, range(0, len(tokens), width), strict=True)]
        try:
            with connection.begin_nested():
                insert_columns(connection, t.event, EVENT, [
                    seqs, names, [domain] * count, of["source"], of["key"], of["digest"], of["content"], of["text"],
                    of["answered"], of["subject"], of["time"], [now] * count])
        except IntegrityError:
            return None
        self._chain.add(zip(seqs, names, repeat(domain), of["columns"], repeat(now)), [])  # the first of them are endless
        return Outcome([], [], seqs[-1], names)

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
                teacher = self._marked(domain, item.source)
                held = self._is_held(domain, teacher)
                labels.append((seq, seq, canonical(item.label), teacher, now))
                waiting.append(int(held))
                if not held:
                    text = None if item.example is None else item.example.text
                    learned.append(self._birth(domain, seq, seq, item.targets, teacher, item.content, text))
            receipts.append(Receipt(status="accepted", event=identity, event_seq=seq, held=held))
        insert_many(connection, t.event, EVENT, [
            (seq, identity, domain, item.source, item.key, item.digest, item.content, item.text,
             item.answered, item.subject, item.time, now)
            for seq, identity, item in fresh])
        blobs.keep(connection, [(seq, item.blobs) for seq, _, item in fresh if item.blobs])
        insert_many(connection, t.label, (*LABEL, "held"), [(*row, held) for row, held in zip(labels, waiting, strict=True)])
        self._chain.add([(seq, identity, domain, item.columns, now) for seq, identity, item in fresh], labels)
        self._insert_rows(connection, learned)
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
            read = self._text(connection, domain, event.seq)
            rows = self._rows(domain, given.targets, read)
        except BadPayload as wrong:
            return Receipt(status="rejected", event=event.id, event_seq=event.seq, error=wrong.body()), []
        text, teacher = canonical(given.label), self._marked(domain, given.teacher)
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
        if same and (earlier[0].held == WAITING or self._is_taught(connection, domain, event.seq, rows)):
            return Receipt(status="duplicate", event=event.id, event_seq=event.seq), []
        seq, held = self._writer.next_seq(), self._is_held(domain, teacher)
        row = (seq, event.seq, text, teacher, time.time())
        insert_many(connection, t.label, (*LABEL, "held"), [(*row, int(held))])
        self._chain.add([], [row])
        receipt = Receipt(status="accepted", event=event.id, event_seq=event.seq, held=held)
        if held:
            return receipt, []
        return receipt, [self._teach(connection, domain, seq, event.seq, given.targets, teacher, event.content, read)]

    def _text(self, connection: Connection, domain: int, event: int) -> str | None:
        """Return an event's text, where the domain tags its words."""
        tagging = self.tagging.get(domain)
        if tagging is None:
            return None
        payload = connection.execute(select(t.event.c.payload).where(t.event.c.seq == event)).scalar_one()
        return tagging.text(blobs.read(connection, payload))

    def _rows(self, domain: int, targets: Mapping[str, str], text: str | None) -> list[tuple[str, int, str]]:
        """Return head, part and target of the rows that a label is learned as; raise BadPayload where it is not of the text."""
        tagging = self.tagging.get(domain)
        if tagging is None:
            return [(head, 0, target) for head, target in targets.items()]
        return [(head, part, tag) for head, target in targets.items() for part, tag in tagging.rows(head, target, text or "")]

    def _is_taught(self, connection: Connection, domain: int, event: int, rows: Sequence[tuple[str, int, str]]) -> bool:
        current = {(r.head, r.part, r.target) for r in self._alive_of(connection, domain, event)}
        return bool(current) and set(rows) <= current

    def _teach(
        self, connection: Connection, domain: int, seq: int, event: int, targets: Mapping[str, str], source: str, content: bytes,
        text: str | None
    ) -> Learned:
        """Let an event's rows for these heads die, and new ones be born, at `seq`."""
        died = [r.id for r in self._alive_of(connection, domain, event) if r.head in targets]
        if died:
            connection.execute(insert(t.death), [{"row": row, "seq": seq} for row in died])
        birth = self._birth(domain, seq, event, targets, source, content, text)
        self._insert_rows(connection, [birth])
        return Learned(seq=seq, domain=birth.domain, born=birth.born, died=died)

    def _learn_waiting(
        self, connection: Connection, domain: int, still: set[str], source: str
    ) -> tuple[list[Learned], int]:
        """Teach a chunk of the labels that wait, oldest first; return what was taught and how many were looked at.

        A `source` that is named is admitted; weak labels wait on unless theirs is.

        One whose event has learned a later label meanwhile (a replay's, another source's) is overruled, and waits no more.
        """
        if is_weak(source):
            setaside.drop_overruled(connection, domain)
        query = (
            select(t.label.c.seq, t.label.c.event, t.label.c.label, t.label.c.source, t.event.c.content)
            .join(t.event, t.event.c.seq == t.label.c.event)
            .where(t.event.c.domain == domain, t.label.c.held == WAITING, t.label.c.source.not_in(still),
                   or_(t.label.c.source == source, ~setaside.weak(t.label.c.source)))
            .order_by(t.label.c.seq)
            .limit(CHUNK)
        )
        waiting = connection.execute(query).all()
        learned = self._learn_late(connection, domain, self._missing(connection, domain, waiting), admitted=bool(source))
        _end_waiting(connection, [r.seq for r in waiting], LEARNED)
        return learned, len(waiting)

    def _learn_late(
        self, connection: Connection, domain: int, due: Sequence[tuple[Any, Mapping[str, str]]], *, admitted: bool = False
    ) -> list[Learned]:
        """Teach labels that are in the journal already, in its order; one that the domain refuses now stays unlearned."""
        learned, refused = [], [r.seq for r, targets in due if not targets]
        for r, targets in due:
            if targets:
                try:
                    text = self._text(connection, domain, r.event)
                    self._rows(domain, targets, text)
                except BadPayload:  # the domain reads another text now
                    refused.append(r.seq)
                    continue
                taught = self._teach(connection, domain, self._writer.next_seq(), r.event, targets, r.source, r.content, text)
                learned.append(replace(taught, admitted=admitted))
        _end_waiting(connection, refused, REFUSED)
        _end_waiting(connection, [r.seq for r, _ in due], LEARNED)
        return learned

    def _marked(self, domain: int, source: str) -> str:
        return marked(source, self.weak.get(domain, ()))

    def _is_held(self, domain: int, source: str) -> bool:
        return is_weak(source) or bool(self._live[domain].holds & {"", source})

    def _birth(
        self, domain: int, seq: int, event: int, targets: Mapping[str, str], source: str, content: bytes, text: str | None
    ) -> Learned:
        born = []
        for head, part, target in self._rows(domain, targets, text):
            self._next_row += 1
            kind = self._class(domain, head, target)
            held_out = not is_weak(source) and self.holdout[domain].chooses(content, self._seen[kind])
            self._seen[kind] += 1
            born.append(
                Row(
                    id=self._next_row,
                    event=event,
                    part=part,
                    head=head,
                    target=target,
                    born=seq,
                    source=source,
                    content=content,
                    holdout=held_out,
                )
            )
        return Learned(seq=seq, domain=domain, born=born)

    def _class(self, domain: int, head: str, target: str) -> tuple[int, str, str]:
        rule = self.holdout.get(domain)
        return domain, head, target if rule is None else rule.counted(head, target)

    def _insert_rows(self, connection: Connection, learned: Iterable[Learned]) -> None:
        values = [
            {
                "id": r.id,
                "domain": one.domain,
                "event": r.event,
                "part": r.part,
                "head": r.head,
                "target": r.target,
                "source": r.source,
                "born": r.born,
                "holdout": int(r.holdout),
            }
            for one in learned
            for r in one.born
        ]
        if values:
            connection.execute(insert(t.learned), values)

    def _alive_of(self, connection: Connection, domain: int, event: int) -> list[Any]:
        query = alive(domain, self._live[domain].intervals).where(t.learned.c.event == event)
        return list(connection.execute(query))


@functools.cache
def _by_key(dialect: str) -> Select[Any]:
    """Return the query for a source's events by their ids, made once: that takes longer than to ask it."""
    columns = t.event.c.key, t.event.c.seq, t.event.c.id, t.event.c.digest
    here = t.event.c.domain == bindparam("of"), t.event.c.source == bindparam("from")
    return of_keys(dialect, select(*columns).where(*here), t.event.c.key)


def _end_waiting(connection: Connection, seqs: Sequence[int], became: int) -> None:
    """Note what became of labels that waited; others stay what they are."""
    waited = t.label.c.seq.in_(seqs), t.label.c.held == WAITING
    connection.execute(update(t.label).where(*waited).values(held=became))


def token(key: bytes, source: str | None, name: str | None) -> str:
    """Return what is kept of a forgotten event's id: enough to recognise it, not to read it."""
    return hmac.digest(key, canonical([source, name]).encode(), "sha256").hex()


def _gone(what: str) -> Forgotten:
    return Forgotten(f"{what} was forgotten", field="id", hint="it is not learned again; what is new needs an id of its own")
