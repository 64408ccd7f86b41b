"""PostgreSQL as the store: who may write, a copy there and back, a backup, what a forget leaves, and what a folder mirrors."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select

from adaptd import backup, db, doctor, mirror, offline, registry, storecopy
from adaptd import tables as t
from adaptd.errors import CannotStart, Conflict, StoreFailed, StoreLocked, StoreUnreadable
from adaptd.paths import CONFIG, Paths
from adaptd.status import open_store, stopped_history, stopped_status
from tests.acceptance.daemon import until
from tests.integration.journalled import EVENTS, forget, journal, verified
from tests.postgres import SERVER, database, files, unlocked

pytestmark = pytest.mark.service


@pytest.fixture
def url() -> Iterator[str]:
    with database() as made:
        yield made


@pytest.fixture
def copied(store: Paths, url: str) -> Paths:
    """Return a store that was copied to PostgreSQL."""
    offline.copy(store, url, lambda rows: None)
    return replace(store, given_url=url)


def rows(where: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, but of the files and of who wrote last."""
    with closing(open_store(where)) as opened:
        names = [table.name for table in t.metadata.sorted_tables if table is not t.file]
        found = {name: [tuple(row) for row in opened.execute(f'SELECT * FROM "{name}"')] for name in names}
    return {name: sorted((row for row in those if row[0] != mirror.EPOCH), key=repr) for name, those in found.items()}


# -- who may write --------------------------------------------------------------------------------------------------


def test_only_one_session_writes_and_the_next_one_when_it_has_gone(url: str) -> None:
    first, second = db.writing_engine(url), db.writing_engine(url)
    db.check(first)
    with pytest.raises(StoreLocked, match=r"held by adaptd .+:\d+ "):
        db.check(second)
    first.dispose()
    db.check(second)
    second.dispose()


def test_a_session_that_was_ended_is_not_replaced(url: str) -> None:
    engine = db.writing_engine(url)
    db.upgrade(engine)
    _end_writer(url)
    for _ in range(2):  # the first finds it gone, the second asks for another
        with pytest.raises((StoreUnreadable, db.SQLAlchemyError)), engine.begin() as connection:
            connection.execute(insert(t.store).values(key="k", value="v"))
    engine.dispose()
    with db.reading_engine(url).connect() as connection:
        assert connection.execute(select(t.store).where(t.store.c.key == "k")).all() == []


def test_a_writer_whose_session_was_ended_amid_a_transaction_acknowledges_nothing_more(url: str) -> None:
    engine, failed = db.writing_engine(url), list[BaseException]()
    db.upgrade(engine)
    writer = db.Writer(engine, 100)
    writer.on_failure = failed.append
    writer.start(0)
    writer.submit(lambda connection: connection.execute(insert(t.store).values(key="before", value=""))).result(10)
    amid, ended = threading.Event(), threading.Event()

    def slow(connection: Any) -> None:
        connection.execute(insert(t.store).values(key="amid", value=""))
        amid.set()
        assert ended.wait(10)

    done = writer.submit(slow)
    assert amid.wait(10)
    _end_writer(url)
    ended.set()
    with pytest.raises(StoreFailed):
        done.result(10)
    with pytest.raises(StoreFailed):
        writer.submit(lambda connection: None)
    assert len(failed) == 1
    with closing(open_store(url)) as opened:
        assert {row[0] for row in opened.execute("SELECT key FROM store")} >= {"before"}
        assert opened.execute("SELECT 1 FROM store WHERE key = 'amid'").fetchone() is None
    other = db.writing_engine(url)
    db.check(other)
    other.dispose()


def test_an_idle_writer_hears_that_its_session_was_ended(url: str) -> None:
    engine, failed = db.writing_engine(url), list[BaseException]()
    writer = db.Writer(engine, 100)
    writer.on_failure = failed.append
    writer.start(0)
    writer.submit(lambda connection: None).result(10)
    _end_writer(url)
    until(lambda: failed, "it is told")
    assert "another daemon has taken the store over" in str(failed[0])


def test_readers_find_the_database_again_when_it_was_away(copied: Paths) -> None:
    reader = db.reading_engine(copied.store)
    with reader.connect() as connection:
        before = connection.execute(select(t.event.c.seq)).all()
    with psycopg.connect(str(copied.store), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                      " AND pid <> pg_backend_pid()")
    with reader.connect() as connection:
        assert connection.execute(select(t.event.c.seq)).all() == before
    reader.dispose()


def _end_writer(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        assert other.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
                             " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").fetchall()


