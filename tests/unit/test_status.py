"""A stopped store read with sqlite3 alone: counts as the journal has them, figures as the daemon left them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, update

from adaptd import db, offline, registry
from adaptd import tables as t
from adaptd.errors import CannotStart, CorruptFile, NotFound, NotRunning, SchemaMismatch, StoreLocked, UnknownDomain
from adaptd.history import last_seq
from adaptd.journal import Journal
from adaptd.paths import Paths
from adaptd.records import Feedback, Item
from adaptd.rows import HoldoutRule, alive, lineage
from adaptd.status import stopped_history, stopped_status
from tests.postgres import unlocked


@dataclass
class Store:
    """A store that a daemon would have left."""

    paths: Paths
    engine: Engine
    domain: int

    def append(self, labels: Sequence[str]) -> list[str]:
        """Journal one labelled event for each label; return the events' ids."""
        items = [Item(payload={"text": f"{label} {n}"}, source="crm", label=label, targets={"label": label})
                 for n, label in enumerate(labels)]
        with self.journal() as journal:
            receipts = journal.append(self.domain, items).result(10).receipts
        return [receipt.event or "" for receipt in receipts]

    def correct(self, event: str, label: str) -> None:
        with self.journal() as journal:
            journal.feedback(self.domain, [Feedback(event=event, label=label, targets={"label": label})]).result(10)

    def journal(self) -> OpenJournal:
        return OpenJournal(self.engine, self.domain)

    def evict(self, row: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(t.eviction).values(row=row, seq=last_seq(connection)))

    def leave(self, document: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(t.store).values(key="status", value=json.dumps(document)))

    def snapshot(self, files: dict[str, bytes] | None = None) -> int:
        """Name the live state as a version."""
        with self.engine.begin() as connection:
            live = registry.live(connection, self.domain)
            number = registry.next_number(connection)
            digests = registry.publish(self.paths.versions / str(number), files) if files else {}
            first = registry.version(connection, live.version)
            registry.add(connection, replace(first, number=number, kind="snapshot", files=digests, parent=first.number,
                                             seq=last_seq(connection)))
            registry.point(connection, self.domain, number, live.branch, "snapshot", "test", "")
        return number

    def alive(self) -> set[str]:
        """Return the targets that the journal says are alive."""
        with self.engine.connect() as connection:
            branch = registry.live(connection, self.domain).branch
            return {row.target for row in connection.execute(alive(self.domain, lineage(connection, branch)))}


class OpenJournal:
    """The journal with its writer, for the time of a with block."""

    def __init__(self, engine: Engine, domain: int) -> None:
        self._engine, self._domain = engine, domain

    def __enter__(self) -> Journal:
        self._writer = db.Writer(self._engine, 1000)
        journal = Journal(self._writer, lambda domain, label: {"label": label}, lambda learned: None)
        journal.births.holdout[self._domain] = HoldoutRule(share=0.15, after=20)
        with self._engine.connect() as connection:
            journal.open(connection)
            seq = last_seq(connection)
        self._writer.start(seq)
        return journal

    def __exit__(self, *_: object) -> None:
        self._writer.close()


@pytest.fixture
def store(tmp_path: Path, engine: Engine, where: Path | str) -> Iterator[Store]:
    with engine.begin() as connection:
        domain, _ = registry.create_domain(connection, "text", "encoder", "config")
    (tmp_path / "adaptd.toml").write_text("")
    if isinstance(where, str):  # no daemon has it
        engine.dispose()
        engine = unlocked(where)
    url = where if isinstance(where, str) else None
    yield Store(Paths(config=tmp_path / "adaptd.toml", state=tmp_path, given_url=url), engine, domain)


