"""Outbox: what outputs have to send, read from the tables in small pages, and how far they are.

Ids rise in the order of commits, since one connection writes, and none is given twice (`adaptd.journal`): what lies behind an id
is what was not sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, update

from adaptd import tables as t
from adaptd.heads import answered
from adaptd.records import Message, canonical

PAGE = 200  # rows that are read at once
VERDICTS = ("promote", "demote", "probation-passed", "rollback")  # beside those of gates


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far an output is."""

    predictions: int  # the last prediction's id
    verdicts: int  # the last action's
    problems: Mapping[str, Any] = field(default_factory=dict)  # that it was told of and were not over, by their key
    asked: Sequence[str] = ()  # events that review has asked about and that have no label

    def told(self) -> str:
        """Return what is no number, as JSON."""
        return canonical({"problems": self.problems, "asked": list(self.asked)})


def newest(connection: Connection) -> Place:
    """Return the place behind all that there is."""
    return Place(predictions=connection.scalar(select(func.coalesce(func.max(t.prediction.c.id), 0))) or 0,
                 verdicts=connection.scalar(select(func.coalesce(func.max(t.action.c.id), 0))) or 0)


def last_prediction(connection: Connection) -> int:
    """Return the highest id that a prediction can have had: the newest one's may have been forgotten behind its sending."""
    sent = connection.scalar(select(func.coalesce(func.max(t.output.c.predictions), 0))) or 0
    return max(newest(connection).predictions, sent)


def opened(connection: Connection, name: str) -> tuple[Place, bool, int]:
    """Return an output's place, whether it is paused, how many messages it has sent; a new one begins with what comes now."""
    known = connection.execute(select(t.output).where(t.output.c.name == name)).one_or_none()
    if known is None:
        place = newest(connection)
        connection.execute(insert(t.output).values(name=name, predictions=place.predictions, verdicts=place.verdicts,
                                                   told=place.told(), sent=0, paused=0))
        return place, False, 0
    told = json.loads(known.told)
    place = Place(predictions=known.predictions, verdicts=known.verdicts, problems=told["problems"], asked=told["asked"])
    return place, bool(known.paused), known.sent


def keep(connection: Connection, name: str, place: Place, sent: int) -> None:
    """Move an output's place: so many more messages were acknowledged."""
    connection.execute(update(t.output).where(t.output.c.name == name).values(
        predictions=place.predictions, verdicts=place.verdicts, told=place.told(), sent=t.output.c.sent + sent))


def predictions(connection: Connection, after: int, domains: Mapping[int, str]) -> tuple[list[Message], int]:
    """Return the answers behind an id that belong to these domains, at most a page, and the id up to which was read."""
    event, given = t.event.c, t.prediction.c
    rows = connection.execute(
        select(given.id, given.version, given.learned, given.labels, given.confidence, given.at, event.id.label("event"),
               event.domain, event.source, event.key)
        .join(t.event, event.seq == given.event).where(given.id > after).order_by(given.id).limit(PAGE)).all()
    found = []
    for r in rows:
        if r.domain in domains:
            labels = {head: answered(label) for head, label in json.loads(r.labels).items()}
            found.append(Message(id=f"{r.event}.{r.id}", kind="prediction", about=r.event, body={
                "event": r.event, "domain": domains[r.domain], "source": r.source, "key": r.key, "version": r.version,
                "label": next(iter(labels.values())) if len(labels) == 1 else labels, "confidence": r.confidence,
                "learned": r.learned, "at": r.at}))
    return found, rows[-1].id if rows else after


def verdicts(connection: Connection, after: int, domains: Mapping[int, str]) -> tuple[list[Message], int]:
    """Return what gates, probation and operators decided behind an id, at most a page, and the id up to which was read."""
    action = t.action.c
    last = connection.scalar(select(func.coalesce(func.max(action.id), 0))) or 0
    wanted = or_(action.what.startswith("verdict-"), action.what.in_(VERDICTS))
    rows = connection.execute(select(t.action).where(action.id > after, wanted).order_by(action.id).limit(PAGE)).all()
    found = [Message(id=f"verdict.{r.id}.{int(1000 * r.at)}", kind="verdict", about=domains[r.domain], body={
        "domain": domains[r.domain], "verdict": r.what.removeprefix("verdict-"), "before": r.before, "after": r.after,
        "by": r.actor, "reason": r.reason, "at": r.at}) for r in rows if r.domain in domains]
    return found, rows[-1].id if len(rows) == PAGE else max(after, last)


def open_questions(connection: Connection, asked: Sequence[str]) -> list[str]:
    """Return those of the events that have no label yet and were not forgotten."""
    query = select(t.event.c.id).where(t.event.c.id.in_(asked), t.event.c.source != t.FORGOTTEN,
                                       ~select(t.label.c.seq).where(t.label.c.event == t.event.c.seq).exists())
    still = set(connection.execute(query).scalars())
    return [one for one in asked if one in still]


def holders(connection: Connection) -> list[str]:
    """Return the outputs that have sent anything: what lies where they lead to is outside."""
    return list(connection.execute(select(t.output.c.name).where(t.output.c.sent > 0).order_by(t.output.c.name)).scalars())
