"""More than the daemon can take, for a minute (CRASH_FLOOD seconds): by HTTP from many clients, and by a feed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.acceptance.daemon import Json, until
from tests.crash.fork import CONFIG, Forked

pytestmark = pytest.mark.crash
FLOOD_S = float(os.environ.get("CRASH_FLOOD", 60))
CLIENTS, BATCH, QUEUE = 24, 200, 1_000
GROWTH_MB = 96  # of what it holds once its queues are full
BOUNDED = CONFIG.replace("[limits]", f"[memory]\ncapacity = 500\n[limits]\nqueue = {QUEUE}")
WORDS = ["rain", "song", "card", "soup", "train", "rose"]


def event(client: int, number: int) -> Json:
    """Return the events of a client, each another."""
    word = WORDS[(client + number) % len(WORDS)]
    return {"id": f"{client}-{number}", "source": f"c{client}", "text": f"{word} number {number} of {client}", "label": word}


class Flood:
    """Clients that never wait, whatever the daemon asks for, and what they were told."""

    def __init__(self, daemon: Forked) -> None:
        self.daemon = daemon
        self.over = threading.Event()
        self.told: Counter[int] = Counter()
        self.acknowledged: list[set[str]] = [set() for _ in range(CLIENTS)]
        self.offered = [0] * CLIENTS
        self.without_cure: list[Json] = []
        self.answers: list[tuple[int, float]] = []
        work = [(self.post, client) for client in range(CLIENTS)] + [(self.predict, 0)]
        self.threads = [threading.Thread(target=run, args=(one,)) for run, one in work]

    def __enter__(self) -> Flood:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def post(self, client: int) -> None:
        """Post batches; one that is refused is given up, as it would only stand in the way of the next."""
        while not self.over.is_set():
            events = [event(client, self.offered[client] + i) for i in range(BATCH)]
            self.offered[client] += BATCH
            status, document, retry_after = self.daemon.client.exchange("POST", "/v1/text/events", events, 120.0)
            self.told[status] += 1
            if status == 202:
                self.acknowledged[client] |= {one["id"] for one in events}
            elif retry_after is None or float(retry_after) <= 0 or not document["error"]["hint"]:
                self.without_cure.append(document)

    def predict(self, _: int) -> None:
        """Ask all the time."""
        while not self.over.is_set():
            began = time.monotonic()
            status, _ = self.daemon.ask("POST", "/v1/text/predict", {"inputs": [{"text": "rain"}]})
            self.answers.append((status, time.monotonic() - began))


@pytest.fixture
def daemon() -> Iterator[Forked]:
    """Return a started daemon with a small memory and short queues."""
    with Forked(BOUNDED) as made:
        made.start()
        yield made


def test_ten_times_too_much_is_refused_in_part_and_nothing_that_was_taken_is_lost(daemon: Forked) -> None:
    daemon.teach([event(CLIENTS, number) for number in range(600)])
    feed, lines = daemon.folder / "feed.jsonl", 0
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    held: list[float] = []
    with Flood(daemon) as flood, open(feed, "a", encoding="utf-8") as file:
        end = time.monotonic() + FLOOD_S
        while time.monotonic() < end:
            file.writelines(json.dumps(event(CLIENTS + 1, lines + i)) + "\n" for i in range(100))
            file.flush()
            lines += 100
            held.append(process.memory_info().rss / 2**20)
            time.sleep(0.25)
    ended = time.monotonic()
    daemon.teach([event(CLIENTS + 2, 0)])  # taken at once, though the feed is behind
    assert daemon.ask("POST", "/v1/text/predict", {"inputs": [{"text": "rain"}]})[0] == 200
    recovered = time.monotonic() - ended

    taken = sum(map(len, flood.acknowledged))
    offered = sum(flood.offered) + lines
    slowest = sorted(seconds for _, seconds in flood.answers)
    print(f"{FLOOD_S:g} s: {offered} offered, {taken} taken, {dict(flood.told)}, memory {held[len(held) // 3]:.0f} to"
          f" {max(held):.0f} MiB, {len(slowest)} predictions, p99 {slowest[int(0.99 * len(slowest))]:.2f} s, all well"
          f" {recovered:.2f} s after it")
    assert set(flood.told) == {202, 429} and not flood.without_cure
    assert {status for status, _ in flood.answers} <= {200, 429}
    assert sum(status == 200 for status, _ in flood.answers) > len(flood.answers) / 2
    assert max(held) < held[len(held) // 3] + GROWTH_MB
    assert recovered < 10.0  # a busy machine: what was queued is learned first

    feeding = time.monotonic()
    until(lambda: daemon.status()["feeds"]["tail"]["lag"] == 0 == daemon.domain()["learn_lag"], "the feed is through", 240.0)
    print(f"the feed's {lines} lines are through {time.monotonic() - feeding:.0f} s later")
    found = Counter(key for key, in daemon.rows("SELECT key FROM event WHERE source LIKE 'c%'"))
    assert set(found.values()) == {1}
    for mine in flood.acknowledged:
        assert mine <= set(found)
    assert {f"{CLIENTS + 1}-{i}" for i in range(lines)} <= set(found)
    assert daemon.stop() == 0
