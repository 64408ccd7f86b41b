"""Two daemons on one store in PostgreSQL: one answers, one stands by; what was acknowledged is there once, whatever happens."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptd import backup
from adaptd.errors import AdaptdError
from adaptd.status import stopped_status
from tests.acceptance.daemon import ADAPTING, Daemon, lesson, texts, until
from tests.postgres import database

pytestmark = [pytest.mark.acceptance, pytest.mark.service]
LIMIT_S = 10.0


class Client:
    """Sends labelled events to whoever answers, each until it is acknowledged, and notes when that was."""

    def __init__(self, daemons: list[Daemon]) -> None:
        self._daemons = list(daemons)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.acknowledged: dict[str, float] = {}

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a client hangs"

    def _work(self) -> None:
        number = 0
        while not self._over.is_set():
            key = f"k{number}"
            event = {"id": key, "text": f"{texts('card')[number % 50]} number {number}", "label": "card"}
            if self._sent(self._daemons[0], event):
                self.acknowledged[key] = time.monotonic()
                number += 1
            else:  # the other one may be the one that answers
                self._daemons.reverse()
                self._over.wait(0.02)

    @staticmethod
    def _sent(daemon: Daemon, event: dict[str, Any]) -> bool:
        try:
            status, _, _ = daemon.client.exchange("POST", "/v1/text/events", [event], 1.0)
        except (AdaptdError, OSError):
            return False
        return status == 202

    def wait_for(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        there = len(self.acknowledged)
        until(lambda: len(self.acknowledged) >= there + more, "events are acknowledged", 2 * LIMIT_S)

    def longest_gap_s(self, since: float) -> float:
        """Return the longest time without an acknowledgement."""
        times = [since, *(at for at in self.acknowledged.values() if at > since)]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Daemon]]:
    """Return a daemon that answers and one that stands by."""
    with database() as url, Daemon(ADAPTING, url=url) as first, Daemon(ADAPTING, url=url) as second:
        first.start()
        _stand_by(second)
        yield [first, second]


def _stand_by(daemon: Daemon) -> None:
    def stands_by() -> bool:
        try:
            return bool(daemon.ask("GET", "/v1/status")[1]["state"] == "standby")
        except AdaptdError:  # it does not listen yet
            return False

    daemon.spawn()
    until(stands_by, "it stands by", 90)


def _once_each(daemon: Daemon, acknowledged: dict[str, float]) -> None:
    """Assert that every acknowledged event is journalled once and learned once, and that memory has just these."""
    counted = dict(daemon.rows("SELECT e.key, count(*) FROM event e JOIN learned l ON l.event = e.seq"
                               " WHERE e.key LIKE 'k%' GROUP BY e.key"))
    assert set(acknowledged) <= set(counted), "an acknowledged event is lost"
    assert set(counted.values()) == {1}, "an event was learned twice"
    alive = stopped_status(daemon.paths)["domains"]["text"]["memory"]
    until(lambda: daemon.domain()["memory"] == alive, "memory holds what the tables do")
    assert json.loads(daemon.cli("verify", "--json"))["holds"]


def test_the_one_that_stands_by_says_so_and_refuses(pair: list[Daemon]) -> None:
    first, second = pair
    first.teach(lesson(["weather", "music"], 5, prefix="w"))
    version = first.post("text/snapshot", {"reason": "r"})["version"]
    status, said = second.ask("GET", "/readyz")
    assert status == 503 and "stands by" in said["error"]["message"] and f":{first.status()['pid']}" in said["error"]["message"]
    assert second.ask("GET", "/healthz")[0] == 200
    assert second.ask("POST", "/v1/text/predict", {"inputs": [{"text": "a"}]})[0] == 503
    document = json.loads(second.cli("status", "--json"))
    assert (document["state"], document["seq"], document["problems"][0]["code"]) == ("standby", first.status()["seq"], "standby")
    second.cli("rollback", expect=1)
    until(lambda: (second.paths.versions / f"{version}/label.head").exists(), "the version's files are mirrored")


def test_what_a_daemon_does_on_sqlite_it_does_here(pair: list[Daemon], tmp_path: Path) -> None:
    """Learn, correct, go back, learn again, forget, back up, prove, restore; the other tests do each on SQLite at length."""
    first, _ = pair
    first.teach(lesson(["food", "travel"], 5, prefix="f"))
    version = first.post("text/snapshot", {"reason": "before"})["version"]
    event = first.teach([{"text": texts("sport")[0], "label": "sprot", "subject": "s"}])["events"][0]
    first.post("text/feedback", {"event": event, "label": "sport"}, 202)
    assert first.predict(texts("sport")[0])["predictions"][0]["label"] == "sport"
    first.post("text/rollback", {"to": version, "reason": "r"})
    assert first.predict(texts("sport")[0])["predictions"][0]["label"] != "sport"
    first.post("text/resume", {"what": "learning"})
    assert first.post("text/replay", {"since": 0, "reason": "r"})["relearned"] == 2
    assert first.predict(texts("sport")[0])["predictions"][0]["label"] == "sport"
    done = first.post("text/forget", {"subject": "s", "reason": "asked"})
    assert done["removed"]["event"] == 1 and not any(done["checks"]["tables"].values()) and "WAL" in done["checks"]["disk"]
    assert first.predict(texts("sport")[0])["predictions"][0]["label"] != "sport"
    asked = [texts(label)[7] for label in ("food", "travel", "weather")]
    answers = [label for label, _ in first.scores(asked)]
    first.cli("backup", str(tmp_path / "b.tar.gz"))
    assert json.loads(first.cli("verify", "--json"))["holds"] and "all is well" not in first.cli("doctor")
    with Daemon() as restored:
        shutil.rmtree(restored.folder)
        backup.restore(tmp_path / "b.tar.gz", restored.folder)
        again = Daemon(folder=restored.folder)
        with again:
            assert again.paths.url is None and [label for label, _ in again.start().scores(asked)] == answers


@pytest.mark.slow
def test_killed_the_other_answers_within_seconds(pair: list[Daemon]) -> None:
    first, second = pair
    with Client(pair) as client:
        client.wait_for(50)
        killed = time.monotonic()
        first.crash()
        client.wait_for(50)
    gap = client.longest_gap_s(killed)
    print(f"killed: acknowledged again after {gap:.1f} s")
    assert gap < LIMIT_S
    _once_each(second, client.acknowledged)
    assert second.predict(texts("weather")[0])["predictions"][0]["label"] == "weather"
    pair[:] = [second, first]  # the roles are changed
    _stand_by(first)


@pytest.mark.slow
def test_paused_the_old_one_is_passed_by_and_can_write_no_more(pair: list[Daemon]) -> None:
    old, new = pair
    with Client(pair) as client:
        client.wait_for(50)
        paused = time.monotonic()
        old.signal(signal.SIGSTOP)
        client.wait_for(50)
        gap = client.longest_gap_s(paused)
        print(f"paused: acknowledged again after {gap:.1f} s")
        old.signal(signal.SIGCONT)
        assert old.wait() == 1
    assert gap < LIMIT_S
    assert "another daemon has taken the store over" in old.said
    _once_each(new, client.acknowledged)
    assert new.domain()["version"] and new.problems() == {}
    assert new.stop() == 0
    status = json.loads(new.cli("status", "--json", expect=3))
    assert (status["state"], status["domains"]["text"]["learn_lag"]) == ("stopped", 0)
