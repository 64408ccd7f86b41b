"""Large batches, through a real daemon: whichever door they come through, they are the same events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import pytest

from tests.acceptance.daemon import Daemon, until

pytestmark = pytest.mark.acceptance
CONFIG = """
[domains.text.redact]
entities = ["email"]
[adapt]
every_labels = 0
[http]
port = 0
"""
Json = dict[str, Any]


def batch(first: int, count: int) -> list[Json]:
    labelled = {"text": "ask ada@example.org, \"北京\" \U0001f600", "label": "card", "time": 1, "subject": "é",
                "answer": {"label": "music", "confidence": 1}}
    return [{"id": f"e{number}", "text": f"text {number}", **(labelled if number % 10 == 0 else {})}
            for number in range(first, first + count)]


def send(daemon: Daemon, events: Sequence[Any]) -> Json:
    return daemon.post("text/events", list(events), 202)


def doorkeeper(daemon: Daemon) -> psutil.Process | None:
    assert daemon.process is not None
    children = psutil.Process(daemon.process.pid).children()
    return next((child for child in children if "adaptd.doorkeeper" in child.cmdline()), None)


def test_batches_are_the_same_events_through_either_door() -> None:
    with Daemon(CONFIG) as daemon:
        daemon.start()
        assert send(daemon, batch(0, 300))["accepted"] == 300  # while it starts
        helper = until(lambda: doorkeeper(daemon), "a large batch starts it")
        until(lambda: "large batches come through a process of their own" in daemon.said, "it is ready")
        again = send(daemon, [*batch(0, 300), {"id": "bad"}, *batch(300, 300)])
        assert (again["accepted"], again["duplicates"], [one["index"] for one in again["rejected"]]) == (300, 300, [300])
        assert again["events"][0] and again["events"][300] is None and len(set(again["events"])) == 601
        plain = [{"id": f"p{number}", "text": f"text {number}", "list": [{}]} for number in range(400)]
        first = send(daemon, plain[:200])
        assert first["accepted"] == 200 and not first["rejected"], "none has a label, none came before"
        again = send(daemon, [*plain[100:], {"id": "p0", "text": "another"}])
        assert (again["accepted"], again["duplicates"], again["rejected"][0]["error"]["code"]) == (200, 100, "conflict")
        assert again["events"][:100] == first["events"][100:] and again["events"][-1] == first["events"][0]
        assert not daemon.rows("SELECT 1 FROM event WHERE payload LIKE '%@example.org%'")
        assert daemon.rows("SELECT count(*) AS n FROM learned")[0][0] == 60
        daemon.crash()
        assert not helper.is_running()
        daemon.start()
        assert send(daemon, batch(0, 600))["duplicates"] == 600
        daemon.stop()
        daemon.cli("verify")
