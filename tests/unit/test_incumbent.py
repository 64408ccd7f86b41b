"""The incumbent's answers as the journal has them: what counts, what ends it, how the two stand beside each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from adaptd import incumbent, registry
from adaptd import tables as t
from adaptd.errors import BadPayload, Conflict
from adaptd.metrics import WINDOW, Comparison


def targets(answer: Any) -> dict[str, str]:
    if not isinstance(answer, str):
        raise BadPayload("a label must be a string")
    return {"label": answer.strip()}


@pytest.fixture
def domain(engine: Engine) -> int:
    """Return a domain with events 1 to 5; the incumbent answered the first three, the third with nonsense."""
    with engine.begin() as connection:
        number, _ = registry.create_domain(connection, "text", "encoder", "config")
        for seq, answer in enumerate(["card", " food ", 7, None, None], 1):
            connection.execute(insert(t.event).values(
                seq=seq, id=f"e{seq}", domain=number, source="http", digest=b"d", content=b"c", payload="{}", received=1.0,
                answer=None if answer is None else json.dumps(answer)))
    return number


def said(engine: Engine, domain: int, born: dict[int, int]) -> dict[int, dict[str, str | None]]:
    with engine.connect() as connection:
        return incumbent.answers(connection, domain, born, incumbent.reader(targets, ["label"]))


def switch(engine: Engine, domain: int, seq: int, back: bool = False) -> None:
    with engine.begin() as connection:
        incumbent.switch(connection, domain, seq, 4, back, "why", "me", {"compared": 2})


def test_an_answer_counts_as_the_domain_reads_it(engine: Engine, domain: int) -> None:
    assert said(engine, domain, {seq: 10 for seq in range(1, 6)}) == {1: {"label": "card"}, 2: {"label": "food"},
                                                                      3: {"label": None}}
    assert said(engine, domain, {4: 10, 5: 10}) == {}


def test_after_the_switch_nothing_is_compared_until_it_is_taken_back(engine: Engine, domain: int) -> None:
    switch(engine, domain, 20)
    switch(engine, domain, 30, back=True)
    assert [list(said(engine, domain, {1: born})) for born in (20, 21, 30, 31)] == [[1], [], [], [1]]
    with engine.connect() as connection:
        lines = connection.execute(select(t.action).where(t.action.c.what.startswith("switch")).order_by(t.action.c.id)).all()
        assert incumbent.switched(connection, domain) is None
    assert [(line.what, line.before, line.after) for line in lines] == [("switch", 0, 4), ("switch-back", 4, 0)]
    assert json.loads(lines[0].detail) == {"compared": 2}


def test_a_switch_that_was_made_already_is_refused(engine: Engine, domain: int) -> None:
    with pytest.raises(Conflict, match="in production already"):
        switch(engine, domain, 20, back=True)
    switch(engine, domain, 20)
    with pytest.raises(Conflict, match="adaptd's answers already"):
        switch(engine, domain, 30)
    with engine.connect() as connection:
        assert incumbent.switched(connection, domain) is not None


def test_the_two_stand_side_by_side_over_the_newest_labels() -> None:
    comparison = Comparison()
    assert incumbent.shown(comparison, None) is None
    for pair in [(True, True)] * 60 + [(True, False)] * 25 + [(False, True)] * 5 + [(False, False)] * 10:
        comparison.add(*pair)
    shown = incumbent.shown(Comparison.of(comparison.facts()), 7.0)
    assert shown is not None
    low, high = shown.pop("interval")
    assert 0.08 < low < 0.2 < high < 0.32
    assert shown == {"version": 0, "events": 100, "compared": 100, "accuracy": {"adaptd": 0.85, "incumbent": 0.65},
                     "better": 25, "worse": 5, "difference": 0.2, "confidence": 0.95, "switched_at": 7.0}
    for _ in range(WINDOW):
        comparison.add(False, True)
    newest = incumbent.shown(comparison, None)
    assert newest is not None and (newest["events"], newest["compared"], newest["accuracy"]["adaptd"]) == (1100, 1000, 0.0)
