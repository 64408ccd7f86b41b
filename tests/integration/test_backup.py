"""Backup and restore of a store on the disk: what is whole comes back whole, what is damaged is refused by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from adaptd import backup, db, doctor, offline, registry, sqlite
from adaptd import tables as t
from adaptd.archive import MANIFEST
from adaptd.errors import AdaptdError, BadBackup, BadName, Conflict, NotReady, SchemaMismatch, StoreLocked
from adaptd.paths import Paths
from adaptd.records import canonical
from tests.integration.store import CONFIG, EVENTS, LEARNED, contents


@pytest.fixture(scope="module", params=[".tar", ".tar.gz"])
def made(request: pytest.FixtureRequest, kept: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a backup of that store."""
    file: Path = tmp_path_factory.mktemp("made") / f"kept{request.param}"
    offline.back_up(kept, file, "test", force=False)
    return file


def rows(database: Path) -> list[str]:
    """Return all that a database holds."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as found:
        return list(found.iterdump())


def refused(file: Path, folder: Path) -> AdaptdError:
    """Restore what must not be restored; nothing may be left."""
    with pytest.raises(AdaptdError) as caught:
        backup.restore(file, folder)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(type(caught.value)):
        backup.restore(file, folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    return caught.value


def test_what_is_restored_is_what_was_backed_up(kept: Paths, made: Path, tmp_path: Path) -> None:
    done = backup.restore(made, tmp_path / "new")
    assert done["counts"] == {"events": EVENTS, "labels": EVENTS, "learned": LEARNED, "versions": 3}
    assert (done["domains"], done["seq"], done["unsound"]) == ({"text": 3}, EVENTS, [])
    copied, kept_rows = ([row for row in rows(database) if "'backup'" not in row]  # noted after the copy was made
                         for database in (tmp_path / "new/adaptd.db", kept.database))
    assert copied == kept_rows
    assert contents(tmp_path / "new/versions") == contents(kept.versions)
    assert (tmp_path / "new/adaptd.toml").read_text() == CONFIG.replace(
        'state = "state"', 'state = "."  # before the restore: "state"')
    modes = {path.name: path.stat().st_mode & 0o077 for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]}
    assert set(modes.values()) == {0} and made.stat().st_mode & 0o077 == 0
    new = Paths(config=tmp_path / "new/adaptd.toml", state=tmp_path / "new")
    assert doctor.examine(new, str(new.config), running=False) == []


def test_there_is_no_token_in_it(store: Paths, tmp_path: Path) -> None:
    store.token.write_text("secret")
    offline.back_up(store, tmp_path / "b.tar", "test", force=False)
    with tarfile.open(tmp_path / "b.tar") as tar:
        assert sorted(tar.getnames()) == [
            "adaptd.db", "adaptd.toml", "manifest.json", "versions/2/label.adapter", "versions/2/label.head",
            "versions/3/label.adapter", "versions/3/label.head"]
    assert b"secret" not in (tmp_path / "b.tar").read_bytes()


def test_a_truncated_backup_is_refused(made: Path, tmp_path: Path) -> None:
    data = made.read_bytes()
    for length in [0, 1, 300, 512, 600, 1024, len(data) // 3, len(data) // 2, len(data) - 5000, len(data) - 512, len(data) - 1]:
        (tmp_path / "cut.tar").write_bytes(data[:length])
        assert isinstance(refused(tmp_path / "cut.tar", tmp_path / "new"), BadBackup), length


def test_a_backup_with_one_flipped_byte_is_refused(made: Path, tmp_path: Path) -> None:
    data = made.read_bytes()
    first = 10 if made.name.endswith(".gz") else 0  # gzip's own header says nothing about what is in it
    unused = {513 - 358, 155} if first == 0 else set()  # the byte behind a tar header's checksum has no meaning
    for at in {*random.Random(1).sample(range(first, len(data)), 60), first, len(data) - 1, len(data) // 2} - unused:
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        (tmp_path / "flipped.tar").write_bytes(damaged)
        assert isinstance(refused(tmp_path / "flipped.tar", tmp_path / "new"), AdaptdError), at


def members(file: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the members of an archive."""
    with tarfile.open(file) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def rewritten(file: Path, to: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]) -> Path:
    """Write an archive anew with a change."""
    found = members(file)
    change(found)
    with tarfile.open(to, "w") as tar:
        for member, data in found:
            tar.addfile(member, io.BytesIO(data))
    return to


