"""A batch that comes in columns is journalled as its items would be, whichever of its ids have come before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest

from adaptd import offline
from adaptd.doorkeeper import packed, put_together, taken_apart
from adaptd.journal import Journal, Outcome
from adaptd.paths import Paths
from adaptd.records import Columns, Item
from adaptd.status import open_store
from tests.integration.journalled import forget, item, journal, verified
from tests.postgres import database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def paths(request: pytest.FixtureRequest, journalled: Paths) -> Iterator[Paths]:
    with database() if request.param == "postgresql" else nullcontext() as url:
        if url:
            offline.copy(journalled, url, lambda rows: None)
        yield replace(journalled, given_url=url)


def event(key: str | None, text: str = "x", source: str = "bulk") -> Item:
    return Item(payload={"text": text}, source=source, key=key, content=b"c" * 16)


def columns(items: Sequence[Item]) -> Columns:
    through = put_together(packed([1, taken_apart([*enumerate(items)], [])]), 1)
    assert through is not None and through[0] == [*range(len(items))]
    return through[1]


def append(opened: Journal, items: Sequence[Item]) -> Outcome:
    return opened.append(1, columns(items)).result(30)


def keys(paths: Paths, source: str = "bulk") -> list[str | None]:
    with closing(open_store(paths.store)) as opened:
        return [row[0] for row in opened.execute(f"SELECT key FROM event WHERE source = '{source}' ORDER BY seq")]


def test_all_new_are_one_insert_and_hold_in_the_chain(paths: Paths) -> None:
    items = [*(event(f"b{n}", "\0é" * (n % 3)) for n in range(1200)), event(None), event(None)]
    with journal(paths) as opened:
        done = append(opened, items)
        assert len(set(done.new)) == len(items) and not done.receipts
        assert append(opened, [event("later")]).seq == done.seq + 1
    assert keys(paths) == [*(one.key for one in items), "later"]
    assert not verified(paths).broken


def test_one_that_came_before_has_each_looked_at(paths: Paths) -> None:
    with journal(paths) as opened:
        first = append(opened, [event("a"), event("b")]).new
        done = append(opened, [event("c"), event("b"), event("a", "another"), event("d"), event("d"), event("b", source="crm")])
        assert [one.status for one in done.receipts] == ["accepted", "duplicate", "rejected", "accepted", "duplicate", "accepted"]
        assert [one.event for one in done.receipts[1:3]] == [first[1], first[0]] and not done.new
        assert done.receipts[2].error is not None and done.receipts[2].error["code"] == "conflict"
        last = append(opened, [event("e"), event("e")])
        assert [one.status for one in last.receipts] == ["accepted", "duplicate"]
        again = append(opened, [event("a"), event("b")])
        assert [one.status for one in again.receipts] == ["duplicate"] * 2
        assert again.seq == last.seq == last.receipts[0].event_seq, "no seq is named that is nobody's"
    assert keys(paths) == ["a", "b", "c", "d", "e"]
    assert not verified(paths).broken


def test_one_that_was_forgotten_is_recognised(paths: Paths) -> None:
    with journal(paths) as opened:
        append(opened, [event("a"), event("b")])
    forget(paths, source="bulk")
    with journal(paths) as opened:
        done = append(opened, [event("c"), event("a")])
        assert [one.status for one in done.receipts] == ["accepted", "rejected"]
        assert done.receipts[1].error is not None and done.receipts[1].error["code"] == "forgotten"
        assert len(append(opened, [event("d"), event("e")]).new) == 2, "others are new all the same"
    assert keys(paths) == ["c", "d", "e"]
    assert not verified(paths).broken


def test_labels_are_journalled_with_their_events(paths: Paths) -> None:
    with journal(paths) as opened:
        done = append(opened, [replace(item(0), key="new"), event("a")])
        assert [one.status for one in done.receipts] == ["accepted", "accepted"] and len(done.learned) == 1
    assert not verified(paths).broken
