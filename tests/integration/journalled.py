"""A store that a journal has written, what changes it behind adaptd's back, and what verify finds then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from adaptd import db, erase, registry
from adaptd.history import last_seq
from adaptd.journal import Journal
from adaptd.paths import Paths
from adaptd.records import Feedback, Item
from adaptd.rows import HoldoutRule
from adaptd.selector import Selector
from adaptd.status import open_store
from adaptd.verify import Result, verify

EVENTS = 12  # with their labels; then come a later label, a correction, an event without a label


@contextmanager
def journal(paths: Paths) -> Iterator[Journal]:
    """Open a store's journal with its writer, as the daemon does."""
    engine = db.writing_engine(paths.store)
    writer = db.Writer(engine, 1000)
    opened = Journal(writer, lambda domain, label: {"label": label}, lambda learned: None)
    opened.births.holdout[1] = HoldoutRule(share=0.15, after=20)
    with engine.connect() as connection:
        opened.open(connection)
        seq = last_seq(connection)
    writer.start(seq)
    try:
        yield opened
    finally:
        writer.close()
        engine.dispose()


def item(number: int) -> Item:
    """Return a labelled event with every field there is."""
    return Item(payload={"text": f"text {number}"}, source="crm", key=f"k{number}", content=b"c" * 16, subject=f"s{number}",
                label="a", targets={"label": "a"}, time=-0.0, answer={"was": number})


def write(paths: Paths) -> Paths:
    """Write a store through its journal."""
    paths.config.write_text("[domains.text]\n")
    engine = db.writing_engine(paths.store)
    db.upgrade(engine)
    with engine.begin() as connection:
        registry.create_domain(connection, "text", "encoder", "config")
    engine.dispose()
    with journal(paths) as opened:
        receipts = opened.append(1, [item(number) for number in range(EVENTS)]).result(10).receipts
        late = [Feedback(event=receipts[0].event, label=label, targets={"label": label}) for label in ("b", "c")]
        assert [one.status for one in opened.feedback(1, [*late, late[1]]).result(10).receipts] == [
            "accepted", "accepted", "duplicate"]
        opened.append(1, [Item(payload={"text": "é \U0001f600 \0"}, source="http"), item(3)]).result(10)
    paths.database.chmod(0o600)
    return paths


def verified(paths: Paths, head: tuple[int, str] | None = None) -> Result:
    with closing(open_store(paths.store)) as opened:
        return verify(opened, head=head)


def found(paths: Paths, head: tuple[int, str] | None = None) -> list[tuple[int, str]]:
    """Return where the chain does not hold, and how."""
    return [(one.seq, one.code) for one in verified(paths, head).broken]


def execute(paths: Paths, *statements: str) -> None:
    """Change a store behind adaptd's back."""
    with closing(sqlite3.connect(paths.database)) as opened:
        opened.execute("PRAGMA foreign_keys = OFF")
        for statement in statements:
            assert opened.execute(statement).rowcount, f"changed nothing: {statement}"
        opened.commit()


def forget(paths: Paths, **asked: Any) -> dict[str, Any]:
    """Forget in the tables, as a daemon or a command does."""
    engine = db.writing_engine(paths.store)
    with engine.begin() as connection:
        erased = erase.erase(connection, 1, Selector.of(asked), "r", "me")
        certificate = erase.certify(connection, [erased.action], {"tables": erase.left(connection, 1)})
    engine.dispose()
    return certificate
