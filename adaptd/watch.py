"""Watch: a plugin's observer looks at the newest events of a domain, whenever there is something new.

Where: beside status. What it sees is read from the tables each time: an event counts with what was taught of it in the live
lineage, else with what it was answered. So a late or corrected label, a rollback, a forget and a restart change what is seen and
leave nothing behind. An observer that fails is named, and is not asked again after a few failures.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, select

from adaptd import outbox, registry
from adaptd import tables as t
from adaptd.heads import SHORTENED, Spans, Text
from adaptd.heads import answered as shown
from adaptd.history import last_seq
from adaptd.interfaces import Domain, Observer
from adaptd.records import Observed, Problem, Sighting
from adaptd.remembered import replies
from adaptd.rows import alive, lineage
from adaptd.words import spans

log = logging.getLogger(__name__)
FAILURES = 5  # in a row, after which an observer is not asked any more
FAILED = "observer_failed"
PAUSE = 20.0  # times what a look took, before the next one that nobody asked for: answers come first
Json = dict[str, Any]


class Watch:
    """One observer of one domain."""

    def __init__(self, name: str, observer: Observer, number: int, domain: str, served: Domain, newest: int,
                 reader: Engine) -> None:
        self.name = name
        self.domain = domain
        self._observer = observer
        self._number = number
        self._served = served
        self._newest = newest
        self._reader = reader
        self._looked: Any = None  # what the tables held then
        self._sighting = Sighting(figures={})
        self._failures, self._failure = 0, Problem(code="", message="", since=0.0)
        self._rest_until = 0.0  # monotonic
        self._one = threading.Lock()

    def problems(self) -> list[Problem]:
        """Return what the observer finds wrong, and what is wrong with it."""
        found = [self._failure] if self._failures else []
        return [*self._sighting.problems, *found]

    def figures(self) -> Json:
        """Look, and return the observer's figures."""
        self.look()
        return dict(self._sighting.figures)

    def by_the_clock(self) -> None:
        """Look, unless that took so long that it would be felt."""
        began = time.monotonic()
        if began >= self._rest_until:
            self.look()
            self._rest_until = time.monotonic() + PAUSE * (time.monotonic() - began)

    def look(self) -> None:
        """Let the observer look, if there is something new and it can."""
        with self._one:
            if self._failures >= FAILURES:
                return
            with self._reader.connect() as connection:
                now = last_seq(connection), outbox.newest(connection)
                if now == self._looked:
                    return
                seen = seen_now(connection, self._number, self._served, self._newest)
            self._looked = now
            try:
                sighting = self._observer.look(seen)
                json.dumps(dict(sighting.figures), allow_nan=False)
                self._sighting, self._failures = sighting, 0
            except Exception as error:  # a stranger's code: it is named, and holds nothing up
                self._fails(error)

    def _fails(self, error: Exception) -> None:
        log.warning("observer %s failed", self.name, exc_info=True, extra={"action": FAILED})
        self._failures += 1
        self._sighting = Sighting(figures={})
        again = "it is asked again" if self._failures < FAILURES else "it is not asked any more until the daemon starts again"
        self._failure = Problem(code=FAILED, subject=self.name, since=self._failure.since or time.time(),
                                message=f"observer {self.name!r} failed: {error!r:.300}",
                                hint=f"mend the plugin, or take out [observers.{self.name}]; {again}")


def seen_now(connection: Connection, number: int, domain: Domain, newest: int) -> list[Observed]:
    """Return the newest events of a domain that were answered or labelled, in the order of their time."""
    event = t.event.c
    query = select(event.seq, event.id, event.source, event.payload, event.time, event.received).where(
        event.domain == number, event.source != t.FORGOTTEN)
    rows = connection.execute(query.order_by(event.seq.desc()).limit(newest)).all()
    if not rows:
        return []
    first = rows[-1].seq
    said: dict[int, list[tuple[int, Json]]] = {}  # what had been learned, and what was answered
    given = select(t.prediction.c.event, t.prediction.c.learned, t.prediction.c.labels).join(
        t.event, event.seq == t.prediction.c.event).where(event.domain == number, t.prediction.c.event >= first)
    for r in connection.execute(given.order_by(t.prediction.c.id)):
        answer = {head: shown(label) for head, label in json.loads(r.labels).items()}
        said.setdefault(r.event, []).append((r.learned, answer))
    taught, answered = dict[int, Json](), dict[int, Json]()
    live = alive(number, lineage(connection, registry.live(connection, number).branch)).where(t.learned.c.event >= first)
    rows_taught = [r for r in connection.execute(live) if r.head in domain.heads]
    whole = _whole(connection, domain, rows_taught)
    tags: dict[tuple[int, str], dict[int, str]] = {}
    for r in rows_taught:
        head = domain.heads[r.head]
        if isinstance(head, Spans):
            tags.setdefault((r.event, r.head), {})[r.part] = r.target
        else:
            taught.setdefault(r.event, {})[r.head] = head.label(whole.get((r.head, r.target), r.target))
        before = [labels for learned, labels in said.get(r.event, ()) if learned < r.born and r.head in labels]
        if before:
            answered.setdefault(r.event, {})[r.head] = before[-1][r.head]
    for (seq, name), of_words in tags.items():
        tagged = sorted(spans(of_words))
        taught.setdefault(seq, {})[name] = [{"words": [start, end], "type": kind} for start, end, kind in tagged]
    found = [Observed(event=r.id, at=r.received if r.time is None else r.time, source=r.source, payload=json.loads(r.payload),
                      labels={**said.get(r.seq, [(0, {})])[-1][1], **taught.get(r.seq, {})}, answered=answered.get(r.seq, {}),
                     taught=frozenset(taught.get(r.seq, ())))
             for r in reversed(rows) if r.seq in said or r.seq in taught]
    return sorted(found, key=lambda one: one.at)


def _whole(connection: Connection, domain: Domain, taught: Sequence[Any]) -> dict[tuple[str, str], str]:
    """Return the whole texts behind the shortened keys among rows, by head and key."""
    found = {}
    for name in [name for name, head in domain.heads.items() if isinstance(head, Text)]:
        mine = [r for r in taught if r.head == name and SHORTENED.search(r.target)]
        texts = replies(connection, domain, name, [r.target for r in mine], [r.event for r in mine])
        found.update({(name, key): text for key, text in texts.items()})
    return found