def test_a_database_that_cannot_be_reached_is_told_with_its_cure(tmp_path: Path) -> None:
    engine = db.writing_engine("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnreadable, match="PostgreSQL") as told:
        db.check(engine)
    assert "[store] url" in told.value.hint


# -- there and back ---------------------------------------------------------------------------------------------------


def test_a_copy_and_its_copy_back_have_every_row_and_file(copied: Paths, url: str, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        offline.copy(replace(copied, given_url=None), url, lambda rows: None)
    back = tmp_path / "back" / "adaptd.db"
    seen: list[int] = []
    done = offline.copy(copied, f"sqlite:///{back}", seen.append)
    assert rows(copied.database) == rows(url) == rows(back)
    assert sum(seen) == sum(done["rows"].values()) and done["holds"] and done["files"] == 4
    for number, name in ((2, "label.head"), (3, "label.adapter")):
        file = f"versions/{number}/{name}"
        assert (back.parent / file).read_bytes() == (copied.state / file).read_bytes()
    assert verified(copied).body() == verified(replace(copied, state=back.parent, given_url=None)).body()


def test_after_a_copy_ids_go_on(copied: Paths, url: str) -> None:
    before = rows(url)
    with unlocked(url).begin() as connection:
        action = insert(t.action).values(at=1.0, seq=1, what="w", actor="a", reason="", detail="{}")
        assert registry.inserted(connection, action) == 1 + max(row[0] for row in before["action"])


def test_a_target_that_is_not_empty_or_no_database_is_refused(store: Paths, copied: Paths, url: str) -> None:
    with pytest.raises(Conflict):
        offline.copy(store, url, lambda rows: None)
    with pytest.raises(Exception, match="no database's URL"):
        offline.copy(store, "mysql://x", lambda rows: None)


def test_a_copy_that_fails_leaves_nothing(store: Paths, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: Path | str, target: Path | str) -> dict[str, Any]:
        raise StoreFailed("injected")

    with monkeypatch.context() as patch:
        patch.setattr(storecopy, "_compare", fails)
        with pytest.raises(StoreFailed, match="injected"):
            offline.copy(store, url, lambda rows: None)
    assert offline.copy(store, url, lambda rows: None)["holds"]


def test_a_backup_of_it_restores_to_sqlite(copied: Paths, url: str, tmp_path: Path) -> None:
    with copied.config.open("a") as file:
        file.write(f'[store]\nurl = "{url}"\n')
    done = offline.back_up(copied, tmp_path / "b.tar", "me", force=False)
    assert (done["counts"]["events"], done["unsound"], done["chain"]["broken"]) == (400, [], [])
    backup.restore(tmp_path / "b.tar", tmp_path / "restored")
    text = (tmp_path / "restored" / CONFIG).read_text()
    assert "# before the restore: url" in text
    there = rows(tmp_path / "restored" / "adaptd.db")
    wanted = rows(url)
    assert there.pop("action") == wanted.pop("action")[:-1] or there  # its own line came after it
    assert there == wanted
    assert (tmp_path / "restored/versions/3/label.head").exists()


def test_status_history_and_doctor_read_it(copied: Paths) -> None:
    with_file = replace(copied, given_url=None)
    assert stopped_status(copied) == stopped_status(with_file)
    assert stopped_history(copied, "text", 5) == stopped_history(with_file, "text", 5)
    assert [one.code for one in doctor.examine(copied, str(copied.config), running=False)] == []


# -- what a forget leaves ----------------------------------------------------------------------------------------------


def test_what_is_forgotten_is_in_no_byte_of_the_tables_files(journalled: Paths, url: str) -> None:
    offline.copy(journalled, url, lambda rows: None)
    paths = replace(journalled, given_url=url)
    with psycopg.connect(url, autocommit=True) as server:
        salt, committed = server.execute("SELECT salt, commitment FROM chain WHERE seq = 1").fetchone() or (b"", b"")
        assert _on_disk(url, salt) and _on_disk(url, b"text 0")
        done = offline.forget(paths, "text", _subject("s0"), "asked", "me")
        assert "WAL" in done["checks"]["disk"] and not any(done["checks"]["tables"].values())
        assert not _on_disk(url, salt) and not _on_disk(url, b"text 0") and _on_disk(url, committed)
    assert not verified(paths).breaks


def _on_disk(url: str, needle: bytes) -> bool:
    return any(needle in data for data in files(url).values())


def test_a_reader_keeps_a_forget_from_being_certified_as_done(copied: Paths, url: str) -> None:
    with psycopg.connect(url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT count(*) FROM event")
        done = offline.forget(copied, "text", _subject("nobody"), "", "me")
        engine = db.writing_engine(url)
        with engine.connect() as connection:
            assert "reader" in (db.scrub(connection) or "")
        reader.rollback()
        with engine.connect() as connection:
            assert db.scrub(connection) is None
        engine.dispose()
    assert done["removed"]["event"] == 0


def test_what_is_written_in_another_database_of_the_server_keeps_a_forget_from_being_certified_as_done(url: str) -> None:
    engine = db.writing_engine(url)
    db.upgrade(engine)
    with psycopg.connect(SERVER) as elsewhere:
        elsewhere.execute("SELECT txid_current()")  # every new snapshot on the server begins here
        with engine.begin() as connection:
            connection.execute(insert(t.store).values(key="k", value="v"))
        with engine.connect() as connection:
            assert "elsewhere" in (db.scrub(connection) or "")
        elsewhere.rollback()
    with engine.connect() as connection:
        assert db.scrub(connection) is None
    engine.dispose()


def _subject(name: str) -> Any:
    from adaptd.selector import Selector

    return Selector.of({"subject": name})


# -- what a folder mirrors ---------------------------------------------------------------------------------------------


def test_another_folder_gets_the_versions_files_and_loses_those_that_go(copied: Paths, tmp_path: Path) -> None:
    other = Paths(config=copied.config, state=tmp_path / "other", given_url=copied.given_url)
    known: mirror.Known = set()
    with db.reading_engine(copied.store).connect() as connection:
        mirror.fetch(connection, other, known)
    assert (other.versions / "2/label.head").read_bytes() == (copied.versions / "2/label.head").read_bytes()
    assert len(known) == 4
    engine = db.writing_engine(copied.store)
    mirror.attach(engine, copied)
    with engine.begin() as connection:
        connection.execute(t.version.update().where(t.version.c.number == 2).values(files="{}"))
    engine.dispose()
    with unlocked(str(copied.store)).connect() as connection:
        assert connection.execute(select(t.file.c.digest)).all() != [] and len(connection.execute(select(t.file)).all()) == 2
        mirror.fetch(connection, other, known)
    assert not (other.versions / "2").exists() and (other.versions / "3/label.adapter").exists() and len(known) == 2


def test_a_version_commits_with_its_files(copied: Paths) -> None:
    engine = db.writing_engine(copied.store)
    mirror.attach(engine, copied)
    with engine.begin() as connection:
        old = registry.version(connection, 3)
        files = registry.publish(copied.versions / "4", {"label.adapter": b"new"})
        registry.add(connection, replace(old, number=4, files=files))
    engine.dispose()
    with db.reading_engine(copied.store).connect() as connection:
        assert connection.scalar(select(t.file.c.data).where(t.file.c.digest == files["label.adapter"])) == b"new"


def test_a_damaged_file_is_made_whole_from_the_tables(copied: Paths) -> None:
    whole = (copied.versions / "3/label.adapter").read_bytes()
    (copied.versions / "3/label.adapter").write_bytes(b"x")
    offline.rollback(copied, "text", 3, "", "me")
    assert (copied.versions / "3/label.adapter").read_bytes() == whole


def test_checkpoints_go_when_another_folder_has_written_since(copied: Paths, tmp_path: Path) -> None:
    def take(paths: Paths) -> None:
        engine = db.writing_engine(paths.store)
        mirror.attach(engine, paths)
        engine.dispose()

    take(copied)
    checkpoint = copied.checkpoints / "text" / "1"
    checkpoint.mkdir(parents=True)
    take(copied)
    assert checkpoint.exists()
    take(Paths(config=copied.config, state=tmp_path / "other", given_url=copied.given_url))
    take(copied)
    assert not checkpoint.exists()


def test_a_folder_of_another_store_is_refused_and_left_alone(copied: Paths, tmp_path: Path) -> None:
    other = Paths(config=copied.config, state=tmp_path / "other", given_url=copied.given_url)
    registry.publish(other.versions / "9", {"label.adapter": b"w"})
    engine = db.writing_engine(copied.store)
    with pytest.raises(CannotStart, match="another store's"):
        mirror.attach(engine, other)
    engine.dispose()
    assert (other.versions / "9/label.adapter").exists()


def test_the_journal_goes_on_with_its_chain(journalled: Paths, url: str) -> None:
    offline.copy(journalled, url, lambda rows: None)
    paths = replace(journalled, given_url=url)
    from adaptd.records import Item

    with journal(paths) as opened:
        items = [Item(payload={"text": "é \U0001f600 \0"}, source="http", key=str(n)) for n in range(3)]
        done = opened.append(1, items).result(10)
    assert [one.status for one in done.receipts] == ["accepted"] * 3
    assert not verified(paths).breaks and verified(paths).head.entry == EVENTS + 3 + 3
    shutil.rmtree(paths.versions, ignore_errors=True)
    assert forget(paths, subject="s2")["removed"]["event"] == 1
