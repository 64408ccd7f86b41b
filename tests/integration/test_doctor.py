"""Doctor: each thing that can be wrong is made so in a store on the disk, is found, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adaptd import db, doctor
from adaptd.errors import CannotStart
from adaptd.host import check_folder
from adaptd.newstore import create
from adaptd.paths import Paths
from tests.integration.store import contents

Json = dict[str, Any]
BLOCKED = ("import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'faiss', 'avalanche', 'sklearn')));"
           "from adaptd.cli import main; main()")


def adaptd(paths: Paths, *words: str, **environment: str) -> tuple[int, Json]:
    """Run the doctor in a process where torch cannot be imported; return exit code and document."""
    done = subprocess.run([sys.executable, "-c", BLOCKED, "doctor", "--json", *words, "--config", str(paths.config)],
                          capture_output=True, text=True, timeout=240, env={**os.environ, **environment})
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def codes(paths: Paths, *, running: bool = False) -> list[str]:
    """Return what is found; each finding has words and a cure."""
    found = doctor.examine(paths, str(paths.config), running=running)
    assert all(one.message and one.hint for one in found)
    return [one.code for one in found]


def execute(paths: Paths, *statements: str) -> None:
    """Change a store's tables."""
    with closing(sqlite3.connect(paths.database)) as store:
        for statement in statements:
            store.execute(statement)
        store.commit()


def test_a_sound_store_is_well_and_stays_as_it_is(store: Paths) -> None:
    before = contents(store.versions) | contents(store.checkpoints)
    assert adaptd(store) == (0, {"state": "stopped", "findings": [], "repaired": []})
    assert adaptd(store, "--repair") == (0, {"state": "stopped", "findings": [], "repaired": []})
    assert contents(store.versions) | contents(store.checkpoints) == before


def test_a_store_that_never_ran_is_well(tmp_path: Path) -> None:
    create(tmp_path / "new")
    assert adaptd(Paths(config=tmp_path / "new/adaptd.toml", state=tmp_path / "new")) == (
        0, {"state": "stopped", "findings": [], "repaired": []})


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 0xFF
    file.write_bytes(data)


def spoil_database(paths: Paths) -> None:
    data = bytearray(paths.database.read_bytes())
    for at in range(4096 * 2, len(data), 4096):
        data[at:at + 64] = b"\xee" * 64
    paths.database.write_bytes(data)


def configure(paths: Paths, text: str, state: str = "state") -> None:
    paths.config.write_text(f'state = "{state}"\n{text}\n')


