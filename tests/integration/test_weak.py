"""Weak labels in the tables: marked, never held out, never over a label that is none, withdrawn by their source."""

from __future__ import annotations

import pytest

from adaptd import db, setaside
from adaptd.admission import Tried, _tried, doublings
from adaptd.errors import Refused
from adaptd.history import act
from adaptd.journal import Journal
from adaptd.paths import Paths
from adaptd.records import MISSING, Feedback, Item
from adaptd.relearn import Scope
from adaptd.rows import HoldoutRule, alive, first_labels, lineage, replay
from adaptd.setaside import DROPPED, WAITING
from tests.integration.journalled import journal, verified

WRITTEN = ("crm", "http")  # whose labels the store was written with


def add(opened: Journal, source: str, label: object = MISSING, count: int = 1) -> list[int]:
    """Journal events; return their seqs."""
    targets = {} if label is MISSING else {"label": str(label)}
    items = [Item(payload={"text": "x"}, source=source, content=b"c" * 16, label=label, targets=targets) for _ in range(count)]
    return [one.event_seq or 0 for one in opened.append(1, items).result(10).receipts]


def say(opened: Journal, paths: Paths, event: int, label: str, teacher: str) -> str:
    with db.reading_engine(paths.database).connect() as connection:
        name = connection.exec_driver_sql(f"SELECT id FROM event WHERE seq = {event}").scalar_one()
    given = Feedback(event=name, label=label, targets={"label": label}, teacher=teacher)
    return opened.feedback(1, [given]).result(10).receipts[0].status


def taught(paths: Paths) -> list[tuple[str, str]]:
    """Return source and target of the rows that are alive, but those that the store was written with."""
    with db.reading_engine(paths.database).connect() as connection:
        found = [(r.source, r.target) for r in connection.execute(alive(1, lineage(connection, 1)))]
        return sorted(one for one in found if one[0] not in WRITTEN)


def labels(paths: Paths, held: int) -> list[str]:
    with db.reading_engine(paths.database).connect() as connection:
        return list(connection.exec_driver_sql(f"SELECT source FROM label WHERE held = {held} ORDER BY seq").scalars())


def seqs(paths: Paths, source: str) -> list[int]:
    with db.reading_engine(paths.database).connect() as connection:
        return [r.seq for r in setaside.to_try(connection, 1, source, 1000)]


def came(paths: Paths, seq: int) -> int:
    with db.reading_engine(paths.database).connect() as connection:
        return setaside.labels_since(connection, 1, seq)


def test_a_source_that_is_named_is_marked_and_waits_whoever_resumes_or_replays(journalled: Paths) -> None:
    with journal(journalled) as opened:
        opened.births.weak[1] = frozenset({"rules"})
        add(opened, "rules", "x", 3)
        add(opened, "weak:model", "y")
        add(opened, "Weak:", "y")  # somebody's name
        assert labels(journalled, WAITING) == ["weak:rules"] * 3 + ["weak:model"]
        assert opened.late.resume(1, "learning", "", "", "me") == 0
        assert opened.late.replay(1, Scope(since=0, sources=frozenset(), events={}), "", "me")[0] == 0
        assert opened.late.resume(1, "learning", "weak:model", "", "me") == 1
        assert taught(journalled) == [("Weak:", "y"), ("weak:model", "y")]
        assert opened.late.drop(1, "weak:rules", "", "me").result(10) == 3 and labels(journalled, DROPPED) == ["weak:rules"] * 3


def test_what_is_admitted_is_never_held_out_and_judges_no_answer(journalled: Paths) -> None:
    with journal(journalled) as opened:
        opened.births.holdout[1] = HoldoutRule(share=1.0, after=0)
        add(opened, "weak:rules", "x", 300)
        assert opened.late.admit(1, "weak:rules", seqs(journalled, "weak:rules")) == 300
        add(opened, "desk", "x")
    with db.reading_engine(journalled.database).connect() as connection:
        intervals = lineage(connection, 1)
        assert [r.source for r in connection.execute(alive(1, intervals)) if r.holdout] == ["desk"]
        assert {row.source for row in first_labels(replay(connection, 1, intervals, -1))} == {"crm", "desk"}
        assert setaside.held_out(connection, 1) == {b"c" * 16}


def test_a_label_that_is_not_weak_is_never_overruled_by_one_that_is(journalled: Paths) -> None:
    with journal(journalled) as opened:
        [first, second] = add(opened, "weak:rules", "x", 2)
        assert say(opened, journalled, first, "x", "ana") == "accepted"  # the same, but hers now
        assert opened.late.admit(1, "weak:rules", [first, second]) == 1 and labels(journalled, DROPPED) == ["weak:rules"]
        assert taught(journalled) == [("ana", "x"), ("weak:rules", "x")]
        assert say(opened, journalled, second, "x", "ana") == "accepted"
        assert say(opened, journalled, second, "x", "ana") == "duplicate"
        assert say(opened, journalled, second, "y", "weak:rules") == "accepted" and seqs(journalled, "weak:rules") == []
        assert opened.late.resume(1, "learning", "weak:rules", "", "me") == 0
        assert opened.late.replay(1, Scope(since=0, sources=frozenset(), events={}), "", "me")[0] == 0
        assert taught(journalled) == [("ana", "x"), ("ana", "x")]


