"""Births: the learned rows that a label is born as and lets die, and what a domain's live state says of it.

Where: under the journal and what is learned late, inside the writer, so that what is read (holds, lineage, alive rows) cannot
change meanwhile. A label's rows are committed with the label, which is why "exactly once, in journal order" needs no further
proof than the transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select

from adaptd import blobs
from adaptd import tables as t
from adaptd.records import Erased, Learned, Row
from adaptd.rows import HoldoutRule, Interval, alive, lineage
from adaptd.setaside import QUARANTINE
from adaptd.tagging import Tagging
from adaptd.weak import is_weak, marked


@dataclass
class Live:
    """What the writer knows of a domain's live state; only the writer's thread changes it."""

    intervals: list[Interval]
    holds: set[str] = field(default_factory=set)  # sources whose labels wait; "" = all
    quarantined: dict[str, tuple[float, str]] = field(default_factory=dict)  # those held by themselves: since, why

    def let_go(self, source: str) -> None:
        """Hold a source no longer."""
        self.holds.discard(source)
        self.quarantined.pop(source, None)


class Births:
    """Turns labels into learned rows; counts the births of each class for the holdout."""

    def __init__(self) -> None:
        self.holdout: dict[int, HoldoutRule] = {}
        self.tagging: dict[int, Tagging | None] = {}  # of the domains that tag words
        self.weak: dict[int, frozenset[str]] = {}  # sources whose labels are marked as weak
        self.live: dict[int, Live] = {}
        self._seen: Counter[tuple[int, str, str]] = Counter()  # births per domain, head and class
        self._next_row = 0

    def open(self, connection: Connection) -> None:
        """Read what was born and what is live; before the writer starts."""
        self._next_row = connection.scalar(select(func.coalesce(func.max(t.learned.c.id), 0))) or 0
        count = select(t.learned.c.domain, t.learned.c.head, t.learned.c.target, func.count().label("n"))
        for row in connection.execute(count.group_by(t.learned.c.domain, t.learned.c.head, t.learned.c.target)):
            self._seen[self._class(row.domain, row.head, row.target)] += row.n
        for row in connection.execute(select(t.live)):
            self.live[row.domain] = Live(lineage(connection, row.branch))
        for row in connection.execute(select(t.hold).where(t.hold.c.what == "learning")):
            self.live[row.domain].holds.add(row.source)
        for row in connection.execute(select(t.hold).where(t.hold.c.what == QUARANTINE)):
            self.live[row.domain].quarantined[row.source] = row.since, row.reason

    def adopt(self, domain: int, intervals: list[Interval], *, hold: bool) -> None:
        """Follow a moved pointer; runs in the writer, in the operation that moves it."""
        live = self.live.setdefault(domain, Live([]))
        live.intervals = intervals
        if hold:
            live.holds.add("")

    def forgotten(self, erased: Erased) -> None:
        """Count no more what was forgotten."""
        self._seen.subtract(self._class(erased.domain, head, target) for _, head, target in erased.rows)

    def marked(self, domain: int, source: str) -> str:
        """Return the source under which a label is journalled."""
        return marked(source, self.weak.get(domain, ()))

    def is_held(self, domain: int, source: str) -> bool:
        """Say whether a source's labels wait."""
        return is_weak(source) or bool(self.live[domain].holds & {"", source})

    def text(self, connection: Connection, domain: int, event: int) -> str | None:
        """Return an event's text, where the domain tags its words."""
        tagging = self.tagging.get(domain)
        if tagging is None:
            return None
        payload = connection.execute(select(t.event.c.payload).where(t.event.c.seq == event)).scalar_one()
        return tagging.text(blobs.read(connection, payload))

    def rows(self, domain: int, targets: Mapping[str, str], text: str | None) -> list[tuple[str, int, str]]:
        """Return head, part and target of the rows that a label is learned as; raise BadPayload where it is not of the text."""
        tagging = self.tagging.get(domain)
        if tagging is None:
            return [(head, 0, target) for head, target in targets.items()]
        return [(head, part, tag) for head, target in targets.items() for part, tag in tagging.rows(head, target, text or "")]

    def is_taught(self, connection: Connection, domain: int, event: int, rows: Sequence[tuple[str, int, str]]) -> bool:
        """Say whether these rows of an event are alive already."""
        current = {(r.head, r.part, r.target) for r in self._alive_of(connection, domain, event)}
        return bool(current) and set(rows) <= current

    def teach(
        self, connection: Connection, domain: int, seq: int, event: int, targets: Mapping[str, str], source: str, content: bytes,
        text: str | None
    ) -> Learned:
        """Let an event's rows for these heads die, and new ones be born, at `seq`."""
        died = [r.id for r in self._alive_of(connection, domain, event) if r.head in targets]
        if died:
            connection.execute(insert(t.death), [{"row": row, "seq": seq} for row in died])
        birth = self.birth(domain, seq, event, targets, source, content, text)
        self.write(connection, [birth])
        return Learned(seq=seq, domain=birth.domain, born=birth.born, died=died)

    def birth(
        self, domain: int, seq: int, event: int, targets: Mapping[str, str], source: str, content: bytes, text: str | None
    ) -> Learned:
        """Return what a label is born as, at `seq`; `text`: the event's, where the domain tags its words."""
        born = []
        for head, part, target in self.rows(domain, targets, text):
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

    def write(self, connection: Connection, learned: Iterable[Learned]) -> None:
        """Write the born rows."""
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

    def _class(self, domain: int, head: str, target: str) -> tuple[int, str, str]:
        rule = self.holdout.get(domain)
        return domain, head, target if rule is None else rule.counted(head, target)

    def _alive_of(self, connection: Connection, domain: int, event: int) -> list[Any]:
        query = alive(domain, self.live[domain].intervals).where(t.learned.c.event == event)
        return list(connection.execute(query))
