"""The writer: an operation that fails is its caller's alone, whether it came alone or in a group."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, insert, select, text

from adaptd import tables as t
from adaptd.chain import EVENT
from adaptd.db import Writer, insert_many, writing_engine

WAIT_S = 20.0


@pytest.fixture
def writer(where: Path | str) -> Iterator[Writer]:
    engine = writing_engine(where)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (what TEXT NOT NULL)"))
    made = Writer(engine, 100)
    made.start(0)
    yield made
    made.close()
    engine.dispose()


def keep(connection: Connection, what: str) -> str:
    connection.execute(text("INSERT INTO kept VALUES (:what)"), {"what": what})
    return what


def half(connection: Connection) -> None:
    keep(connection, "half")
    raise ValueError("no")


def kept(writer: Writer) -> list[str]:
    return writer.submit(lambda c: list(c.execute(text("SELECT what FROM kept")).scalars())).result(WAIT_S)


def test_an_operation_that_fails_alone_leaves_nothing_and_the_next_one_succeeds(writer: Writer) -> None:
    with pytest.raises(ValueError, match="no"):
        writer.submit(half).result(WAIT_S)

    assert writer.submit(lambda c: keep(c, "next")).result(WAIT_S) == "next"
    assert kept(writer) == ["next"]


def test_in_a_group_the_neighbours_of_a_failure_stand(writer: Writer) -> None:
    gate = threading.Event()
    first = writer.submit(lambda c: gate.wait(WAIT_S))  # while it runs, the others queue up and become one group
    before, failed = writer.submit(lambda c: keep(c, "before")), writer.submit(half)
    after = writer.submit(lambda c: keep(c, "after"))
    gate.set()

    assert first.result(WAIT_S) and before.result(WAIT_S) == "before" and after.result(WAIT_S) == "after"
    with pytest.raises(ValueError, match="no"):
        failed.result(WAIT_S)
    assert kept(writer) == ["before", "after"]


@pytest.mark.parametrize("count", [1, 199, 200, 201, 1234])
def test_rows_that_are_written_at_once_are_read_as_they_were(engine: Engine, count: int) -> None:
    """Their columns are of each kind: the same in all, numbers in turn and not, bytes of one length and of several, nothing."""
    rows = [(7 + n, f"é{n}", 1, "http", None if n % 3 else f"k{n}", os.urandom(16), os.urandom(n % 2), "{}", None, "s" * (n % 2),
             n * n / 7, 1796041201.472544) for n in range(count)]
    for rest in (rows, [(2 * row[0] + count, row[1] + "b", *row[2:4], f"b{n}", *row[5:]) for n, row in enumerate(rows)]):
        with engine.begin() as connection:
            if rest is rows:
                connection.execute(insert(t.domain).values(id=1, name="text"))
            insert_many(connection, t.event, EVENT, rest)
            found = connection.execute(select(t.event).order_by(t.event.c.seq)).all()
        assert [tuple(row) for row in found[-count:]] == rest
