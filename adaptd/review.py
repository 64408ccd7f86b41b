"""Review: what a person is asked about, as their attention is scarce; and from the journal how many errors that prevented.

Where: beside explanations. The pool is what was answered and never labelled, newest first; the current model is asked about it
again, and `adaptd.model.asking` chooses. Labels come back as feedback whose `teacher` is `review` or `review:NAME`: by that mark
the report finds them, `hold` stops them, and a replay leaves them out. Reading changes nothing.
"""

from __future__ import annotations

import itertools
import json
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sqlalchemy import Engine, exists, func, or_, select
from torch import Tensor

from adaptd import blobs, setaside
from adaptd import tables as t
from adaptd.counterfactual import Counterfactual, Past
from adaptd.errors import BadPayload, Busy
from adaptd.heads import Generate
from adaptd.interfaces import Domain
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.model import asking
from adaptd.model.asking import POOL, Choice, Doubts, Guesses
from adaptd.model.attention import Floats
from adaptd.model.network import Head
from adaptd.model.snapshot import HeadSnapshot, Snapshot
from adaptd.predict import Inference
from adaptd.records import Row
from adaptd.rows import answered_before
from adaptd.tagging import tags_words
from adaptd.vectors import Vectors
from adaptd.weak import is_weak

Json = dict[str, Any]
Read = Callable[[Any], Mapping[str, str | None]]  # a label's target per head, None where it is none
TEACHER = "review"
PACE_S, PAUSE_S, PACED = 6.0, 120.0, 10  # a label, where no pace is known; a longer gap is a pause; gaps that make a pace
COUNT, MOST = 20, 500  # items of a list, unless it is asked for another number; of any list
JUDGED, TEACHERS = 500, 5  # later events that a report asks again; teachers whose share it works out
SURE, NOVEL = 0.9, 0.5  # for the words: from which confidence on nothing is uncertain, from which novelty on nothing is like it


@dataclass(frozen=True, kw_only=True)
class _Opinion:
    """What one head says of the pool; without guesses where it knows no label."""

    head: HeadSnapshot
    doubts: Doubts
    guesses: Guesses | None

    def label(self, place: int) -> Any:
        if self.guesses is None or isinstance(self.head.kind, Generate):
            return None
        return self.head.kind.label(self.guesses.decisions[place].target)

    def scores(self, place: int) -> dict[str, float]:
        if self.guesses is None or isinstance(self.head.kind, Generate):
            return {}
        return self.guesses.decisions[place].scores

    def why(self, place: int) -> str:
        """Say in words why an answer may be wrong."""
        named = list(self.scores(place).items())
        if self.guesses is None:
            return "no label has been learned yet"
        if self.doubts.novelty[place] > NOVEL:
            return "like nothing that is remembered"
        if not named:
            return "the text was written, and nobody has looked at it"
        if len(named) > 1 and named[0][1] < SURE:
            return f"uncertain between {named[0][0]} and {named[1][0]}"
        return f"probably {named[0][0]}"


