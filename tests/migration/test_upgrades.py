"""Real stores of every released schema (`stores/`, made by `make_store.py`) upgrade in place, or stay as they were.

A new revision, or a new store of a new release, needs no change here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from adaptd import backup, db
from adaptd.errors import CannotStart
from adaptd.paths import CONFIG, Paths
from tests.acceptance.daemon import Daemon, Json, lesson
from tests.migration.make_store import ASKED, STORES, TOLD, history, told

RELEASED = sorted(path.name.removesuffix(".tar.gz") for path in STORES.glob("*.tar.gz"))
CHANGES = ("ALTER", "CREATE", "DELETE", "DROP", "INSERT", "UPDATE")
KILLED = f"""
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from adaptd import db

engine = db.writing_engine(Path(sys.argv[1]))
left = int(sys.argv[2])

@event.listens_for(engine, "after_cursor_execute")
def count(connection, cursor, statement, *rest):
    global left
    left -= statement.lstrip().startswith({CHANGES!r})
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

db.upgrade(engine)
"""


def released(schema: str, folder: Path) -> Path:
    """Put the store of a released schema into a new folder; return its database."""
    backup.restore(STORES / f"{schema}.tar.gz", folder)
    return Paths(config=folder / CONFIG, state=folder).database


def contents(database: Path) -> list[str]:
    """Return schema and rows of a database."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        return list(store.iterdump())


