"""Tested: what each label told before it was learned, kept so that what is folded over the journal can be had as of any seq.

Where: beside rows. A label is put to the memory that had learned those before it; which labels came together, and so how
many those were, is in no journal. What the test came to is: following these in order gives trust, calibration, limits,
drift and suspicion of any moment in a lineage, without a vector. Written behind the labels, so a crash may lose the last
ones: those are tested again at the next start. A forget takes away all from what was forgotten on, as they rest on it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from adaptd import tables as t
from adaptd.drift import Kind
from adaptd.quarantine import Dissent
from adaptd.records import Row, canonical
from adaptd.rows import Interval, rows, within


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one outcome makes of a head's fold (`adaptd.model.fold`): the newest one decides, class by class."""

    right: bool
    known: bool  # the true class was
    confidence: float  # that was stated
    fit: float  # how well the event fitted what was remembered
    temperature: float  # from here on, and AdaGrad's mean of its squared gradients
    curvature: float
    rule: float  # share of the rule for young classes, from here on
    learned: int  # rows before it
    trust: Mapping[int, Sequence[float]]  # class -> a trust per expert


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What one row told. A correction judges no answer; a row that is beyond doubt contradicts nobody."""

    row: int
    said: Kind | None = None  # the label that was answered, and what the examples behind it were called first
    step: Step | None = None
    dissent: Dissent | None = None

    def written(self) -> str:
        """Return it for the store."""
        step, dissent = self.step, self.dissent
        return canonical({
            "said": self.said, "dissent": None if dissent is None else [dissent.from_others, dissent.from_all],
            "step": None if step is None else {**vars(step), "trust": {str(c): list(w) for c, w in step.trust.items()}}})

    @classmethod
    def of(cls, row: int, written: str) -> Tested:
        """Read what `written` gave."""
        told: dict[str, Any] = json.loads(written)
        said, step, dissent = told["said"], told["step"], told["dissent"]
        if step is not None:
            step = Step(**{**step, "trust": {int(c): weights for c, weights in step["trust"].items()}})
        return cls(row=row, said=None if said is None else (said[0], said[1]), step=step,
                   dissent=None if dissent is None else Dissent(from_others=dissent[0], from_all=dissent[1]))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a start has of the labels behind its base."""

    through: int = 0  # of every label up to there
    told: Mapping[int, Tested] = field(default_factory=dict)  # by row; where many come not all are tested
    changes: deque[dict[str, Any]] = field(default_factory=deque)  # of labels, that rows have followed, in order


def record(connection: Connection, encoder: int, tested: Sequence[Tested]) -> None:
    """Enter what labels told that are not forgotten meanwhile; what they told before a crash gives way."""
    for start in range(0, len(tested), 500):
        some = {one.row: one for one in tested[start:start + 500]}
        connection.execute(delete(t.tested).where(t.tested.c.row.in_(some)))
        left = connection.execute(select(t.learned.c.id).where(t.learned.c.id.in_(some))).scalars().all()
        if left:
            connection.execute(insert(t.tested), [{"row": row, "encoder": encoder, "told": some[row].written()} for row in left])


def behind(connection: Connection, domain: int, intervals: Sequence[Interval], seq: int,
           encoder: int) -> list[tuple[Row, Tested]]:
    """Return what the labels of a lineage told that came after a seq, in order.

    Nothing where part of it would be missing: a forget has taken it, or another encoder's vectors were tested.
    """
    if _forgotten_since(connection, domain, intervals, seq):
        return []
    query = (select(t.learned, t.event.c.content, t.tested.c.told, t.tested.c.encoder)
             .join(t.tested, t.tested.c.row == t.learned.c.id).join(t.event, t.event.c.seq == t.learned.c.event)
             .where(t.learned.c.domain == domain, t.learned.c.born > seq, within(t.learned.c.born, intervals))
             .order_by(t.learned.c.born, t.learned.c.id))
    found = connection.execute(query).all()
    if any(r.encoder != encoder for r in found):
        return []
    return [(row, Tested.of(row.id, r.told)) for r, row in zip(found, rows(found), strict=True)]


def _forgotten_since(connection: Connection, domain: int, intervals: Sequence[Interval], seq: int) -> bool:
    """Say whether a forget took something when labels of a lineage had come after a seq."""
    forgets = select(t.action.c.seq, t.action.c.detail).where(
        t.action.c.domain == domain, t.action.c.what == "forget", t.action.c.seq > seq)
    taken = [r.seq for r in connection.execute(forgets) if json.loads(r.detail)["removed"]["event"]]
    if not taken:
        return False
    born = select(t.learned.c.id).where(t.learned.c.domain == domain, t.learned.c.born > seq, t.learned.c.born <= max(taken),
                                        within(t.learned.c.born, intervals)).limit(1)
    return connection.scalar(born) is not None


def cut(connection: Connection, domain: int, seq: int) -> None:
    """Take away what the labels from a seq on told: what it rested on has changed."""
    later = select(t.learned.c.id).where(t.learned.c.domain == domain, t.learned.c.born >= seq)
    connection.execute(delete(t.tested).where(t.tested.c.row.in_(later)))