NO_KEYS = "PRAGMA foreign_keys = OFF"
WRONG: dict[str, tuple[Callable[[Paths], Any], list[str]]] = {
    "a damaged database": (spoil_database, ["damaged_database"]),
    "no database at all": (lambda p: p.database.write_bytes(b"hello" * 2000), ["damaged_database"]),
    "a lost database": (lambda p: p.database.unlink(), ["damaged_database"]),
    "a newer schema": (lambda p: execute(p, "UPDATE alembic_version SET version_num = '9999'"), ["schema_mismatch"]),
    "a version that is damaged": (lambda p: damage(p.versions / "2/label.head"), ["unsound_version"]),
    "a version that lost a file": (lambda p: (p.versions / "2/label.head").unlink(), ["unsound_version"]),
    "the live version damaged": (lambda p: damage(p.versions / "3/label.adapter"), ["live_version_unsound"]),
    "an altered journal": (lambda p: execute(p, "UPDATE label SET label = '9' WHERE seq = 7"), ["journal_altered"]),
    "a newest event lost": (lambda p: execute(p, NO_KEYS, "DELETE FROM event WHERE seq = 400"), ["journal_altered"]),
    "no live pointer": (lambda p: execute(p, "DELETE FROM live"), ["no_live_version"]),
    "a pointer into nothing": (lambda p: execute(p, NO_KEYS, "UPDATE live SET version = 77"), ["no_live_version"]),
    "rows without vectors": (lambda p: execute(p, "DELETE FROM vector WHERE event < 9"), ["missing_vectors"]),
    "a vector cut off": (lambda p: execute(p, "UPDATE vector SET data = x'00' WHERE event = 1"), ["damaged_vectors"]),
    "a version without a row": (lambda p: shutil.copytree(p.versions / "2", p.versions / "9"), ["orphan"]),
    "half a version": (lambda p: (p.versions / ".4.123.tmp").mkdir(), ["orphan"]),
    "a file of no version": (lambda p: (p.versions / "3/x").write_text("x"), ["orphan"]),
    "a link out of the store": (lambda p: (p.versions / "8").symlink_to(p.config.parent), ["orphan"]),
    "a domain that is gone": (lambda p: shutil.copytree(p.checkpoints / "text", p.checkpoints / "old"), ["orphan"]),
    "half a checkpoint": (lambda p: (p.checkpoints / "text/.7.123.tmp").mkdir(), ["orphan"]),
    "a damaged index": (lambda p: damage(p.checkpoints / "text/400/label.keys"), ["damaged_checkpoint"]),
    "lost statistics": (lambda p: (p.checkpoints / "text/400/label.sums").unlink(), ["damaged_checkpoint"]),
    "a damaged manifest": (lambda p: (p.checkpoints / "text/400/manifest.json").write_text("{"), ["damaged_checkpoint"]),
    "a job of a dead daemon": (lambda p: (p.jobs / "text-123-456/label").mkdir(parents=True), ["stale_job"]),
    "a state folder for all": (lambda p: p.state.chmod(0o777), ["state_folder"]),
    "a database for all": (lambda p: p.database.chmod(0o644), ["open_file"]),
    "a token for all": (lambda p: (p.token.write_text("t"), p.token.chmod(0o640)), ["open_file"]),
    "files of another user": (lambda p: os.chown(p.database, 1, 1), ["owner"]),
    "a clock that was set back": (lambda p: execute(
        p, f"UPDATE event SET received = {time.time() + 7200} WHERE seq = 400"), ["clock", "journal_altered"]),
    "a secret for all": (lambda p: (
        configure(p, '[feeds.q]\nkind = "jsonl"\ndomain = "text"\noptions = { path = { "$file" = "secret" } }'),
        p.config.with_name("secret").write_text("x")), ["open_file"]),
    "an encoder that is not there": (lambda p: configure(
        p, '[encoders.default]\noptions = { model = "nobody/nothing" }'), ["encoder_missing"]),
    "a path that is too long": (lambda p: configure(p, "", "state/" + "x" * 60 + "/" + "y" * 60), ["long_path"]),
    "a wrong key": (lambda p: p.config.write_text('state = "state"\nbogus = 1\n'), ["bad_config"]),
    "a plugin that is not there": (
        lambda p: p.config.write_text('state = "state"\n[plugins]\nallow = ["adaptd-nowhere"]\n'), ["plugin_missing"]),
}
REPAIRED = {"orphan", "stale_job", "damaged_checkpoint"}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_and_repaired_only_where_that_is_safe(store: Paths, name: str) -> None:
    make, wanted = WRONG[name]
    sound = contents(store.versions)
    make(store)
    assert codes(store) == wanted
    before = contents(store.state)
    removed, left = doctor.repair(store, str(store.config))
    assert [one.code for one in removed] == [code for code in wanted if code in REPAIRED]
    assert [one.code for one in left] == [code for code in wanted if code not in REPAIRED]
    if left:
        assert {k: v for k, v in contents(store.state).items() if k != "adaptd.lock"} == \
            {k: v for k, v in before.items() if k != "adaptd.lock"}
    else:
        assert contents(store.versions) == sound and store.config.exists()


