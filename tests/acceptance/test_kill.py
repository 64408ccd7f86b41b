"""Killed with SIGKILL under load: nothing acknowledged is lost, no event and no label counts twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from adaptd.errors import AdaptdError
from tests.acceptance.daemon import SUBJECTS, Daemon, Json, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
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
    if daemon.paths.url is None:
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
    daemon, wait, end, times = make().start(), threading.Event(), time.monotonic() + 150.0, []
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
