"""Verify: what is journalled verifies, whatever happened to it; what is changed behind adaptd's back is named by its seq."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from adaptd import backup, chain, db, doctor, erase, offline, registry
from adaptd import tables as t
from adaptd.chain import EVENT, LABEL
from adaptd.errors import BadPayload, SchemaMismatch
from adaptd.history import last_seq
from adaptd.journal import HoldoutRule, Journal
from adaptd.paths import Paths
from adaptd.records import Feedback, Item
from adaptd.selector import Selector
from adaptd.status import open_store, stopped_status
from adaptd.verify import Result, noted, verify

Json = dict[str, Any]
EVENTS = 12  # with their labels; then come a later label, a correction, an event without a label


@contextmanager
def journal(paths: Paths, group: int = 0) -> Iterator[Journal]:
    """Open a store's journal with its writer, as the daemon does."""
    engine = db.writing_engine(paths.database)
    writer = db.Writer(engine, 1000)
    opened = Journal(writer, lambda domain, label: {"label": label}, lambda learned: None)
    opened.holdout[1] = HoldoutRule(share=0.15, after=20)
    with engine.connect() as connection:
        opened.open(connection)
        seq = last_seq(connection)
    writer.start(seq)
    try:
        yield opened
    finally:
        writer.close()
        engine.dispose()


