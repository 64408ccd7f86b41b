"""Tested: what each label told before it was learned, kept so that what is folded over the journal can be had as of any seq.

Where: beside rows. A label is put to the memory that had learned those before it; which labels came together, and so how
many those were, is in no journal. What the test came to is: following these in order gives trust, calibration, limits,
drift and suspicion of any moment in a lineage, without a vector. Written behind the labels, so a crash may lose the last
ones: those are tested again at the next start. A forget takes away all from what was forgotten on, as they rest on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from adaptd import tables as t
from adaptd.drift import Kind
from adaptd.quarantine import Dissent
from adaptd.records import Row, canonical
from adaptd.rows import Interval, within


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one outcome makes of a head's fold: the newest one decides, class by class."""

    right: bool
    known: bool  # the true class was
    confidence: float
    fit: float
    temperature: float
    curvature: float
    rule: float
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
    """What is kept of the labels behind a seq: all that were tested up to another one."""

    through: int
    told: Mapping[int, Tested]


NOTHING = Kept(through=0, told={})


def record(connection: Connection, tested: Sequence[Tested]) -> None:
    """Enter what labels told that are not forgotten meanwhile; what they told before a crash gives way."""
    for start in range(0, len(tested), 500):
        some = {one.row: one for one in tested[start:start + 500]}
        connection.execute(delete(t.tested).where(t.tested.c.row.in_(some)))
        left = connection.execute(select(t.learned.c.id).where(t.learned.c.id.in_(some))).scalars().all()
        if left:
            connection.execute(insert(t.tested), [{"row": row, "told": some[row].written()} for row in left])


def behind(connection: Connection, domain: int, intervals: Sequence[Interval], seq: int) -> Iterator[tuple[Row, Tested]]:
    """Yield what the labels of a lineage told that came after a seq, in order; nothing where a forget came after it."""
    forgot = select(func.max(t.action.c.seq)).where(t.action.c.domain == domain, t.action.c.what == "forget")
    if (connection.scalar(forgot) or 0) > seq:
        return
    query = (select(t.learned, t.event.c.content, t.tested.c.told)
             .join(t.tested, t.tested.c.row == t.learned.c.id).join(t.event, t.event.c.seq == t.learned.c.event)
             .where(t.learned.c.domain == domain, t.learned.c.born > seq, within(t.learned.c.born, intervals))
             .order_by(t.learned.c.born, t.learned.c.id))
    for r in connection.execute(query):
        yield Row(id=r.id, event=r.event, part=r.part, head=r.head, target=r.target, born=r.born, source=r.source,
                  content=r.content, holdout=bool(r.holdout)), Tested.of(r.id, r.told)


def kept(connection: Connection, domain: int, intervals: Sequence[Interval], seq: int) -> Kept:
    """Return what is kept of the labels of a lineage that came after a seq."""
    found = list(behind(connection, domain, intervals, seq))
    return Kept(through=found[-1][0].born, told={row.id: one for row, one in found}) if found else NOTHING


def cut(connection: Connection, domain: int, seq: int) -> None:
    """Take away what the labels from a seq on told: what it rested on has changed."""
    later = select(t.learned.c.id).where(t.learned.c.domain == domain, t.learned.c.born >= seq)
    connection.execute(delete(t.tested).where(t.tested.c.row.in_(later)))