def test_a_fresh_store_has_one_version_and_counts_nothing(store: Store) -> None:
    document = stopped_status(store.paths)
    domain = document["domains"]["text"]
    assert {k: v for k, v in document.items() if k != "domains"} == {
        "state": "stopped", "pid": None, "uptime_s": 0, "seq": 0, "listening": [], "feeds": {}, "outputs": {}, "problems": [],
        "chain": {"entry": 0, "seq": 0, "hash": "00" * 32}}
    assert {k: v for k, v in domain.items() if k != "promoted_at"} == {
        "version": 1, "parent": None, "labels": 0, "events": 0, "labelled": 0, "memory": 0, "evicted": 0,
        "capacity": None, "forgetting": None,
        "drift": None, "accuracy": {"prequential": None, "holdout": None}, "adapting": None, "last_verdict": None,
        "next_adaptation": None, "next_consolidation": None, "weak": None,
        "calibration": None, "abstention": None,
        "learn_lag": 0, "held": [], "adaptation_held": False, "incumbent": None, "probation": None}
    assert isinstance(domain["promoted_at"], float)


def test_counts_are_those_of_the_journal(store: Store) -> None:
    first, *_ = store.append(["a", "b", "b", "c"])
    store.correct(first, "d")
    store.evict(2)
    domain = stopped_status(store.paths)["domains"]["text"]
    assert store.alive() == {"b", "c", "d"}
    assert (domain["labels"], domain["events"], domain["labelled"], domain["memory"]) == (3, 4, 4, 3)
    assert stopped_status(store.paths)["seq"] == 5


def test_figures_are_those_that_the_daemon_left(store: Store) -> None:
    problem = {"code": "low_disk", "message": "…", "since": 1.0, "hint": "…"}
    figures = {"version": 1, "events": 99, "accuracy": {"prequential": 0.9, "holdout": 0.8}, "forgetting": 0.01,
               "drift": None,
               "last_verdict": {"decision": "promote"}, "learn_lag": 3, "adapting": True}
    store.leave({"state": "running", "seq": 99, "domains": {"text": figures}, "problems": [problem]})
    document = stopped_status(store.paths)
    domain = document["domains"]["text"]
    assert (domain["accuracy"], domain["forgetting"], domain["last_verdict"]) == (
        figures["accuracy"], 0.01, {"decision": "promote"})
    assert (domain["events"], domain["adapting"], document["seq"], document["problems"]) == (0, None, 0, [problem])


def test_a_feed_shows_where_it_stands(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(insert(t.feed), [{"name": "a", "cursor": "[7]", "paused": 0},
                                            {"name": "b", "cursor": None, "paused": 1}])
    store.leave({"feeds": {"a": {"state": "running", "offset": "5", "lag": 2, "errors": 1}}})
    assert stopped_status(store.paths)["feeds"] == {"a": {"state": "stopped", "offset": [7], "lag": 2, "errors": 1},
                                                    "b": {"state": "paused", "offset": None, "lag": None, "errors": 0}}


def test_history_is_newest_first_and_bounded(store: Store) -> None:
    store.snapshot()
    actions = stopped_history(store.paths, "text", 10)["actions"]
    assert [(a["what"], a["domain"], a["before"], a["after"]) for a in actions] == [
        ("snapshot", "text", 1, 2), ("created", "text", None, 1)]
    assert len(stopped_history(store.paths, None, 1)["actions"]) == 1
    with pytest.raises(UnknownDomain, match="other"):
        stopped_history(store.paths, "other", 10)


def test_a_store_that_has_never_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="never run"):
        stopped_status(Paths(config=tmp_path / "adaptd.toml", state=tmp_path))


