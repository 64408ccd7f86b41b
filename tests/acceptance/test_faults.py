"""Faults against a real daemon: killed at any moment, its files damaged. Nothing acknowledged is lost, none counts twice."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from adaptd.errors import AdaptdError
from tests.acceptance.daemon import SUBJECTS, Daemon, Json, flip, lesson, newest, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
ADAPTING = """
[adapt]
every_labels = 0
options = { steps = 16 }
[http]
port = 0
"""
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album", "a recipe for apple pie")
LABELS = list(SUBJECTS)


class Load:
    """Clients that post batches of events with ids and labels for ever, and note what was acknowledged."""

    def __init__(self, daemon: Daemon, clients: int = 3, prefix: str = "") -> None:
        self._daemon = daemon
        self._prefix = prefix
        self._over = threading.Event()
        self.acknowledged: list[Json] = []
        self.sent: list[Json] = []
        self.refused: list[str] = []
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _post(self, client: int) -> None:
        batch = 0
        while not self._over.is_set():
            events = [self._event(f"{self._prefix}{client}-{batch}-{place}", place) for place in range(8)]
            self.sent += events
            try:
                status, done, _ = self._daemon.client.exchange("POST", "/v1/text/events", events, 60.0)
            except AdaptdError:  # it is dead, or not there yet: send the same again, as a client must
                self._over.wait(0.02)
                continue
            if status == 202 and not done["rejected"]:
                self.acknowledged += events
            elif status != 503:  # 503: it is starting or stopping
                self.refused.append(f"{status}: {done}")
            batch += status == 202

    @staticmethod
    def _event(key: str, place: int) -> Json:
        label = LABELS[place % len(LABELS)]
        event = {"id": key, "text": f"{texts(label)[place]} {key}"}
        return event if place % 4 == 3 else {**event, "label": label}

    def end(self) -> None:
        """Stop the clients."""
        self._over.set()
        for thread in self._threads:
            thread.join(120)


def check_nothing_lost(daemon: Daemon, load: Load) -> None:
    """Check a daemon that was started again: each acknowledged event is there once, each label learned once."""
    acknowledged = {event["id"]: event for event in load.acknowledged}
    stored = daemon.rows("SELECT key, seq FROM event WHERE key IS NOT NULL")
    keys = [key for key, _ in stored]
    assert len(keys) == len(set(keys)), "an event is there twice"
    assert not set(acknowledged) - set(keys), "an acknowledged event is lost"
    learned = dict(daemon.rows("SELECT e.key, count(*) FROM learned l JOIN event e ON e.seq = l.event GROUP BY e.key"))
    assert not {key for key, event in acknowledged.items() if "label" in event} - set(learned), "a label is lost"
    assert set(learned.values()) <= {1}, "a label was learned twice"
    found = until(lambda: (d := daemon.domain())["learn_lag"] == 0 and d["events"] == len(keys) and d, "the counts are read")
    assert (found["memory"], found["labelled"]) == (len(learned), len(learned))
    assert daemon.rows("PRAGMA integrity_check") == [("ok",)]
    assert load.refused == []


def test_kill_9_amid_ingest_loses_nothing_and_counts_nothing_twice(make: Make) -> None:
    daemon, wait = make().start(), threading.Event()
    for life in range(3):
        load = Load(daemon, prefix=f"{life}-")
        until(lambda: len(load.acknowledged) > 50, "some are acknowledged")  # noqa: B023
        wait.wait(random.uniform(0.0, 1.5))
        daemon.crash()
        load.end()
        daemon.start()
        check_nothing_lost(daemon, load)
    events = {event["id"]: event for event in load.sent}
    daemon.teach(list(events.values())[:1000])  # what was sent and not acknowledged is sent again
    before = daemon.domain()["memory"]
    again = daemon.teach(list(events.values())[:1000])
    assert (again["accepted"], again["duplicates"], daemon.domain()["memory"]) == (0, min(1000, len(events)), before)
    check_nothing_lost(daemon, load)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_kill_9_at_30_random_moments_under_load_loses_nothing(make: Make) -> None:
    daemon, wait, end, times = make().start(), threading.Event(), time.monotonic() + 170.0, []
    load = Load(daemon, clients=2)
    try:
        for _ in range(30):
            if time.monotonic() > end:
                break
            wait.wait(random.choice((random.uniform(0.0, 0.3), random.uniform(0.0, 2.0))))
            daemon.crash()
            if random.random() < 0.5:  # and once more while it recovers
                daemon.spawn()
                wait.wait(random.uniform(0.0, 6.0))
                daemon.crash()
                times.append(0.0)
            began = time.monotonic()
            daemon.start()
            times.append(time.monotonic() - began)
    finally:
        load.end()
    check_nothing_lost(daemon, load)
    print(f"{len(times)} kills, {len(load.acknowledged)} events acknowledged, slowest start {max(times):.1f} s")
    assert len(times) >= 5


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
    assert "signal 9" in daemon.problems()["adaptation_failed"] and list(daemon.paths.jobs.iterdir()) == []
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
        assert list(daemon.paths.jobs.iterdir()) == [] and "interrupted_adaptation" in daemon.problems()
        assert (daemon.scores(ASKED), daemon.domain()["version"]) == (champion, version)

    done = daemon.post("text/adapt", {"wait": True})
    assert done["verdict"] in ("promote", "reject", "undecided") and done["reasons"]
    assert done["version"] > version
    _promotion_is_all_or_nothing(daemon, done["version"])


def _promotion_is_all_or_nothing(daemon: Daemon, candidate: int) -> None:
    """Kill it beside a promotion: afterwards the one is live or the other, and both can be had."""
    before = daemon.post("text/rollback", {"to": daemon.domain()["version"]})["version"]
    for _ in range(2):
        asking = threading.Thread(target=_quietly, args=(daemon, "promote", {"to": candidate, "force": True, "reason": "try"}))
        asking.start()
        threading.Event().wait(random.uniform(0.0, 0.15))
        daemon.crash()
        asking.join(60)
        daemon.start()
        assert daemon.domain()["version"] in (before, candidate)
        assert [label for label, _ in daemon.scores(ASKED)] == ["card", "weather", "music", "food"]
        assert daemon.domain()["memory"] == 320 and "corrupt_version" not in daemon.problems()
        daemon.post("text/rollback", {"to": before})
    daemon.post("text/promote", {"to": candidate, "force": True, "reason": "known"})
    promoted = daemon.scores(ASKED)
    daemon.post("text/rollback", {"to": before})
    daemon.post("text/rollback", {"to": candidate})
    assert daemon.scores(ASKED) == promoted
    assert daemon.restart().scores(ASKED) == promoted


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
        live = daemon.domain()
        scores, labels = states[old if live["labels"] == 2 else new]
        assert (live["labels"], daemon.scores(ASKED)) == (labels, scores)
        assert live["version"] not in states or states[live["version"]][1] == labels
        for version in (old, new):
            daemon.post("text/rollback", {"to": version})
            assert (daemon.scores(ASKED), daemon.domain()["labels"]) == states[version]
        assert {int(path.name) for path in newest(daemon.paths.versions)} == set(versions) - {1}  # version 1 has no files


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
    assert "orphan_version" in daemon.problems() and list(daemon.paths.versions.iterdir()) == []

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


@pytest.mark.parametrize("at", [0, 100, 4096 * 3 + 50], ids=["the magic", "the header", "a page"])
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
