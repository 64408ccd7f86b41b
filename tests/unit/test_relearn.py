"""Which labels are learned late, on a real store: per head the newest holds, what the domain refuses stays out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from adaptd import db, registry
from adaptd import tables as t
from adaptd.errors import BadPayload
from adaptd.journal import LEARNED, REFUSED, WAITING, Journal
from adaptd.records import Feedback, Item
from adaptd.relearn import Scope
from adaptd.rows import HoldoutRule, alive, lineage

DOMAIN = 1


def targets(domain: int, label: Any) -> Mapping[str, str]:
    """A label of this domain names its heads; one is no label any more."""
    if "refused" in label.values():
        raise BadPayload("no such label", field="label")
    return dict(label)


@pytest.fixture
def journal(engine: Engine) -> Iterator[Journal]:
    with engine.begin() as connection:
        assert registry.create_domain(connection, "text", "encoder", "config")[0] == DOMAIN
    writer = db.Writer(engine, 1000)
    made = Journal(writer, targets, lambda learned: None)
    made.holdout[DOMAIN] = HoldoutRule(share=0.15, after=20)
    with engine.connect() as connection:
        made.open(connection)
    writer.start(0)
    yield made
    writer.close()


def give(journal: Journal, event: str, source: str, **label: str) -> None:
    one = Feedback(event=event, label=label, targets=label, teacher=source)
    assert journal.feedback(DOMAIN, [one]).result(10).receipts[0].status == "accepted"


def reading(engine: Engine) -> Engine:
    """Return a reader of the store: the writer has the one connection that writes."""
    return db.reading_engine(Path(str(engine.url.database)))


def taught(engine: Engine) -> dict[str, str]:
    """Return the targets that are alive, by head."""
    with reading(engine).connect() as connection:
        branch = registry.live(connection, DOMAIN).branch
        return {row.head: row.target for row in connection.execute(alive(DOMAIN, lineage(connection, branch)))}


def held(engine: Engine) -> list[int]:
    with reading(engine).connect() as connection:
        return list(connection.execute(select(t.label.c.held).order_by(t.label.c.seq)).scalars())


def event(journal: Journal) -> str:
    """Journal an event without label and return its id."""
    found = journal.append(DOMAIN, [Item(payload={"text": "a"}, source="crm")]).result(10).receipts[0].event
    assert found is not None
    return found


def test_a_label_that_waited_is_overruled_head_by_head(journal: Journal, engine: Engine) -> None:
    one = event(journal)
    journal.hold(DOMAIN, "learning", "intern", "", "me").result(10)
    give(journal, one, "intern", topic="card", mood="angry")
    give(journal, one, "desk", mood="calm")
    assert journal.resume(DOMAIN, "learning", "intern", "", "me") == 1
    assert taught(engine) == {"topic": "card", "mood": "calm"}
    assert journal.replay(DOMAIN, Scope(since=0, sources=frozenset(), events={}), "", "me") == (0, 0)


def test_a_replay_learns_what_waits_but_for_what_is_excepted_or_refused(journal: Journal, engine: Engine) -> None:
    one = event(journal)
    journal.hold(DOMAIN, "learning", "", "", "me").result(10)
    give(journal, one, "intern", topic="spam")
    give(journal, one, "desk", topic="card")
    give(journal, one, "desk", mood="refused")
    scope = Scope(since=0, sources=frozenset({"intern"}), events={})
    assert journal.replay(DOMAIN, scope, "", "me") == (1, 2)
    assert (taught(engine), held(engine)) == ({"topic": "card"}, [WAITING, LEARNED, REFUSED])
    assert journal.resume(DOMAIN, "learning", "", "", "me") == 0
    assert (taught(engine), held(engine)) == ({"topic": "card"}, [LEARNED, LEARNED, REFUSED])


def test_a_replay_goes_on_over_many_chunks(journal: Journal, engine: Engine) -> None:
    journal.hold(DOMAIN, "learning", "", "", "me").result(10)
    label = {"topic": "card"}
    items = [Item(payload={"text": f"{n}"}, source="desk" if n % 3 else "intern", label=label, targets=label) for n in range(600)]
    journal.append(DOMAIN, items).result(10)
    scope = Scope(since=0, sources=frozenset({"intern"}), events={})
    assert journal.replay(DOMAIN, scope, "", "me") == (400, 200)
    assert journal.replay(DOMAIN, scope, "", "me") == (0, 200)
    assert (held(engine).count(WAITING), journal.holds(DOMAIN)) == (200, {""})