def test_another_schema_is_told(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "adaptd.db") as connection:
        connection.execute("CREATE TABLE something (x)")
    connection.close()
    with pytest.raises(SchemaMismatch) as caught:
        stopped_status(Paths(config=tmp_path / "adaptd.toml", state=tmp_path))
    assert "adaptd db upgrade" in caught.value.hint


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "adaptd.db").write_bytes(b"not a database, certainly not" * 100)
    with pytest.raises(CannotStart) as caught:
        stopped_status(Paths(config=tmp_path / "adaptd.toml", state=tmp_path))
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
def test_a_folder_that_cannot_be_written_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root permissions do not bind: SQLite's first refusal is played, the second opening is real."""
    store.append(["a"])
    store.engine.dispose()
    opened, real = [], sqlite3.connect

    def connect(database: str, **options: object) -> sqlite3.Connection:
        opened.append(database)
        if len(opened) == 1:
            return _Refusing(":memory:")
        return real(database, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert stopped_status(store.paths)["domains"]["text"]["events"] == 1
    assert opened[1].endswith("immutable=1")


class _Refusing(sqlite3.Connection):
    """What SQLite says where it cannot make the WAL's index."""

    def execute(self, *_: object) -> sqlite3.Cursor:  # type: ignore[override]
        raise sqlite3.OperationalError("unable to open database file")


def test_rollback_without_a_number_discards_what_was_learned_since(store: Store) -> None:
    store.append(["a"])
    number = store.snapshot({"label.adapter": b"w", "label.head": b"h"})
    store.append(["b", "c"])
    store.engine.dispose()
    facts = {"branch": 1, "version": number, "seq": 2, "folds": {"seen": 3}}  # a label follows: none of it is of the present
    registry.publish(store.paths.checkpoints / "text" / "2", {"label.head": b"old"}, facts)
    registry.publish(store.paths.checkpoints / "text" / "4", {"label.head": b"other"}, {**facts, "branch": 9})
    assert offline.rollback(store.paths, "text", None, "poison", "me") == {"version": number, "saved": number + 1}
    domain = stopped_status(store.paths)["domains"]["text"]
    assert (domain["version"], domain["labels"], domain["events"], store.alive()) == (number, 1, 3, {"a"})
    assert (domain["held"], domain["adaptation_held"]) == ([""], False)
    with store.engine.connect() as connection:
        saved = registry.version(connection, number + 1)
    assert (saved.kind, saved.parent, list(saved.files)) == ("saved", number, ["label.adapter"])
    assert registry.read(store.paths.versions / str(saved.number), saved.files) == {"label.adapter": b"w"}
    assert saved.metrics == {}
    newest = stopped_history(store.paths, "text", 1)["actions"][0]
    assert (newest["what"], newest["actor"], newest["reason"], newest["detail"]) == (
        "rollback", "me", "poison", {"saved": number + 1})


def test_a_rollback_can_be_rolled_back(store: Store) -> None:
    store.append(["a"])
    store.snapshot()
    store.append(["b"])
    store.engine.dispose()
    first = offline.rollback(store.paths, "text", 1, "", "me")
    assert store.alive() == set()
    store.engine.dispose()
    offline.rollback(store.paths, "text", first["saved"], "", "me")
    assert store.alive() == {"a", "b"}
    assert stopped_status(store.paths)["domains"]["text"]["memory"] == 2


def test_a_moment_comes_back_also_from_a_branch_that_was_discarded(store: Store) -> None:
    number = _discard(store)
    with store.engine.connect() as connection:
        between = connection.execute(select(t.event.c.received).order_by(t.event.c.seq)).scalars().all()[1]
    store.engine.dispose()
    done = offline.rollback(store.paths, "text", None, "poison", "me", between)
    assert store.alive() == {"a", "b"}
    with store.engine.connect() as connection:
        found = registry.version(connection, done["version"])
    moment = {"at": between, "base": number, "folded": found.seq - 1, "behind": 1}
    assert (found.kind, found.parent, found.metrics["moment"]) == ("moment", number, moment)
    assert not found.solved and (found.metrics["labels"], found.metrics["memory"]) == (2, 2)
    assert registry.read(store.paths.versions / str(found.number), found.files) == {"label.adapter": b"w", "label.head": b"h"}
    assert stopped_status(store.paths)["domains"]["text"]["held"] == [""]
    store.engine.dispose()
    offline.rollback(store.paths, "text", done["saved"], "", "me")
    assert store.alive() == {"a", "d"}


def test_a_clock_that_was_set_back_brings_nothing_of_another_branch_into_a_moment(store: Store) -> None:
    _discard(store)
    with store.engine.begin() as connection:
        times = connection.execute(select(t.event.c.received).order_by(t.event.c.seq)).scalars().all()
        connection.execute(update(t.event).where(t.event.c.received == times[3]).values(received=times[0]))
    store.engine.dispose()
    offline.rollback(store.paths, "text", None, "", "me", times[2])
    assert store.alive() == {"a", "b", "c"}


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)  # PostgreSQL has the files, too
def test_a_moment_does_without_a_damaged_head_but_not_without_its_adapter(store: Store) -> None:
    number = _discard(store)
    later = time.time()
    store.engine.dispose()
    (store.paths.versions / str(number) / "label.head").write_bytes(b"x")
    done = offline.rollback(store.paths, "text", None, "", "me", later)
    with store.engine.connect() as connection:
        found = registry.version(connection, done["version"])
    assert (list(found.files), found.metrics["moment"]["base"], store.alive()) == (["label.adapter"], 1, {"a", "d"})
    store.engine.dispose()
    (store.paths.versions / str(number) / "label.adapter").write_bytes(b"x")
    with pytest.raises(CorruptFile):
        offline.rollback(store.paths, "text", None, "", "me", later)


