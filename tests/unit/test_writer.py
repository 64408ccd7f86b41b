"""The writer: an operation that fails is its caller's alone, whether it came alone or in a group."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from adaptd.db import Writer, writing_engine

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
