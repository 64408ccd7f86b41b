"""Relearn: which labels the journal has and the live lineage has not, so that the good part can be learned again.

Where: under the journal, which teaches them. A rollback takes back the good with the bad; a replay goes through the
journal in order and names what is missing. A label is in the lineage when a row of it is alive there, or one of a later
label of its event for the same head, which overrules it. So a replay that is done again finds nothing, and what one replay
excepts the next can still learn. Queries only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from adaptd import tables as t
from adaptd.drift import Change
from adaptd.errors import AdaptdError, BadPayload, NotFound
from adaptd.rows import FOREVER, Interval, alive, within
from adaptd.setaside import DROPPED

log = logging.getLogger(__name__)
DRIFT = "drift"  # the line in the history
Targets = Callable[[Any], Mapping[str, str]]  # a label's, one per head
Rows = Callable[[int, Mapping[str, str]], Iterable[tuple[str, int, str]]]  # event, targets -> head, part and target of each row


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a replay is about: labels from a seq or a moment on, but not these sources' and not these events'."""

    since: int | float  # a seq, or seconds since the epoch
    sources: frozenset[str]
    events: Mapping[str, int]  # id -> seq

    def facts(self) -> dict[str, Any]:
        """Return it for the history."""
        return {"since": self.since, "except_sources": sorted(self.sources), "except_events": sorted(self.events)}


def scope(connection: Connection, domain: int, newest: int, since: int | float, sources: Collection[str],
          events: Collection[str]) -> Scope:
    """Check what a replay is asked for; a name that nothing has would let through what was meant to stay out.

    Raises
    ------
    BadPayload
        `since` is a seq that has not been given yet.
    NotFound
        No label came from such a source, or there is no such event.
    """
    if isinstance(since, int) and since > newest:
        raise BadPayload(f"seq {since} has not been given yet; the newest is {newest}", field="since",
                         hint="a moment is ISO 8601 with a zone, or seconds with a decimal point")
    check_sources(connection, domain, sources)
    known = {r.id: r.seq for r in connection.execute(
        select(t.event.c.id, t.event.c.seq).where(t.event.c.domain == domain, t.event.c.id.in_(events)))}
    if unknown := sorted(set(events) - set(known)):
        raise NotFound(f"no event {unknown[0][:80]!r} in this domain", field="except_events",
                       hint="use the id from a receipt or an answer")
    return Scope(since=since, sources=frozenset(sources), events=known)


def check_sources(connection: Connection, domain: int, sources: Collection[str]) -> None:
    """Refuse the name of a source that never gave a label."""
    for source in sources:
        taught = select(t.label.c.seq).join(t.event, t.event.c.seq == t.label.c.event).where(
            t.event.c.domain == domain, t.label.c.source == source).limit(1)
        if connection.scalar(taught) is None:
            raise NotFound(f"no label of this domain came from source {source[:80]!r}", field="except_sources",
                           hint="adaptd explain EVENT names the source of a label")


def followed(connection: Connection, domain: int, found: Change) -> bool:
    """Say whether a label's rows followed a change at or after the seq at which this one was found: it is judged already."""
    known = changes(connection, domain, [(found.seq - 1, FOREVER)])
    return any((one["head"], one["label"], one["origin"]) == (found.head, found.label, found.origin) for one in known)


def changes(connection: Connection, domain: int, intervals: Sequence[Interval]) -> list[dict[str, Any]]:
    """Return the changes of labels that rows followed in a lineage, in order; those that name what was forgotten left out."""
    query = select(t.action.c.detail).where(
        t.action.c.domain == domain, within(t.action.c.seq, intervals), t.action.c.what == DRIFT)
    found = [json.loads(detail) for detail in connection.execute(query.order_by(t.action.c.id)).scalars()]
    return [one for one in found if one]


