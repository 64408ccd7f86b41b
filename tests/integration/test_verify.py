"""Verify: what is changed behind adaptd's back is named by its seq; the command says so with its exit code."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from adaptd.chain import EVENT, LABEL
from adaptd.errors import BadPayload, SchemaMismatch
from adaptd.paths import Paths
from adaptd.verify import noted
from tests.integration.journalled import EVENTS, execute, found, item, journal, verified


@pytest.fixture
def store(journalled: Paths) -> Paths:
    return journalled


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
    "an entry deleted in the chain": (["DELETE FROM chain WHERE seq = 4"], [(4, "stray"), (5, "missing")]),
    "all of an entry deleted": (["DELETE FROM event WHERE seq = 4", "DELETE FROM label WHERE seq = 4",
                                 "DELETE FROM chain WHERE seq = 4"], [(5, "missing")]),
    "the first entries deleted": (["DELETE FROM event WHERE seq < 4", "DELETE FROM label WHERE seq < 4",
                                   "DELETE FROM chain WHERE seq < 4"], [(4, "missing")]),
    "entries renumbered": (["DELETE FROM event WHERE seq = 4", "DELETE FROM label WHERE seq = 4",
                            "DELETE FROM chain WHERE seq = 4", "UPDATE chain SET entry = entry - 1 WHERE seq > 4"],
                           [(seq, "unlinked") for seq in range(5, EVENTS + 4)]),
    "a row put in": (["INSERT INTO event SELECT 99, 'e99', domain, source, 'k99', digest, content, payload, answer, subject,"
                      " time, received FROM event WHERE seq = 4"], [(99, "stray")]),
    "a row put in at the front": (["INSERT INTO label SELECT -3, event, label, source, received, held FROM label WHERE seq = 4"],
                                  [(-3, "stray")]),
    "two payloads exchanged": (["UPDATE event SET payload = CASE seq WHEN 4 THEN '{\"text\":\"text 6\"}' ELSE"
                                " '{\"text\":\"text 3\"}' END WHERE seq IN (4, 7)"], [(4, "altered"), (7, "altered")]),
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


@pytest.mark.parametrize("text", ["", "3", "3:ab", "x:" + "ab" * 32, "3:" + "zz" * 32, "-3:" + "ab" * 32])
def test_what_is_no_head_is_refused_with_words(text: str) -> None:
    with pytest.raises(BadPayload) as told:
        noted(text)
    assert "ENTRY:HASH" in told.value.hint


# -- the command, and its cost ---------------------------------------------------------------------------------------


def command(paths: Paths, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "adaptd", "verify", *words, "--config", str(paths.config)],
                          capture_output=True, text=True, timeout=240)


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


