"""Describe: one version or event in full, and what lies between two versions, for people who ask why an answer has changed.

Where: beside the registry; the daemon and a command on a stopped store read the same tables through it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from adaptd import registry
from adaptd import tables as t
from adaptd.errors import Forgotten, NotFound
from adaptd.heads import answered
from adaptd.moments import live_at
from adaptd.registry import Version
from adaptd.rows import alive, counts, lineage

Json = dict[str, Any]
INSIDE = ("folds", "classes", "training")  # metrics that the daemon goes on from; not for people


def brief(version: Version, live: int) -> Json:
    """Return a version as lists show it."""
    return {
        "version": version.number, "kind": version.kind, "parent": version.parent, "seq": version.seq, "created": version.created,
        "actor": version.actor, "reason": version.reason, "live": version.number == live, "verdict": version.verdict,
        "files": version.files, "metrics": {name: value for name, value in version.metrics.items() if name not in INSIDE}}


def version(connection: Connection, domain: int, number: int) -> Json:
    """Return all that is known of a version: what, who, when, why, its verdict, figures, files, labels, and its history.

    Raises
    ------
    NotFound
        There is no such version in the domain.
    """
    found = registry.version(connection, number, domain)
    heads = counts(connection, domain, lineage(connection, found.branch, found.seq))
    return {**brief(found, registry.live(connection, domain).version), "encoder": found.encoder, "config": found.config,
            "memory": sum(sum(labels.values()) for labels in heads.values()), "heads": heads,
            "history": _history(connection, domain, number)}


def _history(connection: Connection, domain: int, number: int) -> list[Json]:
    """Return the actions that led to a version or away from it, oldest first."""
    about = (t.action.c.after == number) | (t.action.c.before == number)
    query = select(t.action).where(t.action.c.domain == domain, about).order_by(t.action.c.id)
    return [{"at": r.at, "what": r.what, "before": r.before, "after": r.after, "actor": r.actor, "reason": r.reason,
             "detail": json.loads(r.detail)} for r in connection.execute(query)]


def event(connection: Connection, domain: int, identity: str) -> Json:
    """Return all that the store has of an event: payload, every answer with its version, every label, and what was live.

    Raises
    ------
    NotFound
        There is no such event in the domain.
    Forgotten
        It was forgotten.
    """
    found = connection.execute(select(t.event).where(t.event.c.domain == domain, t.event.c.id == identity)).one_or_none()
    if found is None:
        raise NotFound(f"no event {identity!r} in this domain", field="event", hint="use the id from a receipt or an answer")
    if found.source == t.FORGOTTEN:
        raise Forgotten(f"event {identity!r} was forgotten", field="event", hint="adaptd history says when and why")
    answers = connection.execute(select(t.prediction).where(t.prediction.c.event == found.seq).order_by(t.prediction.c.id))
    labels = connection.execute(select(t.label).where(t.label.c.event == found.seq).order_by(t.label.c.seq))
    return {
        "event": identity, "source": found.source, "subject": found.subject, "received": found.received,
        "live_then": live_at(connection, domain, found.received), "payload": json.loads(found.payload),
        "answers": [{"version": a.version, "seq": a.learned, "confidence": a.confidence, "at": a.at,
                     "labels": {head: answered(label) for head, label in json.loads(a.labels).items()}} for a in answers],
        "labels": [{"seq": one.seq, "label": json.loads(one.label), "source": one.source, "held": bool(one.held),
                    "at": one.received} for one in labels]}


def difference(connection: Connection, domain: int, one: int, other: int) -> Json:
    """Return what the second of two versions has more and less than the first: labels, remembered rows, figures.

    Raises
    ------
    NotFound
        There is no such version in the domain.
    """
    first, second = registry.version(connection, one, domain), registry.version(connection, other, domain)
    before, after = _rows(connection, first), _rows(connection, second)
    was, now = set(before.values()), set(after.values())
    return {"from": one, "to": other,
            "labels": {"added": _names(now - was), "removed": _names(was - now)},
            "rows": {"added": _tally(after, before), "removed": _tally(before, after), "kept": len(before.keys() & after.keys())},
            "metrics": _metrics(brief(first, 0)["metrics"], brief(second, 0)["metrics"])}


def _rows(connection: Connection, found: Version) -> dict[int, tuple[str, str]]:
    """Return head and label of the rows that a version remembers, by id."""
    query = alive(found.domain, lineage(connection, found.branch, found.seq)).with_only_columns(
        t.learned.c.id, t.learned.c.head, t.learned.c.target).order_by(None)
    return {r.id: (r.head, r.target) for r in connection.execute(query)}


def _names(labels: set[tuple[str, str]]) -> dict[str, list[str]]:
    heads: dict[str, list[str]] = {}
    for head, label in sorted(labels):
        heads.setdefault(head, []).append(label)
    return heads


def _tally(these: Mapping[int, tuple[str, str]], without: Mapping[int, tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Count the rows of one version that the other has not, per head and label."""
    heads: dict[str, dict[str, int]] = {}
    for row, (head, label) in these.items():
        if row not in without:
            tally = heads.setdefault(head, {})
            tally[label] = tally.get(label, 0) + 1
    return heads


def _metrics(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the figures that differ, as pairs."""
    names = sorted(one.keys() | other.keys())
    return {name: [one.get(name), other.get(name)] for name in names if one.get(name) != other.get(name)}
