"""A version is made again from the journal: to the bit, by another process, whatever was restarted or rolled back between."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.acceptance.daemon import ADAPTING, Daemon, Json, lesson

pytestmark = pytest.mark.acceptance
TOPICS = ["card", "weather", "music", "food", "travel"]
CONFIG = ADAPTING.replace("[adapt]", "[adapt]\nmin_labels = 50") + """
[holdout]
share = 0.3
after = 5
[gate]
options = { margin = 0.9, min_rows = 10 }
"""
LIMIT_S = 300.0  # a busy machine: an adaptation imports for ten seconds


def rebuild(daemon: Daemon, number: int, expect: int = 0) -> Json:
    """Make a version again by the command line; return the document, or what it said instead."""
    command = [sys.executable, "-m", "adaptd", "rebuild", str(number), "--json", "--config", str(daemon.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == expect, (done.stdout, done.stderr)
    found: Json = json.loads(done.stdout) if done.stdout else {"said": done.stderr}
    return found


def adapt(daemon: Daemon) -> int:
    """Adapt; return the candidate's number."""
    status, document, _ = daemon.client.exchange("POST", "/v1/text/adapt", {"wait": True}, LIMIT_S)
    assert status == 200, document
    return int(document["version"])


def adapter(daemon: Daemon, number: int) -> str:
    """Return the digest of a version's adapter."""
    files: dict[str, str] = json.loads(daemon.rows("SELECT files FROM version WHERE number = ?", number)[0][0])
    return files["label.adapter"]


def test_versions_are_made_again_running_and_stopped_and_what_differs_is_told(make: Callable[..., Daemon]) -> None:
    daemon = make(CONFIG).start()
    taught = daemon.teach(lesson(TOPICS, 25, prefix="a"))["events"]
    first = adapt(daemon)
    daemon.teach(lesson(TOPICS, 40)[125:])
    snapshot = daemon.post("text/snapshot", {"reason": "before"})["version"]
    daemon.teach(lesson(["sport"], 10))
    daemon.post("text/rollback", {"to": snapshot})
    daemon.post("text/resume")
    daemon.post("text/feedback", {"event": taught[0], "label": "garden"}, 202)  # a correction: one row dies
    daemon.teach(lesson(["health"], 30))
    second = adapt(daemon)
    last = daemon.post("text/snapshot", {"reason": "after"})["version"]

    found = {number: rebuild(daemon, number) for number in (first, snapshot, second, last)}
    for document in found.values():
        assert document["verdict"] == "match" and document["files"]["label.adapter"]["verdict"] == "equal", document
    for number in (snapshot, last):
        head = found[number]["files"]["label.head"]
        assert head["verdict"] in ("equal", "equal up to rounding") and head["deviation"] < 1e-4, head
    assert found[last]["files"]["label.adapter"]["trained_as"] == second
    assert found[first]["made_with"]["options"] == {"steps": 16} and not found[first]["set_otherwise_now"]

    assert daemon.stop() == 0
    config = daemon.folder / "adaptd.toml"
    config.write_text(config.read_text().replace("steps = 16", "steps = 20"))
    again = rebuild(daemon, second)
    assert again["verdict"] == "match"
    assert again["set_otherwise_now"] == {"options": {"then": {"steps": 16}, "now": {"steps": 20}}}

    daemon.edit("UPDATE learned SET holdout = 1 WHERE id = (SELECT min(id) FROM learned WHERE holdout = 0)")
    wrong = rebuild(daemon, first, expect=1)
    assert wrong["verdict"] == "differs" and wrong["files"]["label.adapter"]["deviation"] > 0, wrong
    daemon.edit("DELETE FROM vector WHERE event = (SELECT min(event) FROM vector)")
    assert "have no vectors of its encoder" in rebuild(daemon, first, expect=1)["said"]


def test_copies_of_a_store_come_to_the_same_candidate_and_a_restart_changes_nothing(make: Callable[..., Daemon]) -> None:
    one = make(CONFIG).start()
    one.teach(lesson(TOPICS, 25))
    first = adapt(one)
    one.teach(lesson(TOPICS, 35)[125:])
    one.settled()
    assert one.stop() == 0
    with Daemon(copy_of=one) as other:
        numbers = adapt(one.start()), adapt(other.start())
        assert adapter(one, numbers[0]) == adapter(other, numbers[1]) != adapter(one, first)
        trained = [json.loads(other.rows("SELECT metrics FROM version WHERE number = ?", n)[0][0])["trained"]
                   for n in (first, numbers[1])]
        assert trained[1]["after"] == trained[0]["seq"] > trained[0]["after"] == -1  # only what is new is new


def test_a_version_whose_records_were_forgotten_says_so(make: Callable[..., Daemon]) -> None:
    daemon = make(CONFIG).start()
    daemon.teach(lesson(TOPICS, 25))
    number = adapt(daemon)
    trained_on, = daemon.rows("SELECT e.id FROM event e JOIN learned l ON l.event = e.seq WHERE l.holdout = 0 LIMIT 1")
    daemon.post("text/forget", {"event": trained_on[0], "reason": "a request"})
    assert "cannot be made again" in rebuild(daemon, number, expect=1)["said"]
    assert "no version 99" in rebuild(daemon, 99, expect=1)["said"]
