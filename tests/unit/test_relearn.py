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
from adaptd.heads import Head, Spans
from adaptd.interfaces import Domain
from adaptd.journal import Journal
from adaptd.late import CHUNK
from adaptd.quarantine import Finding
from adaptd.records import Example, Feedback, Item, Learned, canonical
from adaptd.relearn import Scope
from adaptd.rows import HoldoutRule, alive, lineage
from adaptd.setaside import DROPPED, LEARNED, REFUSED, WAITING
from adaptd.tagging import Tagging

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
    made.births.holdout[DOMAIN] = HoldoutRule(share=0.15, after=20)
    with engine.connect() as connection:
        made.open(connection)
    writer.start(0)
    yield made
    writer.close()


def give(journal: Journal, event: str, source: str, **label: str) -> None:
    one = Feedback(event=event, label=label, targets=label, teacher=source)
    assert journal.feedback(DOMAIN, [one]).result(10).receipts[0].status == "accepted"


@pytest.fixture
def reader(where: Path | str) -> Iterator[Engine]:
    """Return a reader of the store: the writer has the one connection that writes."""
    made = db.reading_engine(where)
    yield made
    made.dispose()


def taught(reader: Engine) -> dict[str, str]:
    """Return the targets that are alive, by head."""
    with reader.connect() as connection:
        branch = registry.live(connection, DOMAIN).branch
        return {row.head: row.target for row in connection.execute(alive(DOMAIN, lineage(connection, branch)))}


def held(reader: Engine) -> list[int]:
    with reader.connect() as connection:
        return list(connection.execute(select(t.label.c.held).order_by(t.label.c.seq)).scalars())


def event(journal: Journal) -> str:
    """Journal an event without label and return its id."""
    found = journal.append(DOMAIN, [Item(payload={"text": "a"}, source="crm")]).result(10).receipts[0].event
    assert found is not None
    return found


def test_a_label_that_waited_is_overruled_head_by_head(journal: Journal, reader: Engine) -> None:
    one = event(journal)
    journal.late.hold(DOMAIN, "learning", "intern", "", "me").result(10)
    give(journal, one, "intern", topic="card", mood="angry")
    give(journal, one, "desk", mood="calm")
    assert journal.late.resume(DOMAIN, "learning", "intern", "", "me") == 1
    assert taught(reader) == {"topic": "card", "mood": "calm"}
    assert journal.late.replay(DOMAIN, Scope(since=0, sources=frozenset(), events={}), "", "me") == (0, 0)


def test_a_replay_learns_what_waits_but_for_what_is_excepted_or_refused(journal: Journal, reader: Engine) -> None:
    one = event(journal)
    journal.late.hold(DOMAIN, "learning", "", "", "me").result(10)
    give(journal, one, "intern", topic="spam")
    give(journal, one, "desk", topic="card")
    give(journal, one, "desk", mood="refused")
    scope = Scope(since=0, sources=frozenset({"intern"}), events={})
    assert journal.late.replay(DOMAIN, scope, "", "me") == (1, 2)
    assert (taught(reader), held(reader)) == ({"topic": "card"}, [WAITING, LEARNED, REFUSED])
    assert journal.late.resume(DOMAIN, "learning", "", "", "me") == 0
    assert (taught(reader), held(reader)) == ({"topic": "card"}, [LEARNED, LEARNED, REFUSED])


def test_a_replay_goes_on_over_many_chunks(journal: Journal, reader: Engine) -> None:
    journal.late.hold(DOMAIN, "learning", "", "", "me").result(10)
    label = {"topic": "card"}
    items = [Item(payload={"text": f"{n}"}, source="desk" if n % 3 else "intern", label=label, targets=label) for n in range(600)]
    journal.append(DOMAIN, items).result(10)
    scope = Scope(since=0, sources=frozenset({"intern"}), events={})
    assert journal.late.replay(DOMAIN, scope, "", "me") == (400, 200)
    assert journal.late.replay(DOMAIN, scope, "", "me") == (0, 200)
    assert (held(reader).count(WAITING), journal.late.holds(DOMAIN)) == (200, {""})


# -- a source that is set aside -----------------------------------------------------------------------------------


def found(source: str, since: int, seq: int) -> Finding:
    return Finding(source=source, seq=seq, since=since, labels=20, against=15, others=0.05, evidence=14.0)


def test_what_a_source_taught_since_is_taken_out_and_what_it_corrected_holds_again(journal: Journal, reader: Engine) -> None:
    one, other = event(journal), event(journal)
    give(journal, one, "desk", topic="card", mood="calm")  # seq 3
    give(journal, other, "intern", topic="food")  # 4: before the evidence began
    give(journal, one, "intern", topic="spam")  # 5
    outcome = journal.late.set_aside(DOMAIN, found("intern", 5, 5), "15 of 20").result(10)
    assert outcome is not None and [len(entry.died) for entry in outcome.learned] == [1, 0]
    assert outcome.learned[-1].admitted and outcome.learned[-1].born[0].source == "desk"
    assert sorted(alive_targets(reader)) == ["calm", "card", "food"] and held(reader) == [LEARNED, LEARNED, WAITING]
    assert journal.late.holds(DOMAIN) == {"intern"} and journal.late.quarantined(DOMAIN)["intern"][1] == "15 of 20"
    give(journal, one, "intern", topic="scam")
    assert held(reader)[-1] == WAITING