def item(number: int, **fields: Any) -> Item:
    return Item(payload={"text": f"text {number}"}, source="crm", key=f"k{number}", content=b"c" * 16, subject=f"s{number}",
                label="a", targets={"label": "a"}, time=-0.0, answer={"was": number}, **fields)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Return a store that a journal has written, and nobody changes."""
    folder = tmp_path_factory.mktemp("made")
    paths = Paths(config=folder / "adaptd.toml", state=folder)
    paths.config.write_text("[domains.text]\n")
    engine = db.writing_engine(paths.database)
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


@pytest.fixture
def store(made: Paths, tmp_path: Path) -> Paths:
    """Return a copy of it for one test."""
    shutil.copytree(made.state, tmp_path / "store")
    return Paths(config=tmp_path / "store/adaptd.toml", state=tmp_path / "store")


def verified(paths: Paths, head: tuple[int, str] | None = None) -> Result:
    with closing(open_store(paths.database)) as opened:
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


def forget(paths: Paths, **asked: Any) -> Json:
    """Forget in the tables, as a daemon or a command does."""
    engine = db.writing_engine(paths.database)
    with engine.begin() as connection:
        erased = erase.erase(connection, 1, Selector.of(asked), "r", "me")
        certificate = erase.certify(connection, [erased.action], {"tables": erase.left(connection, 1)})
    engine.dispose()
    return certificate


def test_what_a_journal_wrote_verifies_entry_by_entry(store: Paths) -> None:
    result = verified(store)
    assert result.body() == {
        "holds": True, "entries": EVENTS + 3, "forgotten": 0, "head": stopped_status(store)["chain"], "breaks": 0, "broken": [],
        "begun": result.begun}
    assert (result.begun["entries"], result.head.seq) == (0, EVENTS + 3)
    with journal(store) as opened:  # it goes on from where it stood
        opened.append(1, [item(100)]).result(10)
    assert verified(store).body()["entries"] == EVENTS + 4 and not found(store)


def test_an_operation_that_fails_in_a_group_leaves_no_entry_and_no_gap(store: Paths) -> None:
    with journal(store) as opened:
        gate = opened._writer.submit(lambda c: c.exec_driver_sql("SELECT 1") and None)
        done = [opened.append(1, [item(200 + n)], cursor=("feed", object() if n == 1 else "1")) for n in range(3)]  # type: ignore[arg-type]
        gate.result(10)
        assert [one.exception(10) is None for one in done] == [True, False, True]
    assert verified(store).body()["entries"] == EVENTS + 5 and not found(store)


# -- what is changed is named ----------------------------------------------------------------------------------------

TEXTS = ("id", "source", "key", "payload", "answer", "subject", "label")


@pytest.mark.parametrize(("table", "column"), [("event", c) for c in EVENT] + [("label", c) for c in LABEL])
def test_every_field_that_is_altered_is_found(store: Paths, table: str, column: str) -> None:
    value = "x'00'" if column in ("digest", "content") else f"{column} || 'x'" if column in TEXTS else f"{column} + 50"
    if (table, column) == ("label", "source"):
        value = "'another'"
    execute(store, f"UPDATE {table} SET {column} = {value} WHERE seq = 5")
    if column == "seq":  # the event has gone, the label that came with it is there: it is found where it was, and where it is
        assert found(store) == [(5, "altered"), (55, "stray")]
        return
    assert found(store) == [(5, "altered")]
    assert ("payload" in verified(store).broken[0].message) == (column in ("payload", "digest"))


@pytest.mark.parametrize(("how", "wanted"), {
    "a byte of a payload flipped": (["UPDATE event SET payload = replace(payload, 'text 3', 'tezt 3') WHERE seq = 4"],
                                    [(4, "altered")]),
    "a payload that is no UTF-8": (["UPDATE event SET payload = CAST(x'ff' || substr(payload, 2) AS TEXT) WHERE seq = 4"],
                                   [(4, "altered")]),
    "a later label": (["UPDATE label SET label = '\"z\"' WHERE seq = 14"], [(14, "altered")]),
    "two of them": (["UPDATE label SET label = '\"z\"' WHERE seq IN (2, 14)"], [(2, "altered"), (14, "altered")]),
    "a moment not given": (["UPDATE event SET time = NULL WHERE seq = 4"], [(4, "altered")]),
    "an event's rows deleted": (["DELETE FROM event WHERE seq = 4", "DELETE FROM label WHERE seq = 4"], [(4, "missing")]),
    "a label deleted": (["DELETE FROM label WHERE seq = 13"], [(13, "missing")]),
    "the label that came with it deleted": (["DELETE FROM label WHERE seq = 4"], [(4, "altered")]),
    "an entry deleted in the chain": (["DELETE FROM chain WHERE seq = 4"], [(5, "missing"), (4, "stray")]),
    "all of an entry deleted": (["DELETE FROM event WHERE seq = 4", "DELETE FROM label WHERE seq = 4",
                                 "DELETE FROM chain WHERE seq = 4"], [(5, "missing")]),
    "the first entries deleted": (["DELETE FROM event WHERE seq < 4", "DELETE FROM label WHERE seq < 4",
                                   "DELETE FROM chain WHERE seq < 4"], [(4, "missing")]),
    "entries renumbered": (["DELETE FROM event WHERE seq = 4", "DELETE FROM label WHERE seq = 4",
                            "DELETE FROM chain WHERE seq = 4", "UPDATE chain SET entry = entry - 1 WHERE seq > 4"],
                           [(seq, "unlinked") for seq in range(5, EVENTS + 4)]),
    "a row put in": (["INSERT INTO event SELECT 99, 'e99', domain, source, 'k99', digest, content, payload, answer, subject, time,"
                      " received FROM event WHERE seq = 4"], [(99, "stray")]),
    "a row put in at the front": (["INSERT INTO label SELECT -3, event, label, source, received, held FROM label WHERE seq = 4"],
                                  [(-3, "stray")]),
    "two payloads exchanged": (["UPDATE event SET payload = CASE seq WHEN 4 THEN (SELECT payload FROM event WHERE seq = 7) ELSE"
                                " (SELECT payload FROM event WHERE seq = 4) END WHERE seq IN (4, 7)"],
                               [(4, "altered"), (7, "altered")]),
    "two entries exchanged": (["UPDATE event SET seq = -seq WHERE seq IN (4, 5)", "UPDATE event SET seq = 9 + seq WHERE seq < 0",
                               "UPDATE label SET seq = -seq, event = -event WHERE seq IN (4, 5)",
                               "UPDATE label SET seq = 9 + seq, event = 9 + event WHERE seq < 0",
                               "UPDATE chain SET seq = -seq WHERE seq IN (4, 5)", "UPDATE chain SET seq = 9 + seq WHERE seq < 0"],
                              [(4, "missing"), (4, "altered"), (5, "unlinked"), (5, "altered"), (6, "missing")]),
    "a commitment": (["UPDATE chain SET commitment = randomblob(32) WHERE seq = 4"], [(4, "unlinked"), (4, "altered")]),
    "a hash": (["UPDATE chain SET hash = randomblob(32) WHERE seq = 4"], [(4, "unlinked"), (5, "unlinked")]),
    "numbers beyond 64 bits next to each other": (["UPDATE chain SET entry = 9223372036854775807 WHERE seq = 15"],
                                                  [(15, "missing")]),
    "a salt": (["UPDATE chain SET salt = randomblob(16) WHERE seq = 4"], [(4, "altered")]),
    "a salt taken from what is there": (["UPDATE chain SET salt = NULL WHERE seq = 4"], [(4, "unsalted"), (15, "uncertified")]),
    "an event emptied without a forget": (
        ["UPDATE event SET payload = 'null', source = '', content = x'', digest = x'' WHERE seq = 4",
         "DELETE FROM label WHERE seq = 4", "UPDATE chain SET salt = NULL WHERE seq = 4"], [(15, "uncertified")]),
}.values())
def test_what_is_changed_is_named(store: Paths, how: list[str], wanted: list[tuple[int, str]]) -> None:
    execute(store, *how)
    assert found(store) == wanted
    assert all(one.message for one in verified(store).broken)


def test_a_thousand_breaks_are_counted_and_the_first_are_named(store: Paths) -> None:
    with journal(store) as opened:
        opened.append(1, [item(1000 + number) for number in range(2100)]).result(60)  # more than are read at once
    assert verified(store).body()["entries"] == EVENTS + 3 + 2100 and not found(store)
    execute(store, "UPDATE event SET received = 1.5 WHERE seq > 100", "DELETE FROM chain WHERE seq = 1001")
    result = verified(store)
    assert result.breaks == 2115 - 100 + 1 and len(result.broken) == 20 and result.broken[0].seq == 101


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


@pytest.mark.parametrize("text", ["", "3", "3:ab", "x:" + "ab" * 32, "3:" + "zz" * 32, "-3:" + "ab" * 32])
def test_what_is_no_head_is_refused_with_words(text: str) -> None:
    with pytest.raises(BadPayload) as told:
        noted(text)
    assert "ENTRY:HASH" in told.value.hint


# -- forget, backup, doctor ------------------------------------------------------------------------------------------


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


def test_a_doctor_tells(store: Paths) -> None:
    assert [one.code for one in doctor.examine(store, str(store.config), running=False)] == []
    execute(store, "UPDATE label SET label = '\"z\"' WHERE seq = 14")
    told = doctor.examine(store, str(store.config), running=False)
    assert [one.code for one in told] == ["journal_altered"] and "seq 14" in told[0].message and "verify" in told[0].hint


# -- the command, and its cost ---------------------------------------------------------------------------------------


def command(paths: Paths, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "adaptd", "verify", *words, "--config", str(paths.config)],
                          capture_output=True, text=True, timeout=60)


def test_the_command_s_exit_code_says_whether_it_holds(store: Paths) -> None:
    done = command(store)
    head = done.stdout.split()[-1]
    assert done.returncode == 0 and "15 entries, 0 of them forgotten" in done.stdout and noted(head)[0] == 15
    assert command(store, "--head", head).returncode == 0
    assert command(store, "--head", "15:" + "ab" * 32).returncode == 1
    assert command(store, "--head", "15").returncode == 2
    execute(store, "UPDATE label SET label = '\"z\"' WHERE seq = 14")
    done = command(store)
    assert done.returncode == 1 and "altered" in done.stdout and "first at seq 14" in done.stderr
    done = command(store, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["holds"], document["broken"][0]["seq"], document["breaks"]) == (1, False, 14, 1)


def test_a_store_that_never_ran_and_one_without_a_chain_are_told(tmp_path: Path, store: Paths) -> None:
    (tmp_path / "adaptd.toml").write_text("")
    assert command(Paths(config=tmp_path / "adaptd.toml", state=tmp_path)).returncode == 3
    execute(store, "UPDATE alembic_version SET version_num = '0001'")
    with closing(sqlite3.connect(store.database)) as opened:
        opened.execute("DROP TABLE chain")
    done = command(store)
    assert done.returncode == SchemaMismatch.exit_code and "adaptd db upgrade" in done.stderr


def test_memory_does_not_grow_with_the_journal(store: Paths) -> None:
    def peak() -> int:
        tracemalloc.start()
        try:
            assert not verified(store).breaks
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak()
    with journal(store) as opened:
        for start in range(0, 10_000, 1000):
            opened.append(1, [item(10_000 + start + n) for n in range(1000)]).result(60)
    assert peak() < few + (1 << 20)


