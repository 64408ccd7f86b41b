"""Counterfactual: which remembered records flip an answer if they are forgotten.

Where: beside `adaptd.forget`, whose result it foretells and whose folds it makes. Greedy: the records of the answer's
label go nearest first, until the answer changes; then each that is not needed is put back. So no record of the set can be
spared, but another set may be smaller. Nothing is estimated: every try is a head beside the serving one that loses the rows
from memory, class means and sums exactly, is solved, and answers under the adapter that a forget would leave. What is
claimed has its folds (trust, calibration) made again from the journal without the records, as a forget makes them.
"""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, select
from torch import Tensor

from adaptd import erase, registry
from adaptd import tables as t
from adaptd.errors import Conflict
from adaptd.heads import Head as Kind
from adaptd.heads import Tagged, as_target
from adaptd.learn import Learner
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.decoder import Decoded, decode
from adaptd.model.fold import Fold
from adaptd.model.memory import bitmap
from adaptd.model.network import Head
from adaptd.predict import Inference
from adaptd.records import Learned, Row
from adaptd.refold import TESTED, head_beside
from adaptd.rows import lineage, replay
from adaptd.state import State

Json = dict[str, Any]
AT_MOST, TRIED = 20, 64  # records of a set; the nearest ones it is looked for among
SOURCES, SOURCE_ROWS = 5, 10_000  # sources that are left out as a whole, the nearest ones; rows up to which one is
LIMIT_S = 20.0  # how long one head's answer may be looked into; what is tried then is finished


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a head has learned, as of one moment of its learner."""

    head: Head
    entries: Sequence[Learned]
    adapter: int  # the version whose adapter answers


class Counterfactual:
    """Asks one domain's heads what they would answer without some events."""

    def __init__(self, domain: int, learner: Learner, inference: Inference, reader: Engine, folder: Path) -> None:
        self._domain = domain
        self._learner = learner
        self._inference = inference
        self._reader = reader
        self._folder = folder

    def of(self, vector: Tensor, answered: Mapping[str, Any]) -> dict[str, Json]:
        """Return, per head, the smallest set found that flips its answer, and what it would be without each source.

        Raises
        ------
        Conflict
            A forget, or another version that went live, made it out of date meanwhile.
        """
        began = self._now()
        found = {name: self._search(name, vector, label) for name, label in answered.items()}
        if self._now() != began:
            raise Conflict("records were forgotten, or another version went live meanwhile", hint="ask again")
        return found

    def _now(self) -> tuple[int, int]:
        return self._learner.state.version, len(self._learner.forgotten)

    def _search(self, name: str, vector: Tensor, label: Any) -> Json:
        if isinstance(label, Tagged):
            return {"answer": label, "records": [], "sources": [], "words": "what would flip a span is not searched for"}
        if label is None:
            return {"answer": None, "records": [], "sources": [], "words": "there is no answer that could be flipped"}
        return _Search(self, self.past(name), name, vector, label).result()

    # -- what a search asks ------------------------------------------------------------------------------------

    def past(self, name: str) -> Past:
        """Freeze a head, and read what it learned."""
        def freeze() -> tuple[Head, int, registry.Live]:
            with self._reader.connect() as connection:
                return self._learner.state.heads[name].aside(), self._learner.state.seq, registry.live(connection, self._domain)

        head, seq, live = self._learner.call(freeze).result()
        with self._reader.connect() as connection:
            entries = replay(connection, self._domain, lineage(connection, live.branch, seq), -1)
        return Past(head=head, entries=entries, adapter=live.version)

    def without(self, past: Past, name: str, events: Iterable[int], fold: Fold | None) -> Head:
        """Return the head that a forget of events would leave; with `fold` its folds are taken as given."""
        gone = set(events)
        left = [e for e in past.entries if not any(row.event in gone for row in e.born)]
        rows = [row.id for e in past.entries for row in e.born if row.event in gone]
        head = past.head.without(rows, [(row.id, row.target) for e in left for row in e.born if row.head == name])
        self._adapt(past, name, head, gone)
        head.fold = self.folds(name, head, left) if fold is None else copy.deepcopy(fold)
        head.fold.expect(head.adapter)
        return head

    def _adapt(self, past: Past, name: str, head: Head, gone: set[int]) -> None:
        with self._reader.connect() as connection:
            number = erase.successor(connection, self._domain, sorted(gone))
            version = registry.version(connection, number)
        if number != past.adapter:
            data = registry.read(self._folder / str(number), version.files).get(f"{name}.adapter")
            head.adopt(Adapter() if data is None else files.parse_adapter(data, f"version {number}"))

    def folds(self, name: str, head: Head, entries: Sequence[Learned]) -> Fold:
        """Make a head's folds again from what is left of the journal."""
        beside = State(version=0, seq=0, heads={name: head_beside(head)})
        self._learner.fold(beside, entries, TESTED)
        return beside.heads[name].fold

    def answer(self, head: Head, vector: Tensor) -> Decoded:
        """Return what a head answers; in the inference thread, whose index it shares."""
        snapshot = head.snapshot()
        return self._inference.between(lambda: decode(vector[None], snapshot)[0]).result()

    def nearest(self, head: Head, vector: Tensor, label: str) -> dict[int, float]:
        """Return the events of a label that are nearest to a vector, with their similarity, nearest first."""
        memory = head.memory
        mine = memory.alive[: memory.size]
        if label in head.labels:  # else it is a set of labels that nobody taught as such: any record may count
            mine = mine & (memory.targets[: memory.size] == head.class_of(label))

        def search() -> tuple[Any, Any]:
            return head.keys.search(head.adapter.queries(vector[None]), TRIED, head.keys.among(bitmap(mine)))

        similarity, slots = self._inference.between(search).result()
        order = np.lexsort((memory.ids[slots[0]], -similarity[0]))
        return {int(memory.events[slots[0][i]]): float(similarity[0][i]) for i in order if slots[0][i] >= 0}

    def told(self, events: Iterable[int], rows: Mapping[int, Row], near: Mapping[int, float], kind: Kind) -> list[Json]:
        """Describe records for people."""
        with self._reader.connect() as connection:
            found = {r.seq: r for r in connection.execute(select(t.event).where(t.event.c.seq.in_(list(events))))}
        return [{"event": found[e].id, "label": kind.label(rows[e].target), "source": rows[e].source, "from": found[e].source,
                 "similarity": near[e], "payload": json.loads(found[e].payload)} for e in events]

    def sources(self, events: Iterable[int]) -> dict[str, list[int]]:
        """Return the sources that events came from, in their order, each with all its events that were learned."""
        with self._reader.connect() as connection:
            return {source: _events_of(connection, self._domain, source) for source in _sources_of(connection, list(events))}