def test_what_a_later_label_overrules_waits_no_more(journalled: Paths) -> None:
    with journal(journalled) as opened:
        [first, second, _] = add(opened, "weak:rules", "x", 3)
        assert say(opened, journalled, first, "y", "weak:rules") == "accepted"  # its own later one
        assert opened.late.overruled(1, seqs(journalled, "weak:rules")) == set()  # as long as none was learned
        assert say(opened, journalled, second, "y", "weak:model") == "accepted"
        assert opened.late.admit(1, "weak:model", seqs(journalled, "weak:model")) == 1
        tried = seqs(journalled, "weak:rules")
        assert opened.late.admit(1, "weak:rules", tried) == 2 and labels(journalled, WAITING) == []
        assert taught(journalled) == [("weak:model", "y"), ("weak:rules", "x"), ("weak:rules", "y")]


def test_weak_sources_that_agree_keep_their_labels(journalled: Paths) -> None:
    with journal(journalled) as opened:
        [event] = add(opened, "weak:rules", "x")
        assert [say(opened, journalled, event, "x", "weak:model") for _ in range(2)] == ["accepted", "duplicate"]
        assert say(opened, journalled, event, "x", "weak:rules") == "duplicate"
        assert labels(journalled, WAITING) == ["weak:rules", "weak:model"]


def test_what_was_overruled_is_not_tried(journalled: Paths) -> None:
    with journal(journalled) as opened:
        [first, second] = add(opened, "weak:rules", "x", 2)
        assert say(opened, journalled, second, "y", "weak:model") == "accepted"
        opened.late.admit(1, "weak:model", seqs(journalled, "weak:model"))
        assert opened.late.overruled(1, [first, second]) == {second} and seqs(journalled, "weak:rules") == [first]


@pytest.mark.parametrize(("source", "held"), [("weak:rules", ""), ("weak:rules", "weak:rules"), ("pseudo:8", "pseudo:7")])
def test_what_is_on_hold_by_then_is_not_admitted(journalled: Paths, source: str, held: str) -> None:
    with journal(journalled) as opened:
        add(opened, source, "x", 2)
        opened.late.hold(1, "learning", "weak:other", "", "me").result(10)
        opened.late.hold(1, "learning", held, "", "me").result(10)
        with pytest.raises(Refused, match="on hold"):
            opened.late.admit(1, source, seqs(journalled, source))
        assert labels(journalled, WAITING) == [source] * 2 and taught(journalled) == []
        opened.late.resume(1, "learning", held, "", "me")
        waiting = seqs(journalled, source)  # resumed by its own name it is learned already
        assert opened.late.admit(1, source, waiting) == len(waiting) and taught(journalled) == [(source, "x")] * 2


def test_proposals_are_in_the_chain_and_new_ones_take_the_place_of_those_that_wait(journalled: Paths) -> None:
    with journal(journalled) as opened:
        events = add(opened, "http", count=4)
        proposed = opened.late.propose(1, "pseudo:1", dict.fromkeys(events, "x"))
        assert proposed.result(10) == 4 and came(journalled, events[-1]) == 0
        assert say(opened, journalled, events[0], "y", "ana") == "accepted"
        assert opened.late.propose(1, "pseudo:2", dict.fromkeys(events, "z")).result(10) == 3  # ana has labelled one
        assert labels(journalled, WAITING) == ["pseudo:2"] * 3 and labels(journalled, DROPPED) == ["pseudo:1"] * 4
        assert opened.late.admit(1, "pseudo:2", seqs(journalled, "pseudo:2")) == 3
        assert opened.late.propose(1, "pseudo:3", dict.fromkeys(events, "x")).result(10) == 0  # learned ones are not asked again
    assert not verified(journalled).broken


def test_a_trial_that_failed_is_read_with_its_source(journalled: Paths) -> None:
    with journal(journalled), db.writing_engine(journalled.store).begin() as connection:
        detail = {"source": "weak:rules", "labels": 0, "n": 0, "evidence": {}, "seq": 5}
        act(connection, 7, 1, "weak-failed", "adaptd", "broken", detail=detail)
        act(connection, 8, 1, "weak-failed", "adaptd", "broken before it began")
        assert [(one.source, one.seq, one.what) for one in _tried(connection, 1)] == [("weak:rules", 5, "weak-failed")]


def test_a_trial_that_showed_nothing_wants_twice_as_many_labels_and_one_without_held_out_rows_as_many() -> None:
    def tried(what: str, n: int) -> Tried:
        return Tried(source="weak:rules", seq=1, at=0.0, what=what, reasons="", labels=9, n=n)

    nothing, few, gain = tried("weak-undecided", 100), tried("weak-undecided", 99), tried("weak-admitted", 100)
    failed, cancelled = tried("weak-failed", 0), tried("weak-cancelled", 0)
    rows = [], [nothing], [nothing, few, nothing], [nothing, gain], [nothing] * 9, [gain, failed, cancelled]
    assert [doublings(one, 100) for one in rows] == [0, 1, 2, 0, 4, 2]
