"""Late: labels that are in the journal and are learned later than they came, or another way than they came.

Held ones that are let go, weak ones that are admitted, those that a rollback took back and a replay learns again, those of a
source that is set aside, and rows that follow a label that changed its meaning. All `_functions(connection, …)` run inside the
writer, as the journal's do, and in chunks, so that answers need not wait for them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy import Connection, delete, insert, or_, select, update

from adaptd import relearn, setaside
from adaptd import tables as t
from adaptd.births import Births
from adaptd.chain import LABEL, Chain
from adaptd.db import Writer, insert_many
from adaptd.drift import Change
from adaptd.errors import BadPayload, Refused
from adaptd.history import act
from adaptd.quarantine import Finding
from adaptd.records import Learned, Outcome, canonical
from adaptd.relearn import Scope
from adaptd.setaside import LEARNED, QUARANTINE, REFUSED, WAITING
from adaptd.weak import family, is_weak

CHUNK = 256  # labels that are learned in one operation


class Targets(Protocol):
    """What is needed of a domain when a label is learned at last."""

    def __call__(self, domain: int, label: Any) -> Mapping[str, str]:
        """Return the checked targets of a label, one per head."""
        ...


class Late:
    """Learns labels late; one per journal."""

    def __init__(self, writer: Writer, chain: Chain, births: Births, targets: Targets,
                 deliver: Callable[[Outcome], None]) -> None:
        self._writer = writer
        self._chain = chain
        self._births = births
        self._targets = targets
        self._deliver = deliver

    def holds(self, domain: int) -> set[str]:
        """Return the sources whose learning is on hold; "" stands for all."""
        return set(self._births.live[domain].holds)

    def quarantined(self, domain: int) -> dict[str, tuple[float, str]]:
        """Return the sources that are held by themselves, since when and why."""
        return dict(self._births.live[domain].quarantined)

    def hold(self, domain: int, what: str, source: str, reason: str, actor: str) -> Future[None]:
        """Stop learning (of one source, or "" = all) or adaptation; journal and answers go on."""

        def run(connection: Connection) -> None:
            key = {"domain": domain, "what": what, "source": source}
            connection.execute(delete(t.hold).where(*(t.hold.c[k] == v for k, v in key.items())))
            connection.execute(insert(t.hold).values(**key, since=time.time(), reason=reason))
            act(connection, self._writer.last_seq, domain, f"hold-{what}", actor, reason, detail={"source": source})

            if what == "learning":  # here, not after the commit: the next operation of this group must see it
                self._births.live[domain].holds.add(source)

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

    def _resume_some(
        self, connection: Connection, domain: int, what: str, source: str, reason: str, actor: str
    ) -> tuple[Outcome, bool]:
        """Learn a chunk of what waits; with the last one lift the hold."""
        learned: list[Learned] = []
        seen = 0
        still = self._births.live[domain].holds - {source}
        if what == "learning" and "" not in still:
            learned, seen = self._learn_waiting(connection, domain, still, source)
        if seen == CHUNK:
            return Outcome([], learned, self._writer.last_seq), False
        setaside.release(connection, domain, source, what)
        act(connection, self._writer.last_seq, domain, f"resume-{what}", actor, reason, detail={"source": source})
        if what == "learning":
            self._births.live[domain].let_go(source)
        return Outcome([], learned, self._writer.last_seq), True

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

    def drop(self, domain: int, source: str, reason: str, actor: str) -> Future[int]:
        """Lift the hold of a source; what waited is never learned. Return how many labels."""

        def run(connection: Connection) -> int:
            dropped = setaside.drop(connection, domain, source)
            setaside.release(connection, domain, source)
            detail = {"source": source, "dropped": dropped}
            act(connection, self._writer.last_seq, domain, "drop-learning", actor, reason, detail=detail)
            self._births.live[domain].let_go(source)
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
        if any(not held or family(held) == family(source) for held in self._births.live[domain].holds):
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
            live, seq = self._births.live[domain], self._writer.next_seq()
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
            rows = relearn.still_alive(connection, domain, self._births.live[domain].intervals, list(found.moves))
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
        birth = self._births.birth(domain, seq, row.event, {row.head: target}, row.source, row.content, None)
        self._births.write(connection, [birth])
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
        sources, events = (self._births.live[domain].holds | scope.sources) - {""}, set(scope.events.values())
        due = [(r, targets) for r, targets in missing if r.source not in sources and r.event not in events
               and not (r.held == WAITING and is_weak(r.source))]
        learned = self._learn_late(connection, domain, due)
        last = found[-1].seq if len(found) == CHUNK else None
        return Outcome([], learned, self._writer.last_seq), len(missing) - len(learned), last

    def _missing(self, connection: Connection, domain: int, labels: Sequence[Any]) -> list[tuple[Any, Mapping[str, str]]]:
        """Return the labels that the live lineage lacks, with their targets."""
        def rows(event: int, targets: Mapping[str, str]) -> Sequence[tuple[str, int, str]]:
            return self._births.rows(domain, targets, self._births.text(connection, domain, event))

        return relearn.missing(connection, domain, self._births.live[domain].intervals, labels,
                               functools.partial(self._targets, domain), rows)

    def _learn_late(
        self, connection: Connection, domain: int, due: Sequence[tuple[Any, Mapping[str, str]]], *, admitted: bool = False
    ) -> list[Learned]:
        """Teach labels that are in the journal already, in its order; one that the domain refuses now stays unlearned."""
        learned, refused = [], [r.seq for r, targets in due if not targets]
        for r, targets in due:
            if targets:
                try:
                    text = self._births.text(connection, domain, r.event)
                    self._births.rows(domain, targets, text)
                except BadPayload:  # the domain reads another text now
                    refused.append(r.seq)
                    continue
                seq = self._writer.next_seq()
                taught = self._births.teach(connection, domain, seq, r.event, targets, r.source, r.content, text)
                learned.append(replace(taught, admitted=admitted))
        _end_waiting(connection, refused, REFUSED)
        _end_waiting(connection, [r.seq for r, _ in due], LEARNED)
        return learned


def _end_waiting(connection: Connection, seqs: Sequence[int], became: int) -> None:
    """Note what became of labels that waited; others stay what they are."""
    waited = t.label.c.seq.in_(seqs), t.label.c.held == WAITING
    connection.execute(update(t.label).where(*waited).values(held=became))
