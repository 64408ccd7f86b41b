"""Old versions of a real daemon lose their files at its start, and what is kept still answers as it did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import CONFIG
from tests.acceptance.daemon import Daemon, lesson, until

pytestmark = pytest.mark.acceptance
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album")


def test_old_saved_versions_lose_their_files_and_the_kept_ones_answer(make: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = make(f"{CONFIG}[versions]\nkeep = 1\n").start()
    daemon.teach(lesson(["card", "weather"], 12))
    base = daemon.post("text/snapshot", {"reason": "the start"})["version"]
    saved, then = [], []
    for label in ("music", "food", "travel"):
        daemon.teach(lesson([label], 12))
        then = daemon.scores(ASKED)
        saved.append(daemon.post("text/rollback", {"to": base})["saved"])
        daemon.post("text/resume")
    folders = [daemon.paths.versions / str(number) for number in saved]
    shutil.copytree(folders[0], tmp_path / "kept")
    daemon.restart()
    until(lambda: [folder.is_dir() for folder in folders] == [False, False, True], "the old ones are gone")
    rows = {v["version"]: v for v in daemon.ask("GET", "/v1/text/versions")[1]["versions"]}
    assert [("expired" in rows[number]["metrics"], bool(rows[number]["files"])) for number in saved] == [
        (True, False), (True, False), (False, True)]
    told = daemon.ask("GET", "/v1/history?limit=1")[1]["actions"][0]
    assert (told["what"], told["detail"]["versions"]) == ("expire", saved[1::-1])

    before = daemon.domain()
    status, answer = daemon.ask("POST", "/v1/text/rollback", {"to": saved[0]})
    assert (status, answer["error"]["code"]) == (409, "refused") and "files are gone" in answer["error"]["message"]
    assert (daemon.domain()["version"], daemon.domain()["held"]) == (before["version"], [])
    assert daemon.post("text/rollback", {"to": saved[2]})["version"] == saved[2]
    assert daemon.scores(ASKED) == then
    daemon.cli("doctor")

    assert daemon.stop() == 0
    shutil.copytree(tmp_path / "kept", folders[0])  # as a crash between the mark and the files leaves it
    daemon.cli("rollback", "--to", str(saved[0]), expect=4)
    daemon.start()
    until(lambda: not folders[0].is_dir(), "the next turn takes it")