def test_a_finding_from_before_somebody_decided_does_nothing(journal: Journal, reader: Engine) -> None:
    one = event(journal)
    give(journal, one, "intern", topic="spam")
    assert journal.late.set_aside(DOMAIN, found("intern", 2, 2), "").result(10) is not None
    assert journal.late.set_aside(DOMAIN, found("intern", 2, 2), "").result(10) is None  # as the tail finds it at a start
    assert journal.late.resume(DOMAIN, "learning", "intern", "", "me") == 1
    assert journal.late.set_aside(DOMAIN, found("intern", 2, 2), "").result(10) is None
    assert (taught(reader), journal.late.holds(DOMAIN), journal.late.quarantined(DOMAIN)) == ({"topic": "spam"}, set(), {})


def test_what_is_admitted_by_name_is_marked_so_and_what_a_general_resume_learns_is_not(engine: Engine, journal: Journal) -> None:
    learned: list[Learned] = []
    journal._on_learned = learned.extend
    one = event(journal)
    for name, lifted in (("intern", "intern"), ("", "")):
        journal.late.hold(DOMAIN, "learning", name, "", "me").result(10)
        give(journal, one, "intern", topic=f"of hold {name!r}")
        assert journal.late.resume(DOMAIN, "learning", lifted, "", "me") == 1
    assert [entry.admitted for entry in learned] == [True, False]


def test_what_is_dropped_is_learned_by_no_replay(journal: Journal, reader: Engine) -> None:
    one = event(journal)
    give(journal, one, "desk", topic="card")
    give(journal, one, "intern", topic="spam")
    journal.late.set_aside(DOMAIN, found("intern", 3, 3), "").result(10)
    assert journal.late.drop(DOMAIN, "intern", "", "me").result(10) == 1
    assert held(reader) == [LEARNED, DROPPED] and journal.late.quarantined(DOMAIN) == {} and journal.late.holds(DOMAIN) == set()
    assert journal.late.replay(DOMAIN, Scope(since=0, sources=frozenset(), events={}), "", "me") == (0, 0)
    assert taught(reader) == {"topic": "card"}
    give(journal, one, "intern", topic="spam")  # given again it is a label like any other
    assert taught(reader) == {"topic": "spam"}


def test_a_hold_by_itself_is_there_after_a_restart(journal: Journal, engine: Engine, reader: Engine) -> None:
    give(journal, event(journal), "intern", topic="spam")
    journal.late.set_aside(DOMAIN, found("intern", 2, 2), "why").result(10)
    again = Journal(db.Writer(engine, 1000), targets, lambda learned: None)
    with reader.connect() as connection:
        again.open(connection)
    assert again.late.holds(DOMAIN) == {"intern"} and again.late.quarantined(DOMAIN) == journal.late.quarantined(DOMAIN)


def alive_targets(reader: Engine) -> list[str]:
    """Return the targets that are alive, of all events."""
    with reader.connect() as connection:
        branch = registry.live(connection, DOMAIN).branch
        return [row.target for row in connection.execute(alive(DOMAIN, lineage(connection, branch)))]


# -- words that are tagged ----------------------------------------------------------------------------------------


class Places(Domain):
    """Tags words."""

    name = "places"
    heads: Mapping[str, Head] = {"places": Spans()}

    def example(self, payload: Mapping[str, Any]) -> Example:
        return Example(text=payload["text"])


def test_a_correction_of_spans_that_comes_in_a_later_chunk_is_not_taken_for_learned(journal: Journal, reader: Engine) -> None:
    journal.births.tagging[DOMAIN] = Tagging(Places())

    def spans(kind: str) -> dict[str, str]:
        return {"places": canonical([{"start": 0, "end": 4, "type": kind}])}

    one = journal.append(DOMAIN, [Item(payload={"text": "Oslo is far"}, source="crm")]).result(10).receipts[0].event
    assert one is not None
    journal.late.hold(DOMAIN, "learning", "", "", "me").result(10)
    give(journal, one, "desk", **spans("city"))
    label = {"places": "[]"}
    others = [Item(payload={"text": f"{n}"}, source="crm", label=label, targets=label) for n in range(CHUNK)]
    journal.append(DOMAIN, others).result(10)
    give(journal, one, "desk", **spans("country"))
    scope = Scope(since=0, sources=frozenset(), events={})
    assert journal.late.replay(DOMAIN, scope, "", "me") == (CHUNK + 2, 0)
    with reader.connect() as connection:
        branch = registry.live(connection, DOMAIN).branch
        query = alive(DOMAIN, lineage(connection, branch)).where(t.event.c.id == one)
        rows = {row.part: row.target for row in connection.execute(query)}
    assert rows == {0: "B-country", 1: "O", 2: "O"}
    assert journal.late.replay(DOMAIN, scope, "", "me") == (0, 0)
