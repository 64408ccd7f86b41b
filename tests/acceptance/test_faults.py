"""Faults against a real daemon: killed amid adaptation, promotion, rollback; files damaged. The champion stays whole."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from adaptd.errors import AdaptdError
from tests.acceptance.daemon import ADAPTING, SQLITE, SUBJECTS, Daemon, Json, flip, lesson, newest, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album", "a recipe for apple pie")
LABELS = list(SUBJECTS)


def trainer(daemon: Daemon) -> psutil.Process | None:
    """Return the training process, while there is one."""
    assert daemon.process is not None
    for child in psutil.Process(daemon.process.pid).children(recursive=True):
        try:
            if "adaptd.trainer" in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def stage(daemon: Daemon) -> str | None:
    """Return what an adaptation is doing now."""
    adapting = daemon.domain()["adapting"]
    return adapting and str(adapting["stage"])


@pytest.mark.slow
def test_an_adaptation_that_is_killed_at_any_step_leaves_the_champion_whole(make: Make) -> None:
    daemon = make(ADAPTING).start()
    daemon.teach(lesson(LABELS, 40))
    champion, version = daemon.scores(ASKED), daemon.domain()["version"]

    daemon.post("text/adapt", {"wait": False})
    child = until(lambda: trainer(daemon), "it trains")
    child.kill()  # the trainer alone, as the kernel does when memory is short
    verdict = until(lambda: daemon.domain()["last_verdict"], "the adaptation failed")
    assert verdict["verdict"] == "failed" and "signal 9" in verdict["reasons"][0]
    assert "signal 9" in daemon.problems()["adaptation_failed"]
    until(lambda: not list(daemon.paths.jobs.iterdir()), "its folder is removed")
    assert (daemon.scores(ASKED), daemon.domain()["version"]) == (champion, version)

    daemon.post("text/snapshot")  # a base with these folds
    version = daemon.domain()["version"]
    for at in ("training", "evaluating"):
        daemon.post("text/adapt", {"wait": False})
        until(lambda: stage(daemon) == at, f"it is {at}", 120.0, 0.01)  # noqa: B023
        assert daemon.scores(ASKED[:1]) == champion[:1]  # it answers all the while
        daemon.crash()
        assert list(daemon.paths.jobs.iterdir())
        daemon.start()
        assert daemon.scores(ASKED[:1]) == champion[:1]
        assert daemon.post("text/adapt/cancel", {"reason": "not now"}) == {"cancelled": "cancelled by socket: not now"}
        assert list(daemon.paths.jobs.iterdir()) == [] and daemon.domain()["last_verdict"]["verdict"] == "cancelled"
        assert (daemon.scores(ASKED), daemon.domain()["version"]) == (champion, version)

    done = daemon.post("text/adapt", {"wait": True})
    assert done["verdict"] in ("promote", "reject", "undecided") and done["reasons"]
    assert done["version"] > version
    _promotion_is_all_or_nothing(daemon, done["version"])


def _promotion_is_all_or_nothing(daemon: Daemon, candidate: int) -> None:
    """Kill it beside a promotion: afterwards the one is live or the other, and both can be had."""
    before = daemon.post("text/rollback", {"to": daemon.domain()["version"]})["version"]
    for _ in range(2):
        asking = threading.Thread(target=_quietly, args=(daemon, *_way_to(daemon, candidate)))
        asking.start()
        threading.Event().wait(random.uniform(0.0, 0.15))
        daemon.crash()
        asking.join(60)
        daemon.start()
        assert daemon.domain()["version"] in (before, candidate)
        assert [label for label, _ in daemon.scores(ASKED)] == ["card", "weather", "music", "food"]
        assert daemon.domain()["memory"] == 320 and "corrupt_version" not in daemon.problems()
        daemon.post("text/rollback", {"to": before})
    verb, body = _way_to(daemon, candidate)
    daemon.post(f"text/{verb}", body)
    promoted = daemon.scores(ASKED)
    daemon.post("text/rollback", {"to": before})
    daemon.post("text/rollback", {"to": candidate})
    assert daemon.scores(ASKED) == promoted
    assert daemon.restart().scores(ASKED) == promoted


def _way_to(daemon: Daemon, candidate: int) -> tuple[str, Json]:
    """Return the call that makes a candidate live: a promotion once, a rollback when it was live before."""
    told = daemon.ask("GET", "/v1/history?limit=1000")[1]["actions"]
    if any(one["what"] == "promote" and one["after"] == candidate for one in told):
        return "rollback", {"to": candidate}
    return "promote", {"to": candidate, "force": True, "reason": "known"}


def _quietly(daemon: Daemon, verb: str, body: Json) -> None:
    try:
        daemon.client.exchange("POST", f"/v1/text/{verb}", body, 60.0)
    except AdaptdError:
        pass  # it was killed


def test_kill_9_amid_snapshots_and_rollbacks_leaves_one_version_whole(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather"], 20))
    old = daemon.post("text/snapshot")["version"]
    states: dict[int, Any] = {old: (daemon.scores(ASKED), 2)}
    daemon.teach(lesson(["music", "food"], 20))
    new = daemon.post("text/snapshot")["version"]
    states[new] = daemon.scores(ASKED), 4
    for _ in range(3):
        over, kept = threading.Event(), []

        def churn() -> None:
            while not over.is_set():  # noqa: B023
                for to in (old, new):
                    _quietly(daemon, "rollback", {"to": to})
                try:
                    kept.append(daemon.client.call("POST", "/v1/text/snapshot", {"reason": "churn"})["version"])  # noqa: B023
                except AdaptdError:
                    return

        churning = threading.Thread(target=churn)
        churning.start()
        until(lambda: kept, "some are acknowledged", every_s=0.01)  # noqa: B023
        threading.Event().wait(random.uniform(0.0, 0.5))
        daemon.crash()
        over.set()
        churning.join(60)
        daemon.start()
        versions = {one["version"]: one for one in daemon.ask("GET", "/v1/text/versions")[1]["versions"]}
        assert set(kept) <= set(versions) and "corrupt_version" not in daemon.problems()
        whole = {number for number, one in versions.items() if "expired" not in one["metrics"]}  # of many, retention takes some
        assert {int(path.name) for path in newest(daemon.paths.versions)} == whole - {1}  # version 1 has no files
        live = daemon.domain()
        scores, labels = states[old if live["labels"] == 2 else new]
        assert (live["labels"], daemon.scores(ASKED)) == (labels, scores)
        assert live["version"] not in states or states[live["version"]][1] == labels
        for version in (old, new):
            daemon.post("text/rollback", {"to": version})
            assert (daemon.scores(ASKED), daemon.domain()["labels"]) == states[version]


@SQLITE
def test_a_version_with_one_flipped_byte_is_refused_and_the_newest_sound_one_served(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather"], 20))
    sound = daemon.post("text/snapshot")["version"]
    then = daemon.scores(ASKED)
    daemon.teach(lesson(["music"], 20))
    damaged = daemon.post("text/snapshot")["version"]

    head = daemon.paths.versions / str(damaged) / "label.head"
    flip(head)
    status, answer = daemon.ask("POST", "/v1/text/rollback", {"to": damaged})  # on the running daemon
    assert (status, answer["error"]["code"]) == (500, "corrupt_file") and "label.head" in answer["error"]["message"]
    assert (daemon.domain()["version"], daemon.domain()["held"]) == (damaged, [])

    assert daemon.stop() == 0
    daemon.start()  # in spite of it
    assert f"version {damaged} was refused" in daemon.problems()["corrupt_version"]
    told = daemon.predict(*ASKED)
    assert told["version"] == sound == daemon.domain()["version"]
    assert daemon.domain()["memory"] == 60  # what was learned since is kept
    assert {one["label"] for one in told["predictions"]} == {"card", "weather", "music"}
    assert head.exists()  # for a look
    assert daemon.restart().domain()["version"] == sound and "corrupt_version" not in daemon.problems()
    daemon.post("text/rollback", {"to": sound})
    assert daemon.scores(ASKED) == then


def test_what_is_derived_is_made_again_when_it_is_missing_or_damaged(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music"], 24))
    then, memory = daemon.scores(ASKED), daemon.domain()["memory"]
    checkpoints = daemon.paths.checkpoints / "text"

    def damaged(damage: Callable[[Path], object]) -> dict[str, str]:
        """Damage the checkpoint of a stopped daemon, start it, check that nothing is lost; return its problems."""
        assert daemon.stop() == 0
        damage(next(newest(checkpoints)))
        daemon.start()
        assert [label for label, _ in daemon.scores(ASKED)] == [label for label, _ in then]
        assert daemon.domain()["memory"] == memory
        return daemon.problems()

    (daemon.paths.versions / "999").mkdir()
    (daemon.paths.versions / "999" / "label.head").write_bytes(b"left by a crash")
    (daemon.paths.versions / ".7.123.tmp").mkdir()
    assert "label.keys" in damaged(lambda folder: (folder / "label.keys").unlink())["rebuilt"]
    assert daemon.scores(ASKED) == then
    assert list(daemon.paths.versions.iterdir()) == []
    assert "orphan_version" in daemon.problems() or daemon.paths.url is not None  # there the folder mirrors the tables

    def truncate(folder: Path) -> None:
        (folder / "label.keys").write_bytes((folder / "label.keys").read_bytes()[:1000])
        flip(folder / "label.sums", 5000)

    assert "label.sums" in damaged(truncate)["rebuilt"]
    assert daemon.scores(ASKED) == then
    assert "corrupt_checkpoint" in damaged(lambda folder: flip(folder / "label.head"))
    assert "corrupt_checkpoint" in damaged(lambda folder: (folder / "manifest.json").write_text("{"))
    assert damaged(lambda _: shutil.rmtree(checkpoints)) == {}
    daemon.teach(lesson(["food"], 5))
    assert daemon.predict(texts("food")[7])["predictions"][0]["label"] == "food"


@SQLITE
@pytest.mark.parametrize("at", [0, 100, 4096 * 3], ids=["the magic", "the header", "a page"])
def test_a_damaged_database_is_refused_with_the_cure(make: Make, stopped: Path, at: int) -> None:
    daemon = make()
    data = bytearray(stopped.read_bytes())
    data[at:at + 2000] = b"\xff" * 2000
    daemon.paths.database.write_bytes(bytes(data))
    daemon.spawn()
    assert daemon.wait() == 3, daemon.said
    assert "damaged" in daemon.said and "restore the newest backup" in daemon.said and "Traceback" not in daemon.said
    assert daemon.paths.database.read_bytes()[:at + 2000] == bytes(data)[:at + 2000]  # it is kept for a look


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the database of a store that was stopped cleanly."""
    kept = tmp_path_factory.mktemp("kept") / "adaptd.db"
    with Daemon() as daemon:
        daemon.start()
        daemon.teach(lesson(["card", "weather"], 20))
        assert daemon.stop() == 0
        assert not daemon.paths.database.with_name("adaptd.db-wal").exists()
        assert json.loads(daemon.cli("status", "--json", expect=3))["domains"]["text"]["memory"] == 40
        shutil.copy(daemon.paths.database, kept)
    return kept