def test_the_command_tells_and_its_exit_code_says_so(store: Paths) -> None:
    (store.versions / "9").mkdir()
    damage(store.versions / "3/label.head")
    code, document = adaptd(store, ADAPTD_BOGUS="1")
    assert (code, [one["code"] for one in document["findings"]]) == (1, ["configuration", "live_version_unsound", "orphan"])
    assert "ADAPTD_BOGUS" in document["findings"][0]["message"]
    code, document = adaptd(store, "--repair")
    assert (code, [one["code"] for one in document["findings"]]) == (1, ["live_version_unsound"])
    assert [one["code"] for one in document["repaired"]] == ["orphan"] and not (store.versions / "9").exists()


def test_a_plugin_that_does_not_import_is_named_with_its_error(store: Paths, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    (packages / "adaptd_broken-1.0.dist-info").mkdir(parents=True)
    (packages / "adaptd_broken-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: adaptd-broken\nVersion: 1.0\n")
    (packages / "adaptd_broken-1.0.dist-info/entry_points.txt").write_text("[adaptd]\nbroken = adaptd_broken\n")
    (packages / "adaptd_broken.py").write_text("raise RuntimeError('no licence')\n")
    store.config.write_text('state = "state"\n[plugins]\nallow = ["adaptd-broken"]\n')
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    code, document = adaptd(store, PYTHONPATH=path)
    assert (code, [one["code"] for one in document["findings"]]) == (1, ["plugin_error"])
    assert "adaptd-broken" in document["findings"][0]["message"] and "no licence" in document["findings"][0]["message"]
    (packages / "adaptd_broken.py").write_text("")
    assert adaptd(store, PYTHONPATH=path)[0] == 0


def test_a_disk_that_is_nearly_full_is_told(small: Path) -> None:
    (small / "adaptd.toml").write_text("")
    assert codes(Paths(config=small / "adaptd.toml", state=small)) == ["disk_space"]


def test_beside_a_daemon_what_is_young_is_no_orphan_and_its_own_job_is_not_stale(store: Paths) -> None:
    with db.locked(store.lock):
        (store.versions / "9").mkdir()
        (store.jobs / f"text-{os.getpid()}-1").mkdir(parents=True)
        (store.jobs / "text-1-1").mkdir()
        execute(store, "DELETE FROM vector WHERE event = 1")
        assert doctor.is_running(store) and codes(store, running=True) == ["stale_job"]
        os.utime(store.versions / "9", (1, 1))
        assert codes(store, running=True) == ["orphan", "stale_job"]


def test_a_repair_beside_a_daemon_is_refused(store: Paths) -> None:
    with db.locked(store.lock):
        done = subprocess.run([sys.executable, "-m", "adaptd", "doctor", "--repair", "--config", str(store.config)],
                              capture_output=True, text=True, timeout=240)
    assert done.returncode == 3 and "locked by pid" in done.stderr


def test_a_port_that_is_taken_is_told_unless_the_daemon_has_it(store: Paths) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        configure(store, f"[http]\nport = {taken.getsockname()[1]}")
        assert codes(store) == ["port_taken"]
        with db.locked(store.lock):
            assert codes(store, running=True) == []


def test_a_state_folder_on_a_network_file_system_is_refused(store: Paths, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {str(store.state).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n")
    monkeypatch.setattr("adaptd.host.MOUNTS", mounts)
    assert codes(store) == ["state_folder"]
    with pytest.raises(CannotStart, match="network file system"):
        check_folder(store.state)


def test_too_few_open_files_are_told(store: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1024))
    assert codes(store) == ["open_files"]


def test_a_check_of_a_valid_configuration_tells_what_it_names_that_is_wrong(store: Paths) -> None:
    configure(store, '[encoders.default]\noptions = { model = "nobody/nothing" }')
    done = subprocess.run([sys.executable, "-m", "adaptd", "config", "check", "--config", str(store.config)],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "encoder_missing" in done.stderr and "hint:" in done.stderr and "valid" in done.stdout