def still_alive(connection: Connection, domain: int, intervals: Sequence[Interval], rows: Sequence[int]) -> list[Any]:
    """Return those of the rows that are alive in a lineage, in the order of their birth."""
    found: list[Any] = []
    for start in range(0, len(rows), 500):
        found += connection.execute(alive(domain, intervals).where(t.learned.c.id.in_(rows[start : start + 500])))
    return sorted(found, key=lambda r: (r.born, r.id))


def page(connection: Connection, domain: int, scope: Scope, after: int, limit: int) -> Sequence[Any]:
    """Return the next labels of a scope in journal order, those of its exceptions too."""
    since = t.label.c.seq >= scope.since if isinstance(scope.since, int) else t.label.c.received >= scope.since
    query = (
        select(t.label.c.seq, t.label.c.event, t.label.c.label, t.label.c.source, t.label.c.held, t.event.c.content)
        .join(t.event, t.event.c.seq == t.label.c.event)
        .where(t.event.c.domain == domain, t.label.c.seq > after, since, t.label.c.held != DROPPED))
    return connection.execute(query.order_by(t.label.c.seq).limit(limit)).all()


def missing(connection: Connection, domain: int, intervals: Sequence[Interval], labels: Sequence[Any],
            targets: Targets, rows: Rows) -> list[tuple[Any, Mapping[str, str]]]:
    """Return the labels that a lineage lacks, each with the targets that no later label of its event overrules.

    One that the domain takes no more comes without targets.
    """
    reached = _reached(connection, domain, intervals, {r.event for r in labels}, targets, rows)
    found: list[tuple[Any, Mapping[str, str]]] = []
    for r in labels:
        wanted = _targets(r, targets)
        lacking = {head: target for head, target in wanted.items() if r.seq > reached.get((r.event, head), 0)}
        if lacking or not wanted:
            found.append((r, lacking))
    return found


def _reached(connection: Connection, domain: int, intervals: Sequence[Interval], events: Collection[int],
             targets: Targets, rows: Rows) -> dict[tuple[int, str], int]:
    """Return, per event and head, the seq of the label whose row is alive in a lineage."""
    labels: dict[int, list[Any]] = {event: [] for event in events}
    for r in connection.execute(select(t.label).where(t.label.c.event.in_(events)).order_by(t.label.c.seq.desc())):
        labels[r.event].append(r)
    births: dict[tuple[int, int, str], set[tuple[str, int, str]]] = {}
    for r in connection.execute(alive(domain, intervals).where(t.learned.c.event.in_(events))):
        births.setdefault((r.event, r.born, r.source), set()).add((r.head, r.part, r.target))
    found: dict[tuple[int, str], int] = {}
    for (event, seq, source), taught in births.items():
        label = _label(labels[event], seq, source, taught, targets, rows)
        found |= {(event, head): max(found.get((event, head), 0), label) for head, _, _ in taught}
    return found


def _label(labels: Sequence[Any], born: int, source: str, taught: AbstractSet[tuple[str, int, str]], targets: Targets,
           rows: Rows) -> int:
    """Return the seq of the label behind a birth; one that was learned late has a birth of a later seq."""
    if any(label.seq == born for label in labels):
        return born
    earlier = [label for label in labels if label.seq < born and label.source == source]
    said = (label.seq for label in earlier if taught <= _rows(label, targets, rows))
    return next(said, earlier[0].seq if earlier else 0)  # none says it where the row followed a change of its label


def _targets(label: Any, targets: Targets) -> Mapping[str, str]:
    try:
        return targets(json.loads(label.label))
    except AdaptdError as error:  # the domain takes other labels now
        log.warning("late label %s: %s", label.seq, error, extra={"action": "held_label_refused"})
        return {}


def _rows(label: Any, targets: Targets, rows: Rows) -> AbstractSet[tuple[str, int, str]]:
    """Return what a label is learned as; nothing where the domain reads another text now."""
    try:
        return set(rows(label.event, _targets(label, targets)))
    except BadPayload:
        return frozenset()
