"""Ten times more predictions than the daemon can answer, in one domain: those that it takes are answered soon, another
domain is hardly slower, labels are learned, the operator is heard, and when it is over all is as before at once.

The encoder takes a fixed time for an example, so the capacity is known. CRASH_FLOOD=60 floods for a minute.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.crash.fork import CONFIG, Forked

pytestmark = pytest.mark.crash
FLOOD_S = float(os.environ.get("CRASH_FLOOD", 8))
COST_S = 0.04  # of an example: 25 a second
FILLING, FLOODING = 16, 64  # clients that keep it busy; that ask ten times as much
PAUSE_S = 0.15  # of a client that was refused; it does not wait as long as it is asked to
SLOW = CONFIG.replace('"hashed"', f'"hashed"\noptions = {{ cost_s = {COST_S} }}', 1) + '[domains.other]\nkind = "text"\n'


class Clients:
    """Clients of a domain that ask one text after another, and what they were told."""

    def __init__(self, daemon: Forked, domain: str, count: int) -> None:
        self.told: Counter[int] = Counter()
        self.took: list[float] = []  # of what was answered
        self.without_cure = 0
        self._daemon, self._domain = daemon, domain
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        body = {"inputs": [{"text": "rain"}]}
        while not self._over.is_set():
            began = time.monotonic()
            status, _, retry_after = self._daemon.client.exchange("POST", f"/v1/{self._domain}/predict", body, 120.0)
            self.told[status] += 1
            if status == 200:
                self.took.append(time.monotonic() - began)
            else:
                self.without_cure += retry_after is None or float(retry_after) < 1
                self._over.wait(PAUSE_S)

    @contextmanager
    def asking(self) -> Iterator[Clients]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.took, n=100)[98]


def measured(daemon: Forked, domain: str, count: int, seconds: float) -> Clients:
    with Clients(daemon, domain, count).asking() as clients:
        time.sleep(seconds)  # the load is what is tried
    return clients


@pytest.fixture
def daemon() -> Iterator[Forked]:
    with Forked(SLOW) as made:
        made.start()
        for domain in ("text", "other"):
            lesson = [{"id": f"{domain}{i}", "text": f"{word} {i}", "label": word} for i, word in enumerate(["rain", "song"] * 4)]
            made.teach(lesson, domain)
        yield made


def test_a_flood_of_predictions_costs_others_little_and_is_over_when_it_ends(daemon: Forked) -> None:
    version = daemon.post("text/snapshot", {"reason": "before"})["version"]
    measured(daemon, "text", FILLING, 2.0)  # its rate is known then
    normal = measured(daemon, "text", FILLING, 5.0)
    quiet = measured(daemon, "other", 1, 2.0)
    with Clients(daemon, "text", FLOODING).asking() as flood:
        time.sleep(1.0)
        began = time.monotonic()
        other = measured(daemon, "other", 1, FLOOD_S)
        labels = []
        for number in range(5):
            asked = time.monotonic()
            daemon.teach([{"id": f"late{number}", "text": f"rain {number}", "label": "rain"}])
            labels.append(time.monotonic() - asked)
        asked = time.monotonic()
        assert daemon.domain()["labelled"] == 13
        assert daemon.post("text/rollback", {"to": version, "reason": "tried"})["version"] == version
        operator = time.monotonic() - asked
        flooded_s = time.monotonic() - began
    after = measured(daemon, "text", 1, 1.0)
    answered, refused = flood.told[200], flood.told[429]
    print(f"{flooded_s:.0f} s: {answered + refused} asked, {answered} answered, p99 {flood.p99:.2f} s, normal {normal.p99:.2f} s;"
          f" other domain p99 {other.p99:.2f} s, alone {quiet.p99:.2f} s; label {max(labels):.2f} s, status and rollback"
          f" {operator:.2f} s; after it p99 {after.p99:.2f} s")
    assert set(flood.told) == {200, 429} and not flood.without_cure
    assert answered + refused > 5 * answered  # a busy machine asks less than it should
    assert set(normal.told) == set(other.told) == set(quiet.told) == set(after.told) == {200}
    assert flood.p99 <= 3 * normal.p99
    assert other.p99 <= 3 * normal.p99 and max(labels) < 10.0 and operator < 10.0
    assert after.took[0] <= 3 * normal.p99  # nothing is left of it
    assert daemon.stop() == 0
