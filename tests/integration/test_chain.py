"""The chain over a journal's life: what adaptd does keeps it whole, what is cut off or made whole again shows at a head."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from adaptd import backup, chain, db, erase, offline, registry
from adaptd import tables as t
from adaptd.chain import EVENT, LABEL
from adaptd.paths import Paths
from adaptd.records import DeadLetter, columns
from adaptd.selector import Selector
from adaptd.status import stopped_status
from adaptd.verify import noted
from tests.integration.journalled import EVENTS, execute, forget, found, item, journal, verified


@pytest.fixture
def store(journalled: Paths) -> Paths:
    return journalled


def test_what_a_journal_wrote_verifies_entry_by_entry(store: Paths) -> None:
    result = verified(store)
    assert result.body() == {
        "holds": True, "entries": EVENTS + 3, "forgotten": 0, "head": stopped_status(store)["chain"], "breaks": 0, "broken": [],
        "begun": result.begun}
    assert (result.begun["entries"], result.head.seq) == (0, EVENTS + 3)
    with journal(store) as opened:  # it goes on from where it stood
        opened.append(1, [item(100)]).result(10)
    assert verified(store).body()["entries"] == EVENTS + 4 and not found(store)


@pytest.mark.parametrize("values", [
    ("http", "k", '{"text":"é \\"x\\" \U0001f600"}', None, None, None, 1796041201.472544),
    ("a\"b\\", None, "{}", '{"label":"ä"}', "s\u2028", -0.0, 1.0), ("src", "7", "null", None, "", 1e22, 1e-7)])
def test_what_is_written_at_once_is_what_the_formula_says(values: tuple[str | float | None, ...]) -> None:
    source, key, payload, answer, subject, time, received = values
    row = (7, "7-ab", 1, source, key, b"d" * 16, b"\xff" * 16, payload, answer, subject, time, received)
    linked = chain.Chain()
    linked.add([(7, "7-ab", 1, columns(source, key, b"d" * 16, b"\xff" * 16, payload, answer, subject, time), received)], [])
    [(seq, salt, committed)] = linked._waiting
    assert (seq, committed) == (7, chain.commitment(salt, row, None))


def test_an_operation_that_fails_in_a_group_leaves_no_entry_and_no_gap(store: Paths) -> None:
    with journal(store) as opened:
        gate = opened._writer.submit(lambda c: c.exec_driver_sql("SELECT 1") and None)
        letters = [DeadLetter(raw=b"{}")]
        done = [opened.append(1, [item(200 + n)], cursor=("feed", object() if n == 1 else "1"), letters=letters)  # type: ignore[arg-type]
                for n in range(3)]
        gate.result(10)
        assert [one.exception(10) is None for one in done] == [True, False, True]
    assert verified(store).body()["entries"] == EVENTS + 5 and not found(store)


# -- the tail, and what was made whole again -------------------------------------------------------------------------


def cut(paths: Paths, seq: int) -> None:
    """Take everything behind a seq off the journal, and leave no trace in it."""
    execute(paths, f"DELETE FROM chain WHERE seq > {seq}", f"DELETE FROM label WHERE seq > {seq}",
            f"DELETE FROM event WHERE seq > {seq}")


def test_a_tail_cut_off_shows_against_a_head_that_was_noted(store: Paths) -> None:
    head = verified(store).head
    cut(store, 7)
    assert found(store) == []  # nothing in the store knows
    assert found(store, (head.entry, head.hash.hex())) == [(7, "truncated")]
    assert "it had 15 when it was noted" in verified(store, (head.entry, head.hash.hex())).broken[0].message


def test_versions_backups_and_the_last_status_note_the_head(store: Paths, tmp_path: Path) -> None:
    for number, note in enumerate((_version, _backup, _status), 1):
        shutil.copytree(store.state, tmp_path / str(number) / "s")
        paths = Paths(config=tmp_path / str(number) / "s/adaptd.toml", state=tmp_path / str(number) / "s")
        note(paths)
        assert found(paths) == []
        cut(paths, 7)
        assert found(paths) == [(7, "truncated")], note.__name__


def _version(paths: Paths) -> None:
    engine = db.writing_engine(paths.database)
    with engine.begin() as connection:
        first = registry.version(connection, 1)
        registry.add(connection, registry.Version(**{**first.__dict__, "number": 2}))
    engine.dispose()


def _backup(paths: Paths) -> None:
    done = offline.back_up(paths, paths.state.parent / "b.tar", "me", force=False)
    assert done["chain"] == {"head": stopped_status(paths)["chain"], "forgotten": 0, "broken": []}


def _status(paths: Paths) -> None:
    engine = db.writing_engine(paths.database)
    with engine.begin() as connection:
        connection.execute(insert(t.store).values(key="status", value=json.dumps(stopped_status(paths))))
    engine.dispose()


def test_a_chain_made_whole_again_shows_against_a_head_that_was_noted(store: Paths) -> None:
    _version(store)
    head = verified(store).head
    execute(store, "UPDATE event SET payload = '{}', digest = x'99914b932bd37a50b983c5e7c90ae93b' WHERE seq = 4")
    with closing(sqlite3.connect(store.database)) as opened:
        event, label = (opened.execute(f"SELECT {', '.join(names)} FROM {table} WHERE seq = 4").fetchone()
                        for table, names in (("event", EVENT), ("label", LABEL)))
        salt = opened.execute("SELECT salt FROM chain WHERE seq = 4").fetchone()[0]
        opened.execute("UPDATE chain SET commitment = ? WHERE seq = 4", (chain.commitment(salt, event, label),))
        at = chain.Head()
        for seq, committed in opened.execute("SELECT seq, commitment FROM chain ORDER BY seq").fetchall():
            at = at.after(seq, committed)
            opened.execute("UPDATE chain SET hash = ? WHERE seq = ?", (at.hash, seq))
        opened.commit()
    assert found(store) == [(15, "rewritten")] and "version 2 was made" in verified(store).broken[0].message
    execute(store, "UPDATE version SET chain = NULL")
    assert found(store) == []
    assert found(store, noted(f"{head.entry}:{head.hash.hex()}")) == [(15, "rewritten")]


# -- forget, backup --------------------------------------------------------------------------------------------------


def test_a_forget_destroys_salts_and_the_chain_still_holds(store: Paths) -> None:
    before = verified(store).head
    certificate = forget(store, subject="s0")
    assert certificate["entries"] == 3 and set(certificate["checks"]["tables"].values()) == {0}  # the event, two later labels
    assert forget(store, subject="s0")["entries"] == 0
    assert forget(store, subject="s3")["entries"] == 1
    result = verified(store)
    assert (result.breaks, result.forgotten, result.head) == (0, 4, before)
    with journal(store) as opened:
        opened.append(1, [item(300)]).result(10)
    assert found(store) == []
    execute(store, "DELETE FROM action WHERE what = 'forget'")
    assert found(store) == [(16, "uncertified")]


def test_a_forget_in_one_transaction_with_what_it_forgets_destroys_its_salts(store: Paths) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def erased(connection: Connection) -> Any:
        return erase.erase(connection, 1, Selector.of({"subject": "s400"}), "r", "me")

    def failing(connection: Connection) -> Any:
        erased(connection)
        raise ValueError

    with journal(store) as opened:
        opened._writer.submit(lambda c: entered.set() or go_on.wait(10))
        assert entered.wait(10)  # what comes now is one group
        opened.append(1, [item(400), item(401)])
        failed, done = opened.forget(failing), opened.forget(erased)
        opened.append(1, [item(402)])
        go_on.set()
        assert isinstance(failed.exception(10), ValueError) and len(done.result(10).events) == 1
    result = verified(store)
    assert (result.body()["entries"], result.forgotten, found(store)) == (EVENTS + 6, 1, [])
    with closing(sqlite3.connect(store.database)) as opened_file:
        assert opened_file.execute("SELECT count(*) FROM chain c JOIN event e ON e.seq = c.seq WHERE e.source = '' AND c.salt IS "
                                   "NOT NULL").fetchone() == (0,)


def test_nothing_but_the_commitment_is_left_of_a_salt(store: Paths) -> None:
    with closing(sqlite3.connect(store.database)) as opened:
        salt, committed = opened.execute("SELECT salt, commitment FROM chain WHERE seq = 1").fetchone()
    assert salt in store.database.read_bytes()
    forget(store, subject="s0")
    engine = db.writing_engine(store.database)
    with engine.connect() as connection:
        assert db.scrub(connection) is None
    engine.dispose()
    assert salt not in store.database.read_bytes() and committed in store.database.read_bytes()


def test_a_restored_backup_verifies_and_one_whose_journal_was_altered_says_so(store: Paths, tmp_path: Path) -> None:
    forget(store, subject="s5")
    done = offline.back_up(store, tmp_path / "b.tar", "me", force=False)
    assert (done["chain"]["forgotten"], done["chain"]["broken"]) == (1, [])
    assert backup.restore(tmp_path / "b.tar", tmp_path / "new")["chain"] == done["chain"]
    new = Paths(config=tmp_path / "new/adaptd.toml", state=tmp_path / "new")
    assert found(new, (done["chain"]["head"]["entry"], done["chain"]["head"]["hash"])) == []

    execute(store, "UPDATE label SET label = '\"z\"' WHERE seq = 14")  # what is left is still worth a backup
    done = offline.back_up(store, tmp_path / "c.tar", "me", force=False)
    assert [one["seq"] for one in done["chain"]["broken"]] == [14]
    assert backup.restore(tmp_path / "c.tar", tmp_path / "other")["chain"] == done["chain"]