def _discard(store: Store) -> int:
    """Learn a, take a version, learn b and c, roll back to it, learn d; return its number."""
    store.append(["a"])
    number = store.snapshot({"label.adapter": b"w", "label.head": b"h"})
    store.append(["b"])
    store.append(["c"])
    store.engine.dispose()
    offline.rollback(store.paths, "text", number, "", "me")
    with store.journal() as journal:
        journal.late.resume(store.domain, "learning", "", "", "me")
    store.append(["d"])
    return number


def test_a_measure_of_another_version_is_not_shown(store: Store) -> None:
    store.append(["a"])
    figures = {"version": 9, "forgetting": 0.5, "accuracy": {"prequential": 0.9, "holdout": 0.8}, "probation": {"version": 9},
               "incumbent": {"compared": 7}}
    store.leave({"domains": {"text": figures}})
    domain = stopped_status(store.paths)["domains"]["text"]
    assert (domain["accuracy"], domain["forgetting"]) == ({"prequential": 0.9, "holdout": None}, None)
    assert (domain["probation"], domain["incumbent"]) == (None, {"compared": 7})


def test_rollback_refuses_what_is_not_there_or_not_sound_and_changes_nothing(store: Store) -> None:
    number = store.snapshot({"label.adapter": b"w"})
    store.append(["a"])
    store.engine.dispose()
    (store.paths.versions / str(number) / "label.adapter").write_bytes(b"x")
    before = stopped_status(store.paths)
    with pytest.raises(CorruptFile):
        offline.rollback(store.paths, "text", number, "", "me")
    with pytest.raises(NotFound):
        offline.rollback(store.paths, "text", 77, "", "me")
    with pytest.raises(UnknownDomain):
        offline.rollback(store.paths, "other", None, "", "me")
    assert stopped_status(store.paths) == before


def test_one_can_roll_back_away_from_a_damaged_version(store: Store) -> None:
    number = store.snapshot({"label.adapter": b"w"})
    store.engine.dispose()
    (store.paths.versions / str(number) / "label.adapter").write_bytes(b"x")
    assert offline.rollback(store.paths, "text", 1, "", "me")["version"] == 1


def test_rollback_needs_the_lock(store: Store) -> None:
    with db.locked(store.paths.lock), pytest.raises(StoreLocked, match="locked by pid"):
        offline.rollback(store.paths, "text", 1, "", "me")