def revision(database: Path) -> Any:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        return store.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def upgrade(database: Path, **hooks: Any) -> list[str]:
    """Upgrade a store in this process; return the statements that changed something. `hooks` listen to its engine."""
    engine = db.writing_engine(database)
    done: list[str] = []

    @event.listens_for(engine, "after_cursor_execute")
    def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip().startswith(CHANGES):
            done.append(statement)
            if hooks.get("fail_at") == len(done):
                raise RuntimeError("injected")

    if "pages" in hooks:
        event.listen(engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {hooks['pages']}"))
    try:
        db.upgrade(engine)
    finally:
        engine.dispose()
    return done


@pytest.fixture(scope="module", params=RELEASED)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the database of a released schema that nobody changes."""
    return released(request.param, tmp_path_factory.mktemp("released") / "store")


@pytest.fixture
def old(kept: Path, tmp_path: Path) -> Path:
    """Return a copy of it for one test."""
    shutil.copytree(kept.parent, tmp_path / "store")
    return tmp_path / "store" / kept.name


@pytest.fixture(scope="module")
def places(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Return where an upgrade is to fail: behind the first, a middle and the last statement of every revision."""
    copy = tmp_path_factory.mktemp("counted") / kept.name
    shutil.copy(kept, copy)
    found, first = set[int](), 1
    for number, statement in enumerate(upgrade(copy), 1):
        if "alembic_version" in statement:
            found |= {first, (first + number) // 2, number}
            first = number + 1
    return sorted(found)


# -- it becomes what this adaptd wants, and is what it was ------------------------------------------------------------


@pytest.fixture(params=[(schema, how) for schema in RELEASED for how in ("by command", "by start")], ids=" ".join)
def upgraded(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, Json]]:
    """Return a daemon on an upgraded store, and what it answered under its own schema."""
    schema, how = request.param
    folder = Path(tempfile.mkdtemp(prefix="adaptd-"))
    released(schema, folder)
    with Daemon(folder=folder) as daemon:
        if how == "by command":
            done = json.loads(daemon.cli("db", "upgrade", "--json"))
            assert done == {"before": schema, "after": db.head_revision()}
            assert json.loads(daemon.cli("verify", "--json"))["holds"]
        yield daemon.start(), json.loads((STORES / f"{schema}.json").read_text())


def like(found: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """Return what a later adaptd says under the names that there were."""
    return {name: found[name] for name in wanted}


def same(daemon: Daemon, wanted: Json, names: Sequence[str] = TOLD) -> None:
    """Assert that a store says the same of itself, and answers as it did."""
    assert like(told(daemon), names) == like(wanted["status"], names)
    for (label, scores), (was, were) in zip(daemon.scores(ASKED), wanted["answers"], strict=True):
        assert label == was and scores == pytest.approx(were, abs=0.02)  # a later adaptd may calibrate otherwise


@pytest.mark.acceptance
@pytest.mark.slow
def test_an_upgraded_store_answers_and_goes_back_as_it_did(upgraded: tuple[Daemon, Json]) -> None:
    daemon, wanted = upgraded
    same(daemon, wanted["live"])
    assert [like(found, was) for found, was in zip(history(daemon), wanted["history"], strict=True)] == wanted["history"]
    daemon.teach(lesson(["travel"], 5, prefix="new"))
    for version, then in wanted["versions"].items():
        daemon.post("text/rollback", {"to": int(version)})
        same(daemon, then, ("version", "labels", "memory"))
    assert json.loads(daemon.cli("db", "current", "--json"))["current"] == db.head_revision()
    assert json.loads(daemon.cli("verify", "--json"))["holds"]
    assert daemon.problems() == {}


def test_there_is_a_store_of_the_first_schema_and_all_are_small() -> None:
    assert "0001" in RELEASED
    assert all(path.stat().st_size < 300 << 10 for path in STORES.iterdir())


# -- or it stays as it was -------------------------------------------------------------------------------------------


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(kept: Path, places: Sequence[int], tmp_path: Path) -> None:
    before = contents(kept)
    for place in places:
        shutil.copy(kept, copy := tmp_path / "adaptd.db")
        with pytest.raises(RuntimeError, match="injected"):
            upgrade(copy, fail_at=place)
        assert contents(copy) == before, f"failed behind statement {place}"
        upgrade(copy)
        assert revision(copy) == db.head_revision()


@pytest.mark.slow
def test_an_upgrade_that_is_killed_leaves_the_store_as_it_was(kept: Path, places: Sequence[int], tmp_path: Path) -> None:
    before = contents(kept)
    for place in places:
        for file in tmp_path.iterdir():
            file.unlink()
        shutil.copy(kept, copy := tmp_path / "adaptd.db")
        done = subprocess.run([sys.executable, "-c", KILLED, str(copy), str(place)], capture_output=True, text=True, timeout=240)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert contents(copy) == before, f"killed behind statement {place}"
        upgrade(copy)
        assert revision(copy) == db.head_revision()


def test_a_full_disk_is_told_and_leaves_the_store_as_it_was(old: Path) -> None:
    before = contents(old)
    with pytest.raises(CannotStart, match="disk is full") as told:
        upgrade(old, pages=old.stat().st_size // 4096)
    assert "as it was" in told.value.hint and contents(old) == before
    upgrade(old)
    assert revision(old) == db.head_revision()


@pytest.mark.acceptance
@pytest.mark.parametrize("command", ["db upgrade", "run", "rollback", "forget --event e --reason r --yes", "verify"])
def test_a_newer_store_is_refused_by_name_and_left_alone(old: Path, command: str) -> None:
    with closing(sqlite3.connect(old)) as store:
        store.execute("UPDATE alembic_version SET version_num = '9999_later'")
        store.commit()
    before = contents(old)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADAPTD_")}
    done = subprocess.run([sys.executable, "-m", "adaptd", *command.split(), "--config", str(old.parent)], capture_output=True,
                          text=True, timeout=240, env=clean)
    assert done.returncode == 3, done.stderr
    assert "'9999_later'" in done.stderr and "hint: " in done.stderr and "adaptd that wrote it" in done.stderr
    assert contents(old) == before


def test_dead_letters_of_older_stores_are_kept_and_their_ids_are_not_given_again(tmp_path: Path) -> None:
    database = released("0001", tmp_path / "store")
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("DELETE FROM dead")
        store.execute("INSERT INTO dead (id, feed, at, reason, raw) VALUES (7, 'f', 1.0, 'why', x'5b')")
    upgrade(database)
    with closing(sqlite3.connect(database)) as store, store:
        assert store.execute("SELECT * FROM dead").fetchall() == [(7, "f", 1.0, "why", b"[", None, None)]
        store.execute("DELETE FROM dead")
        store.execute("INSERT INTO dead (feed, at, reason, raw) VALUES ('f', 1.0, 'why', x'5b')")
        assert store.execute("SELECT id FROM dead").fetchall() == [(8,)]