def extra(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """Return a member that is not one of ours."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return member, b"evil"[:member.size]


@pytest.mark.parametrize(("member", "named"), [
    (extra("../x"), "'../x'"), (extra("/etc/x"), "'/etc/x'"), (extra("versions/2/../../x"), "x"), (extra("note"), "note"),
    (extra("versions/9", tarfile.SYMTYPE, "/etc"), "versions/9"), (extra("adaptd.db"), "adaptd.db"),
    (extra("dev", tarfile.CHRTYPE), "dev"), (extra("versions/2/label.head", tarfile.LNKTYPE, "adaptd.toml"), "label.head")])
def test_a_member_that_does_not_belong_there_is_refused_by_name(
        made: Path, tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], named: str) -> None:
    file = rewritten(made, tmp_path / "more.tar", lambda found: found.append(member))
    assert named in refused(file, tmp_path / "new").message
    assert not (tmp_path / "x").exists() and not Path("/etc/x").exists()


def test_a_file_replaced_by_a_link_is_refused(made: Path, tmp_path: Path) -> None:
    def change(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        place = next(i for i, (member, _) in enumerate(found) if member.name == "versions/3/label.head")
        found[place] = extra("versions/3/label.head", tarfile.SYMTYPE, "/etc/passwd")

    assert "versions/3/label.head" in refused(rewritten(made, tmp_path / "link.tar", change), tmp_path / "new").message


@pytest.mark.parametrize("name", ["adaptd.db", "adaptd.toml", "versions/2/label.adapter", MANIFEST])
def test_a_missing_member_is_named(made: Path, tmp_path: Path, name: str) -> None:
    def change(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        found[:] = [one for one in found if one[0].name != name]

    message = refused(rewritten(made, tmp_path / "less.tar", change), tmp_path / "new").message
    assert name.split(".")[0] in message and "less.tar" in message


def sealed(change: Callable[[dict[str, Any]], Any]) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    """Return the change of a manifest that then has its right digest."""
    def rewrite(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest = json.loads(found[0][1])["manifest"]
        change(manifest)
        digest = hashlib.sha256(canonical(manifest).encode()).hexdigest()
        data = canonical({"manifest": manifest, "sha256": digest}).encode()
        found[0][0].size = len(data)
        found[0] = found[0][0], data

    return rewrite


@pytest.mark.parametrize(("change", "words"), [
    (lambda m: m.update(format=2), "newer"), (lambda m: m.update(schema="9999"), "newer"),
    (lambda m: m["counts"].update(events=EVENTS + 1), "counts"), (lambda m: m.update(seq=7), "seq"),
    (lambda m: m["domains"].update(text=2), "domains"),
    (lambda m: m["files"].update({"../x": m["files"]["adaptd.toml"]}), "../x"),
    (lambda m: m["files"]["adaptd.toml"].update(size=3), "adaptd.toml"),
    (lambda m: m["files"].pop("versions/2/label.head"), "label.head")])
def test_a_manifest_that_its_files_do_not_bear_out_is_refused(
        made: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    error = refused(rewritten(made, tmp_path / "told.tar", sealed(change)), tmp_path / "new")
    assert words in error.message and isinstance(error, SchemaMismatch if words == "newer" else BadBackup)


def test_a_version_file_of_another_content_is_refused_even_where_the_manifest_fits(made: Path, tmp_path: Path) -> None:
    def change(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        place = next(i for i, (member, _) in enumerate(found) if member.name == "versions/2/label.head")
        found[place] = found[place][0], b"x" * found[place][0].size
        entry = {"sha256": hashlib.sha256(found[place][1]).hexdigest(), "size": found[place][0].size}
        sealed(lambda m: m["files"].update({"versions/2/label.head": entry}))(found)

    assert "label.head is not the file that its database names" in refused(
        rewritten(made, tmp_path / "other.tar", change), tmp_path / "new").message


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"hello", b"\x1f\x8bhello", gzip.compress(b"hello"), random.Random(2).randbytes(20_000)):
        (tmp_path / "x.tar").write_bytes(data)
        assert isinstance(refused(tmp_path / "x.tar", tmp_path / "new"), BadBackup)


def test_a_folder_that_is_not_empty_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file").write_text("mine")
    with pytest.raises(Conflict):
        backup.restore(made, tmp_path / "new")
    assert contents(tmp_path / "new") == {"file": b"mine"}


def test_a_file_that_is_there_is_replaced_by_force_only(store: Paths, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("mine")
    with pytest.raises(Conflict, match="there already"):
        offline.back_up(store, tmp_path / "b.tar", "test", force=False)
    assert (tmp_path / "b.tar").read_text() == "mine"
    offline.back_up(store, tmp_path / "b.tar", "test", force=True)
    assert backup.verify(tmp_path / "b.tar", tmp_path)["counts"]["events"] == EVENTS
    with pytest.raises(Conflict):
        offline.back_up(store, tmp_path / "b.tar", "test", force=False)


@pytest.mark.parametrize("name", ["adaptd.db", "backup", "b.zip", "b.tar.zst", "versions/b.tar", "checkpoints/b.tar",
                                  "jobs/b.tar"])
def test_a_backup_never_replaces_what_belongs_to_the_store(store: Paths, name: str) -> None:
    before = contents(store.state)
    with pytest.raises(BadName):
        offline.back_up(store, store.state / name, "test", force=True)
    assert contents(store.state) == before


def test_a_folder_that_cannot_be_written_is_an_error_with_a_cure(store: Paths, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "nowhere", Path("/proc")):
        with pytest.raises(BadBackup, match="cannot be written") as caught:
            offline.back_up(store, folder / "b.tar", "test", force=False)
        assert caught.value.hint


def test_a_full_disk_leaves_nothing(store: Paths, small: Path) -> None:
    with pytest.raises(BadBackup, match="cannot be written|bytes"):
        offline.back_up(store, small / "b.tar", "test", force=False)
    assert list(small.iterdir()) == []


def test_a_damaged_version_is_left_out_by_name_and_the_rest_is_backed_up(store: Paths, tmp_path: Path) -> None:
    (store.versions / "2/label.head").write_bytes(b"rot")
    (store.versions / "3/label.adapter").unlink()
    done = offline.back_up(store, tmp_path / "b.tar", "test", force=False)
    assert done["unsound"] == ["versions/2/label.head", "versions/3/label.adapter"]
    assert backup.restore(tmp_path / "b.tar", tmp_path / "new")["unsound"] == done["unsound"]
    assert set(contents(tmp_path / "new/versions")) == {"2/label.adapter", "3/label.head"}


def test_a_damaged_database_gives_no_backup(store: Paths, tmp_path: Path) -> None:
    data = bytearray(store.database.read_bytes())
    for at in range(4096 * 3, len(data), 4096):
        data[at:at + 64] = bytes(64)
    store.database.write_bytes(data)
    with pytest.raises(AdaptdError):
        offline.back_up(store, tmp_path / "b.tar", "test", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_locked_store_is_the_daemon_s(store: Paths, tmp_path: Path) -> None:
    with db.locked(store.lock), pytest.raises(StoreLocked):
        offline.back_up(store, tmp_path / "b.tar", "test", force=False)


def event(seq: int, payload: str) -> dict[str, Any]:
    """Return the row of an event."""
    return {"seq": seq, "id": f"e{seq}", "domain": 1, "source": "s", "key": f"k{seq}", "digest": b"d", "content": b"c",
            "payload": payload, "received": 1.0}


def test_one_moment_is_copied_while_the_writer_commits_between_the_steps(store: Paths, tmp_path: Path) -> None:
    """Without the one read transaction each commit would make the copy start again."""
    engine = db.writing_engine(store.database)
    writer = db.Writer(engine, 1000)
    with engine.begin() as connection:
        connection.execute(insert(t.event), [event(seq, "x" * 3000) for seq in range(EVENTS + 1, 2001)])
        writer.start(offline.last_seq(connection))
    steps = 0

    def commit() -> None:
        nonlocal steps
        steps += 1
        assert steps < 100, "it starts again and again"
        writer.submit(lambda connection: connection.execute(insert(t.event), [event(writer.next_seq(), "y" * 3000)])).result(30)

    try:
        assert backup.write(store, tmp_path / "b.tar", go_on=commit)["counts"]["events"] == 2000
        assert steps > 3
    finally:
        writer.close()
        engine.dispose()


def test_a_long_reader_does_not_hold_the_writers_checkpoint_up(store: Paths) -> None:
    """SQLite would wait 5 s for it, and every commit with it."""
    engine = db.writing_engine(store.database)
    with closing(sqlite3.connect(store.database, isolation_level=None)) as reader, engine.connect() as connection:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchone()
        connection.execute(insert(t.store).values(key="x", value="y"))
        connection.commit()
        began = time.monotonic()
        sqlite.checkpoint(connection, "TRUNCATE")
        assert time.monotonic() - began < 2.0
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == sqlite.BUSY_MS
    engine.dispose()


def test_a_version_that_is_replaced_meanwhile_is_taken_as_it_became(store: Paths, tmp_path: Path) -> None:
    """A candidate that goes live gets new files under its number, between the copy of the database and its files."""
    engine, replaced = db.writing_engine(store.database), threading.Event()

    def replace() -> None:
        if not replaced.is_set() and list(tmp_path.glob(".b.tar*/adaptd.db")):
            replaced.set()
            files = registry.publish(store.versions / "2", {"label.adapter": b"new", "label.head": b"new too"})
            with engine.begin() as connection:
                connection.execute(t.version.update().where(t.version.c.number == 2).values(files=canonical(files)))

    assert backup.write(store, tmp_path / "b.tar", go_on=replace)["unsound"] == []
    engine.dispose()
    backup.restore(tmp_path / "b.tar", tmp_path / "new")
    assert replaced.is_set() and (tmp_path / "new/versions/2/label.adapter").read_bytes() == b"new"


def test_a_backup_that_is_told_to_end_leaves_nothing(store: Paths, tmp_path: Path) -> None:
    def go_on() -> None:
        raise NotReady("the daemon is stopping")

    with pytest.raises(NotReady):
        backup.write(store, tmp_path / "b.tar", go_on=go_on)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
