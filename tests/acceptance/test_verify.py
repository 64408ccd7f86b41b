"""Verify beside a daemon that learns, is killed and forgets: the journal's chain holds through all of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from tests.acceptance.daemon import WAIT_S, Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]


def verified(daemon: Daemon, *words: str) -> Json:
    """Verify by the command; it must hold."""
    found: Json = json.loads(daemon.cli("verify", "--json", *words))
    assert found["holds"] and not found["broken"]
    return found


def noted(daemon: Daemon) -> tuple[str, str]:
    """Return the head that an operator can note from the status, as the command takes it."""
    head = daemon.status()["chain"]
    return "--head", f"{head['entry']}:{head['hash']}"


def killed_amid_a_stream(daemon: Daemon) -> None:
    """Verify while events, labels and answers come in, and kill the daemon amid them."""
    sent, over = [0], threading.Event()

    def stream() -> None:
        try:
            while not over.is_set():
                daemon.teach([{"text": f"{text} {sent[0]}", "label": "travel"} for text in texts("travel")[:3]])
                daemon.predict(f"question {sent[0]}")
                sent[0] += 1
        except Exception:
            assert over.is_set()  # the daemon was killed

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        until(lambda: sent[0] >= 3, "a stream")
        before = verified(daemon)["entries"]
        until(lambda: sent[0] >= 6, "the stream goes on")
        assert verified(daemon)["entries"] > before
    finally:
        over.set()
        daemon.crash()
        thread.join(WAIT_S)


def test_the_chain_holds_beside_a_stream_over_a_kill_and_a_forget(make: Make) -> None:
    daemon = make().start()
    event = daemon.teach(lesson(["card", "weather"], 10, prefix="a", subject="s"))["events"][0]
    daemon.post("text/feedback", {"event": event, "label": "music"}, 202)
    head = noted(daemon)
    killed_amid_a_stream(daemon)
    assert verified(daemon, *head)["forgotten"] == 0
    daemon.start()
    daemon.post("text/hold", {"what": "learning"})
    daemon.teach(lesson(["food"], 3))
    daemon.post("text/resume")
    assert daemon.post("text/forget", {"subject": "s", "reason": "their request"})["entries"] == 21
    found = verified(daemon, *head)
    assert found["forgotten"] == 21 and found["head"] == daemon.status()["chain"]
    assert daemon.stop() == 0
    assert verified(daemon, *head) == found
    assert json.loads(daemon.cli("status", "--json", expect=3))["chain"] == found["head"]