class Review:
    """Chooses what to ask about one domain's events, and reports what the answers were good for."""

    def __init__(self, number: int, domain: Domain, read: Read, learner: Learner, inference: Inference, vectors: Vectors,
                 journal: Journal, counterfactual: Counterfactual, reader: Engine) -> None:
        self._number = number
        self._domain = domain
        self._read = read
        self._learner = learner
        self._inference = inference
        self._vectors = vectors
        self._journal = journal
        self._counterfactual = counterfactual
        self._reader = reader
        self._one = threading.Lock()

    # -- what to ask -------------------------------------------------------------------------------------------

    def items(self, n: int | None, minutes: float | None) -> Json:
        """Return what to ask a person about, the most useful first: n of it, or what fits into so many minutes."""
        self._refuse_tagged()
        pace = self._pace()
        count = n if n is not None else COUNT if minutes is None else min(MOST, max(1, round(60 * minutes / pace)))
        with self._alone():
            self._journal.committed().result()  # answers are recorded behind the answer
            found = self._pool()
            vectors = self._vectors([r.seq for r in found])
            pool = [r for r in found if r.seq in vectors]  # the others were forgotten meanwhile
            snapshot, recent = self._learner.call(self._state).result()
            opinions, choices = self._choose([vectors[r.seq] for r in pool], snapshot, recent, count)
        return {"items": [self._item(pool[one.place], one, opinions) for one in choices], "pool": len(pool), "pace_s": pace,
                "teacher": TEACHER, "version": snapshot.version, "seq": snapshot.seq}

    def _refuse_tagged(self) -> None:
        if tags_words(self._domain):
            raise BadPayload(f"the domain {self._domain.name!r} tags words: what to ask about is chosen among whole events",
                             field="domain", hint="teach texts whose spans you doubt: each has a confidence")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Do one thing at a time: a pool's similarities take 100 MB, a head beside the serving one as much as that one."""
        if not self._one.acquire(blocking=False):
            raise Busy("another review of this domain is under way")
        try:
            yield
        finally:
            self._one.release()

    def _state(self) -> tuple[Snapshot, dict[str, Any]]:
        recent = {name: head.fold.recent.tensor().numpy() for name, head in self._learner.state.heads.items()}
        return self._inference.snapshot(self._learner.domain), recent

    def _pool(self) -> Sequence[Any]:
        """Read the newest events that were answered and have no label but weak ones, not even one that waits or was dropped."""
        query = select(t.event.c.seq, t.event.c.id, t.event.c.source, t.event.c.received, t.event.c.payload).where(
            t.event.c.domain == self._number, t.event.c.source != t.FORGOTTEN,
            exists().where(t.prediction.c.event == t.event.c.seq),
            ~exists().where(t.label.c.event == t.event.c.seq, ~setaside.weak(t.label.c.source)))
        with self._reader.connect() as connection:
            return connection.execute(query.order_by(t.event.c.seq.desc()).limit(POOL)).all()

    def _choose(self, vectors: Sequence[Tensor], snapshot: Snapshot, recent: Mapping[str, Any],
                count: int) -> tuple[dict[str, _Opinion], list[Choice]]:
        if not vectors:
            return {}, []
        stacked = torch.stack(list(vectors))
        opinions = {name: self._ask(stacked, head, recent[name]) for name, head in snapshot.heads.items()}
        wrong: Floats = np.maximum.reduce([one.doubts.wrong for one in opinions.values()])
        return opinions, asking.choose(stacked, wrong, count)

    def _ask(self, vectors: Tensor, head: HeadSnapshot, recent: Any) -> _Opinion:
        if not head.known.any():
            wrong = np.ones(len(vectors), np.float32)
            return _Opinion(head=head, doubts=Doubts(wrong=wrong, novelty=wrong), guesses=None)
        said = asking.guess(vectors, head, lambda work: self._inference.between(work).result())
        return _Opinion(head=head, doubts=asking.doubts(said.confidence, said.fit, recent), guesses=said)

    def _item(self, event: Any, choice: Choice, opinions: Mapping[str, _Opinion]) -> Json:
        place, payload = choice.place, json.loads(event.payload)
        least = max(opinions.values(), key=lambda one: (one.guesses is None, float(one.doubts.wrong[place])))
        several = len(opinions) > 1
        labels = {name: one.label(place) for name, one in opinions.items()}
        scores = {name: one.scores(place) for name, one in opinions.items()}
        waits = f", and {choice.like} other{'s' if choice.like > 1 else ''} like it wait{'' if choice.like > 1 else 's'}"
        with self._reader.connect() as connection:
            text = self._domain.example(blobs.read(connection, event.payload)).text
        return {"event": event.id, "source": event.source, "received": event.received, "payload": payload, "text": text,
                "label": labels if several else next(iter(labels.values())),
                "confidence": min(max(one.values(), default=0.0) for one in scores.values()),
                "scores": scores if several else next(iter(scores.values())),
                "expected": choice.expected, "like": choice.like, "reason": least.why(place) + (waits if choice.like else "")}

    def _pace(self) -> float:
        """Return how long a label has taken lately, in seconds: the median gap between two of one teacher, pauses apart."""
        query = (select(t.label.c.received).join(t.event, t.event.c.seq == t.label.c.event)
                 .where(t.event.c.domain == self._number, reviewed(t.label.c.source)).order_by(t.label.c.seq.desc()).limit(100))
        with self._reader.connect() as connection:
            at = connection.execute(query).scalars().all()
        gaps = [later - earlier for later, earlier in itertools.pairwise(at) if 0.2 < later - earlier < PAUSE_S]
        return round(statistics.median(gaps), 1) if len(gaps) >= PACED else PACE_S

    # -- what it was good for ----------------------------------------------------------------------------------

    def report(self) -> Json:
        """Return, per teacher, how many labels review brought and how many answers they corrected; and what they prevented."""
        self._refuse_tagged()
        rows = self._labels()
        teachers = [self._teacher(source, [r for r in rows if r.source == source])
                    for source in dict.fromkeys(r.source for r in rows)]
        with self._alone():
            heads = [self._prevented(self._counterfactual.past(name), name, [one["teacher"] for one in teachers])
                     for name, head in self._learner.state.heads.items() if not head.options.generates] if rows else []
        total: Counter[str] = Counter()
        by: dict[str, Counter[str]] = {}
        for found in heads:
            total.update(found.pop("", {}))
            for source, counts in found.items():
                by.setdefault(source, Counter()).update(counts)
        for one in teachers:
            one["later"] = _later(by.get(one["teacher"]))
        return {"teachers": teachers, "labels": len(rows), "later": _later(total or None), "at_most": JUDGED}

    def _labels(self) -> Sequence[Any]:
        query = (select(t.label.c.seq, t.label.c.event, t.label.c.label, t.label.c.source, t.label.c.received, t.label.c.held)
                 .join(t.event, t.event.c.seq == t.label.c.event)
                 .where(t.event.c.domain == self._number, t.event.c.source != t.FORGOTTEN, reviewed(t.label.c.source)))
        with self._reader.connect() as connection:
            return connection.execute(query.order_by(t.label.c.seq)).all()

    def _teacher(self, source: str, rows: Sequence[Any]) -> Json:
        """Count a teacher's labels, and those that say otherwise than the event was answered with when it came."""
        with self._reader.connect() as connection:
            said = answered_before(connection, {r.event: r.seq for r in rows})
        judged = [(self._read(json.loads(r.label)), said[r.event].labels) for r in rows if r.event in said]
        wrong = sum(any(labels.get(head) != target for head, target in truth.items()) for truth, labels in judged)
        return {"teacher": source, "labels": len(rows), "unlearned": sum(bool(r.held) for r in rows), "answered": len(judged),
                "corrected": wrong, "first": rows[0].received, "last": rows[-1].received}

    def _prevented(self, past: Past, name: str, teachers: Sequence[str]) -> dict[str, Counter[str]]:
        """Count, in all ("") and per teacher, what is right with and without the reviewed rows of a head.

        Asked are later events that others labelled, without their own rows, so that none is answered from its own label.
        """
        rows = [row for entry in past.entries for row in entry.born if row.head == name]
        mine = {row.event: row for row in rows if is_review(row.source)}
        truth = self._judged(rows, mine)
        if not truth:
            return {}
        vectors = self._vectors(list(truth))
        events = [event for event in truth if event in vectors]
        stacked, labels = torch.stack([vectors[event] for event in events]), [truth[event] for event in events]

        def right(gone: Iterable[int]) -> Any:
            return self._right(_without(past.head, rows, {*events, *gone}), stacked, labels)

        base = right(())
        counts = {"": _compare(base, right(mine))}
        for source in teachers[:TEACHERS] if len(teachers) > 1 else ():
            counts[source] = _compare(base, right(event for event, row in mine.items() if row.source == source))
        return counts if len(teachers) > 1 else {"": counts[""], **{source: counts[""] for source in teachers}}

    def _judged(self, rows: Sequence[Row], mine: Mapping[int, Row]) -> dict[int, str]:
        """Return the newest events that were answered behind the first review and labelled by others, with their label."""
        if not mine:
            return {}
        truth = {row.event: row.target for row in rows if row.event not in mine and not is_weak(row.source)}
        labelled = self._labelled()
        first = min(labelled[event] for event in mine)
        later = sorted((event for event in truth if labelled[event] > first), key=lambda event: -labelled[event])
        found: list[int] = []
        with self._reader.connect() as connection:
            for start in range(0, len(later), JUDGED):
                some = later[start : start + JUDGED]
                query = select(t.prediction.c.event, t.prediction.c.learned).where(
                    t.prediction.c.event.in_(some), t.prediction.c.learned >= first)
                answered = {r.event for r in connection.execute(query) if r.learned < labelled[r.event]}
                found += [event for event in some if event in answered]
                if len(found) >= JUDGED:
                    break
        return {event: truth[event] for event in found[:JUDGED]}

    def _labelled(self) -> dict[int, int]:
        """Return the seq of each event's first label in the journal; a row's birth is later where a replay learned it again."""
        query = (select(t.label.c.event, func.min(t.label.c.seq).label("seq")).join(t.event, t.event.c.seq == t.label.c.event)
                 .where(t.event.c.domain == self._number).group_by(t.label.c.event))
        with self._reader.connect() as connection:
            return {r.event: r.seq for r in connection.execute(query)}

    def _right(self, head: Head, vectors: Tensor, labels: Sequence[str]) -> Any:
        """Say which of vectors a head answers rightly [n]."""
        snapshot = head.snapshot()
        if not snapshot.known.any():
            return np.zeros(len(labels), bool)
        said = asking.guess(vectors, snapshot, lambda work: self._inference.between(work).result())
        return np.array([one.target == label for one, label in zip(said.decisions, labels, strict=True)])


def is_review(source: str) -> bool:
    """Say whether a teacher's name is that of a review.

    >>> [is_review(source) for source in ("review", "review:ana", "reviews", "crm")]
    [True, True, False, False]
    """
    return source == TEACHER or source.startswith(f"{TEACHER}:")


def reviewed(source: Any) -> Any:
    """Return the condition that a teacher's name is that of a review."""
    return or_(source == TEACHER, source.startswith(f"{TEACHER}:", autoescape=True))


def _without(head: Head, rows: Sequence[Row], gone: set[int]) -> Head:
    """Return a head that answers without some events, through the same adapter and with the same trust."""
    return head.without([row.id for row in rows if row.event in gone],
                        [(row.id, row.target) for row in rows if row.event not in gone])


def _compare(base: Any, without: Any) -> Counter[str]:
    return Counter(events=len(base), right=int(base.sum()), prevented=int((base & ~without).sum()),
                   caused=int((without & ~base).sum()))


def _later(counts: Mapping[str, int] | None) -> Json | None:
    """Return what reviewed labels did to later answers; None where nothing can be said."""
    if not counts:
        return None
    return {**{name: counts[name] for name in ("events", "right", "prevented", "caused")},
            "net": counts["prevented"] - counts["caused"]}
