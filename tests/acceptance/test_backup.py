"""Backup of a daemon that serves and learns, and a restored store that answers as the first one did."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.daemon import WAIT_S, Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album", "a recipe for apple pie")


def restored(file: Path, daemon: Daemon) -> Daemon:
    """Restore a backup by the command line into the folder of another daemon."""
    for path in daemon.folder.iterdir():
        path.unlink()
    done = subprocess.run([sys.executable, "-m", "adaptd", "restore", str(file), str(daemon.folder), "--json"],
                          capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    daemon.paths = replace(daemon.paths, given_url=None)  # a restored store is a folder
    return daemon


def backed_up_beside_a_stream(daemon: Daemon, file: Path) -> tuple[list[Json], Json, int]:
    """Return what was acknowledged before the backup began, what the command said, and how much was acknowledged after."""
    acknowledged: list[Json] = []
    slowest, over = [0.0], threading.Event()

    def stream() -> None:
        number = 0
        while not over.is_set():
            events = [{"id": f"s{number}-{place}", "text": f"{texts('travel')[place]} {number}", "label": "travel"}
                      for place in range(3)]
            began = time.monotonic()
            daemon.teach(events)
            slowest[0] = max(slowest[0], time.monotonic() - began)
            acknowledged.extend(events)
            number += 1

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        until(lambda: len(acknowledged) >= 30, "a stream")
        before = list(acknowledged)
        began = time.monotonic()
        done: Json = json.loads(daemon.cli("backup", str(file), "--json"))
        print(f"backup took {time.monotonic() - began:.2f} s; slowest acknowledgement of 3 labels {slowest[0]:.3f} s")
        return before, done, len(acknowledged)
    finally:
        over.set()
        thread.join(WAIT_S)


def test_a_backup_beside_a_stream_has_all_that_was_acknowledged_once_and_answers_as_the_first(make: Make, tmp_path: Path) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music", "food"], 25))
    old = daemon.post("text/snapshot", {"reason": "kept"})["version"]
    then = daemon.scores(ASKED)
    before, done, after = backed_up_beside_a_stream(daemon, tmp_path / "b.tar.gz")
    assert after > len(before), "nothing was acknowledged beside the backup"
    assert done["counts"]["events"] >= 100 + len(before) and done["unsound"] == []
    versions = daemon.ask("GET", "/v1/text/versions")[1]
    assert daemon.stop() == 0

    other = restored(tmp_path / "b.tar.gz", make())
    keys = [key for (key,) in other.rows("SELECT key FROM event WHERE key IS NOT NULL")]
    assert {event["id"] for event in before} <= set(keys) and len(keys) == len(set(keys))
    other.start()
    assert other.domain()["events"] == done["counts"]["events"]
    found = other.ask("GET", "/v1/text/versions")[1]
    assert [v["files"] for v in found["versions"]] == [v["files"] for v in versions["versions"]]
    assert (found["live"], other.domain()["memory"]) == (old, done["counts"]["learned"])
    again = other.teach(before)
    assert (again["accepted"], again["duplicates"]) == (0, len(before))
    other.post("text/rollback", {"to": old})
    assert other.scores(ASKED) == then
    assert other.restart().scores(ASKED) == then


def test_a_restored_store_answers_what_the_stopped_one_answered(make: Make, tmp_path: Path) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music", "food"], 25))
    daemon.post("text/snapshot")
    daemon.teach(lesson(["travel", "sport"], 25))
    now, facts, token = daemon.scores(ASKED), daemon.domain(), daemon.paths.token.read_text()
    daemon.kill()  # its WAL holds what is not in the database yet
    said = daemon.cli("backup", str(tmp_path / "b.tar"))
    assert "written and verified" in said and "150 labels" in said
    assert "sound" in daemon.cli("backup", "--verify", str(tmp_path / "b.tar"))
    other = restored(tmp_path / "b.tar", make()).start()
    found, answers = other.domain(), other.scores(ASKED)
    assert [found[what] for what in ("version", "labels", "memory")] == [facts[what] for what in ("version", "labels", "memory")]
    assert [label for label, _ in answers] == [label for label, _ in now]
    for (_, scores), (_, wanted) in zip(answers, now, strict=True):
        assert scores.keys() == wanted.keys() and all(abs(scores[label] - wanted[label]) < 1e-4 for label in wanted)
    assert other.paths.token.read_text() != token


def test_a_network_client_names_no_files_of_the_host(shared: Daemon, tmp_path: Path) -> None:
    token = shared.paths.token.read_text().strip()
    status, answer = shared.over_tcp("POST", "/v1/backup", token, {"file": str(tmp_path / "b.tar")})
    assert (status, answer["error"]["code"]) == (403, "forbidden") and "adaptd backup" in answer["error"]["hint"]
    assert shared.over_tcp("POST", "/v1/backup", None, {"file": str(tmp_path / "b.tar")})[0] == 401
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(("body", "status", "field"), [
    ({"file": "b.tar"}, 422, "file"), ({}, 422, "file"), ({"file": "/tmp/a\0.tar"}, 422, "file"),
    ({"file": "/tmp/b.zip"}, 422, "file"), ({"file": "/nowhere/b.tar"}, 500, "file"), ({"file": "/tmp/b.tar", "x": 1}, 422, "x")])
def test_a_backup_to_nowhere_is_refused_with_a_cure(shared: Daemon, body: Json, status: int, field: str) -> None:
    answered, document = shared.ask("POST", "/v1/backup", body)
    assert (answered, document["error"]["field"]) == (status, field), document
    assert document["error"]["hint"]


def test_a_file_that_is_there_stays_without_force(shared: Daemon, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("mine")
    shared.cli("backup", str(tmp_path / "b.tar"), expect=1)
    assert (tmp_path / "b.tar").read_text() == "mine"
    shared.cli("backup", str(tmp_path / "b.tar"), "--force")
    shared.cli("backup", "--verify", str(tmp_path / "b.tar"))
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]