class _Search:
    """One head's answer to one event."""

    def __init__(self, asked: Counterfactual, past: Past, name: str, vector: Tensor, label: Any) -> None:
        self._asked = asked
        self._past = past
        self._name = name
        self._vector = vector
        self._label = label
        self._until = time.monotonic() + LIMIT_S
        self._near = asked.nearest(past.head, vector, as_target(label))
        memory = past.head.memory
        self._alive = {*memory.ids[: memory.size][memory.retrievable].tolist(), *past.head.bounded.evicted_ids().tolist()}
        self._rows = {row.event: row for e in past.entries for row in e.born if row.head == name and row.id in self._alive}
        self._fold = asked.folds(name, past.head, past.entries)

    def result(self) -> Json:
        """Return the set, what it makes of the answer, and the same of whole sources."""
        if self._past.head.adapter.upper is not None and self._flips([]):
            return {"answer": self._label, "records": [], "sources": [], "words":
                    "tuned upper blocks of the encoder decided this answer: what would flip them is not searched for"}
        chosen, decoded = self._claim(self._nearest())
        chosen, decoded, minimal = self._spare(chosen, decoded)
        body: Json = {"answer": self._label, "becomes": None if decoded is None else decoded.label,
                      "confidence": None if decoded is None else decoded.confidence,
                      "records": self._asked.told(chosen, self._rows, self._near, self._past.head.options.kind),
                      "taught_by": dict(Counter(self._rows[e].source for e in chosen)), "minimal": minimal,
                      "at_most": AT_MOST, "tried": len(self._near), "sources": self._without_sources()}
        return {**body, "words": self._words(body, decoded)}

    # -- the set -----------------------------------------------------------------------------------------------

    def _without(self, events: Sequence[int], fold: Fold | None = None) -> Decoded:
        """Return what is answered without events."""
        return self._asked.answer(self._asked.without(self._past, self._name, events, fold), self._vector)

    def _flips(self, events: Sequence[int]) -> bool:
        """Say whether the answer changes without events, with the folds of now."""
        return bool(self._without(events, self._fold).label != self._label)

    @property
    def _late(self) -> bool:
        return time.monotonic() > self._until

    def _nearest(self) -> list[int]:
        """Return the shortest run of nearest records that flips the answer, by doubling, then halving; else all."""
        near = list(self._near)[:AT_MOST]
        low, high = 0, 1
        while not self._flips(near[:high]):
            if high >= len(near) or self._late:
                return near
            low, high = high, min(2 * high, len(near))
        while high - low > 1 and not self._late:
            middle = (low + high) // 2
            low, high = (low, middle) if self._flips(near[:middle]) else (middle, high)
        return near[:high]

    def _claim(self, chosen: list[int]) -> tuple[list[int], Decoded | None]:
        """Return the set with what a forget of it makes of the answer; more is added while that does not flip it."""
        others = [event for event in self._near if event not in chosen]
        while chosen:
            if (decoded := self._without(chosen)).label != self._label:
                return chosen, decoded
            if len(chosen) >= AT_MOST or not others or self._late:
                break
            chosen = [*chosen, others.pop(0)]
        return [], None

    def _spare(self, chosen: list[int], decoded: Decoded | None) -> tuple[list[int], Decoded | None, bool]:
        """Put back each record that the flip does not need; the third value says that all were tried."""
        for event in reversed(chosen):
            if self._late:
                return chosen, decoded, False
            rest = [one for one in chosen if one != event]
            if rest and (other := self._without(rest)).label != self._label:
                chosen, decoded = rest, other
        return chosen, decoded, True

    def _words(self, body: Json, decoded: Decoded | None) -> str:
        count = len(body["records"])
        if decoded is None:
            limit = f"no set of at most {AT_MOST} records flips it ({len(self._near)} nearest of {self._label!r} looked at)"
            return limit + (f"; stopped after {LIMIT_S:g} s" if self._late else "")
        these = "this record" if count == 1 else f"these {count} records"
        taught = ", ".join(body["taught_by"])
        becomes = f"to {decoded.label!r}" if decoded.label is not None else "to no answer"
        return f"{these}, taught by {taught}, flip{'s' if count == 1 else ''} this answer {becomes} if forgotten"

    # -- sources -----------------------------------------------------------------------------------------------

    def _without_sources(self) -> list[Json]:
        """Say what would be answered without all that came from a source, for the sources of the nearest records."""
        found = []
        for source, events in list(self._asked.sources(self._near).items())[:SOURCES]:
            told: Json = {"source": source, "records": sum(event in self._rows for event in events)}
            if len(events) <= SOURCE_ROWS and not self._late:
                decoded = self._without(events)
                told |= {"label": decoded.label, "confidence": decoded.confidence, "flips": decoded.label != self._label}
            found.append(told)
        return found


def _sources_of(connection: Connection, events: Sequence[int]) -> list[str]:
    """Return the sources of events, in the order of the events."""
    query = select(t.event.c.seq, t.event.c.source).where(t.event.c.seq.in_(events))
    found = {r.seq: r.source for r in connection.execute(query)}
    return list(dict.fromkeys(found[event] for event in events if event in found))


def _events_of(connection: Connection, domain: int, source: str) -> list[int]:
    query = select(t.learned.c.event).join(t.event, t.event.c.seq == t.learned.c.event).where(
        t.event.c.domain == domain, t.event.c.source == source).distinct()
    return list(connection.execute(query).scalars())
