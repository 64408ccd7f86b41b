"""The world around a daemon over many lives: clients, a feed, an operator; what they were told is the truth.

A request that gets no answer is sent again in the next life, as a client must; a move without an answer may have
happened or not.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adaptd import db, registry, rows
from adaptd.errors import AdaptdError
from tests.acceptance.daemon import Json, until
from tests.crash.fork import Forked
from tests.crash.invariants import Truth, violations

LABELS = [f"label {number}" for number in range(6)]
WORDS = [f"word{number}" for number in range(40)]
KEPT_VERSIONS = 12  # an operator goes back to one of the newest


class World:
    """Everything outside of one store."""

    def __init__(self, daemon: Forked, seed: int, feed: Path | None = None) -> None:
        self.daemon = daemon
        self.truth = Truth()
        self.feed = feed or daemon.folder / "feed.jsonl"
        self.feed.touch()
        self.random = random.Random(seed)
        self.starts_s: list[float] = []
        self.wrong: list[str] = []
        self._made = 0
        self._lines = 0
        self._again: dict[str, list[Json]] = {}  # what a client has sent, and nobody answered
        self._lock = threading.Lock()

    # -- a life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon; note how long it takes, and hold what it has made of its store against the tables."""
        began = time.monotonic()
        self.daemon.start()
        self.starts_s.append(time.monotonic() - began)
        self.ask("resume", {}, 200)  # a rollback may have been cut off before it
        until(lambda: self.daemon.domain()["memory"] == alive(self.daemon), f"what is alive is in memory\n{self.daemon.said}")
        live = self.daemon.domain()["version"]
        if self.truth.live not in (None, live):
            self.note(f"version {live} answers after the start, {self.truth.live} was acknowledged")
        self.truth.live = live  # a move that was cut off has happened or not
        assert self.daemon.process is not None
        mine = f"-{self.daemon.process.pid}-"
        if left := [path.name for path in self.daemon.paths.jobs.glob("*") if mine not in path.name]:
            self.note(f"jobs are left after the start: {left}")

    def note(self, wrong: str) -> None:
        """Note what is wrong."""
        self.wrong.append(f"life {len(self.starts_s)}: {wrong}")

    def check(self) -> None:
        """Hold the store of the dead daemon against the truth."""
        for wrong in violations(self.daemon.paths, self.truth, self.feed):
            self.note(wrong)

    def live(self, seconds: float, first: Callable[[], None] = lambda: None) -> None:
        """Let everybody work for a time, and kill the daemon amid it; `first` is done right before."""
        over = threading.Event()
        threads = [threading.Thread(target=self._work, args=(over, work, name)) for name, work in
                   (("a", self.post), ("b", self.post), ("teacher", self.teach), ("feed", self.append), ("operator", self.move))]
        for thread in threads:
            thread.start()
        over.wait(seconds)
        first()
        self.kill()
        over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def kill(self) -> None:
        """Kill the daemon alone, with SIGKILL."""
        assert self.daemon.process is not None
        if self.daemon.process.poll() is None:
            self.daemon.process.kill()
        self.daemon.process.wait(60)

    def pause(self, seconds: float) -> None:
        """Let a chosen time pass: the instant of a kill."""
        threading.Event().wait(seconds)

    def _work(self, over: threading.Event, work: Callable[[str], bool], name: str) -> None:
        while not over.is_set() and work(name):
            over.wait(0.001)

    # -- what the parties do: each returns whether somebody answered ---------------------------------------------

    def ask(self, path: str, body: Any, expect: int = 202) -> Json | None:
        """Post; return the answer of the expected status, None when there is none."""
        try:
            status, document, _ = self.daemon.client.exchange("POST", f"/v1/text/{path}", body, 120.0)
        except (AdaptdError, OSError):
            return None
        if status not in (expect, 503):
            self.note(f"{path} answered {status}: {document}")
        return document if status == expect else None

    def _event(self, about: str = "") -> Json:
        with self._lock:
            self._made += 1
            label = self.random.choice(LABELS)
            words = self.random.choices(WORDS, k=4)
            event = {"id": f"k{self._made}", "text": " ".join([label.replace(" ", ""), *words, about]).strip()}
            return event if self.random.random() < 0.3 else {**event, "label": label}

    def post(self, client: str, about: str = "") -> bool:
        """Send a batch of events, or the one again that nobody answered."""
        batch = self._again.pop(client, None) or [self._event(about) for _ in range(self.random.randint(1, 12))]
        self._again[client] = batch
        for event in batch:
            if "label" in event:
                self.truth.asked[event["id"]] = event["label"]
        if (done := self.ask("events", batch)) is None:
            return False
        del self._again[client]
        if done["rejected"]:
            self.note(f"events were rejected: {done['rejected'][:2]}")
        for event in batch:
            self.truth.acknowledged[event["id"]] = event["text"]
            if "label" in event:
                self._labelled(event["id"], event["label"])
        return True

    def _labelled(self, key: str, label: str) -> None:
        self.truth.labels[key] = label
        self.truth.asked.pop(key, None)

    def teach(self, _: str) -> bool:
        """Ask about a new event, or take an old one; give it a label, or another one."""
        known = [key for key in list(self.truth.acknowledged) if not _is_the_operators(key)]
        if not known or self.random.random() < 0.5:
            event = self._event()
            event.pop("label", None)
            event["id"] += "x"
            if self.ask("predict", {"inputs": [event]}, 200) is None:
                return False
            self.truth.acknowledged[event["id"]] = event["text"]
            key = event["id"]
        else:
            key = self.random.choice(known)
        if key in self.truth.asked:
            return True
        label = self.random.choice(LABELS)
        self.truth.asked[key] = label
        if self.ask("feedback", {"source": "http", "id": key, "label": label}) is None:
            return False
        self._labelled(key, label)
        return True

    def append(self, _: str) -> bool:
        """Append lines to the file that the daemon follows."""
        events = [self._event() for _ in range(self.random.randint(1, 30))]
        with self.feed.open("a") as file:
            for event in events:
                self._lines += 1
                file.write(json.dumps({**event, "id": f"line{self._lines}"}) + "\n")
        self.pause(0.05)
        return self.daemon.process is not None and self.daemon.process.poll() is None

    def follow(self) -> bool:
        """Append lines, and wait until the daemon has taken them."""
        self.append("")
        size = self.feed.stat().st_size
        until(lambda: (self.daemon.status()["feeds"]["tail"]["offset"] or {}).get("offset") == size, "the feed is read")
        return True

    def move(self, _: str) -> bool:
        """Do what an operator does: name versions, go back, forget."""
        self.pause(self.random.uniform(0.0, 0.15))
        return self.random.choice((self.snapshot, self.snapshot, self.rollback, self.forget))()

    def snapshot(self) -> bool:
        """Name the live state."""
        return self._moved("snapshot", {}, "version")

    def rollback(self) -> bool:
        """Go back, then go on learning."""
        target = self.random.choice(sorted(self.truth.versions)[-KEPT_VERSIONS:] or [1])
        return self._moved("rollback", {"to": target}, "saved") and self.ask("resume", {}, 200) is not None

    def promote(self) -> bool:
        """Make a candidate live."""
        fresh = self.daemon.rows("SELECT min(number) FROM version WHERE kind = 'candidate' AND files NOT LIKE '%.head%'")
        return self._moved("promote", {"to": fresh[0][0], "force": True, "reason": "r"}, "version")

    def adapt(self) -> bool:
        """Train a candidate; there is nothing to judge it by, so it stays one."""
        while len(self.truth.labels) < 60:
            self.post("a")
        if (done := self.ask("adapt", {"wait": True}, 200)) is None:
            return False
        self.truth.versions.add(done["version"])
        return True

    def _moved(self, verb: str, body: Json, made: str) -> bool:
        self.truth.live = None
        if (done := self.ask(verb, body, 200)) is None:
            return False
        self.truth.versions.add(done[made])
        self.truth.live = done["version"]
        return True

    def forgettable(self) -> list[str]:
        """Return the keys of events that may be forgotten."""
        gone = self.truth.forgotten | self.truth.forgetting
        return [key for key in list(self.truth.acknowledged) if _is_the_operators(key) and key not in gone]

    def forget(self) -> bool:
        """Forget one event that was acknowledged."""
        known = self.forgettable()
        if not known:
            return True
        key = self.random.choice(known)
        try:
            event = self.daemon.rows("SELECT id FROM event WHERE source = 'http' AND key = ?", key)
        except sqlite3.Error:
            return False  # its disk is off
        self.truth.forgetting.add(key)
        self.truth.live = None
        if event and (done := self.ask("forget", {"event": event[0][0], "reason": "asked to"}, 200)) is None:
            return False
        self.truth.live = done["versions"]["live"] if event else None
        self.truth.forgotten.add(key)
        self.truth.forgetting.discard(key)
        return True

    # -- what is told of it --------------------------------------------------------------------------------------

    def report(self, what: str) -> None:
        """Print figures; fail if anything was wrong."""
        p50, p99 = np.percentile(self.starts_s, [50, 99])
        truth = self.truth
        line = (f"{what}: {len(self.starts_s)} starts, p50 {p50:.2f} s, p99 {p99:.2f} s; acknowledged: {len(truth.acknowledged)}"
                f" events, {len(truth.labels)} labels, {len(truth.versions)} versions, {len(truth.forgotten)} forgets;"
                f" {self._lines} lines of a feed; {len(self.wrong)} violations")
        print(line)
        assert self.wrong == [], "\n".join([line, *self.wrong[:20], self.daemon.said[-3000:]])


def _is_the_operators(key: str) -> bool:
    """Say whether an event is one that is forgotten some day: nobody else talks about it."""
    return key.endswith("0")


def alive(daemon: Forked) -> int:
    """Return how many rows are alive in the live lineage, as the tables have it."""
    with db.reading_engine(daemon.paths.store).connect() as connection:
        branch = registry.live(connection, 1).branch
        return len(connection.execute(rows.alive(1, rows.lineage(connection, branch))).all())
