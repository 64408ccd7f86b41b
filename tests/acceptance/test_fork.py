"""Forks of a real store: what would have happened, told without a change to what did."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.acceptance.daemon import Daemon, Json, lesson, texts
from tests.acceptance.test_moments import now
from tests.acceptance.test_replay import GOOD, WRONG, mixed

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]


def forked(daemon: Daemon, *words: str, expect: int = 0) -> Json:
    """Run a fork; return its document."""
    told: Json = json.loads(daemon.cli("fork", *words, "--json", expect=expect) or "{}")
    return told


def test_a_poisoned_store_is_told_what_it_would_be_without_the_culprit(make: Make) -> None:
    """Running and stopped alike, and nothing of the store is another afterwards."""
    daemon = make().start()
    daemon.teach(lesson(GOOD, 10, source="desk"))
    moment = str(now())
    asked = [(text, label) for label in GOOD for text in texts(label)[30:40]]
    poison = [{"text": text, "label": WRONG[label], "source": "intern"} for label in GOOD for text in texts(label)[10:30]]
    daemon.teach(mixed(poison, []))
    told = []
    for text, label in asked:
        told += daemon.predict(text)["predictions"]
        daemon.post("text/feedback", [{"event": told[-1]["event"], "label": label, "source": "desk"}], 202)
    daemon.settled()
    before = daemon.scores(["a question about bread"]), daemon.domain()["memory"], daemon.domain()["accuracy"]

    found = forked(daemon, "--at", moment, "--without-source", "intern")
    assert (found["labels"], found["judged"], found["answered_of"]) == (120, 40, 40)
    assert found["fork"] > found["now"] + 0.1 and found["regret"] == found["won"] - found["lost"] >= 5 and found["p"] < 0.05
    assert found["answered"] == sum(one["label"] == label for one, (_, label) in zip(told, asked, strict=True)) / 40
    assert abs(found["now"] - found["answered"]) < 0.2  # the line as configured does what production did
    assert found["over_time"][-1]["regret"] == found["regret"] and sum(part["judged"] for part in found["over_time"]) == 40

    assert (daemon.scores(["a question about bread"]), daemon.domain()["memory"], daemon.domain()["accuracy"]) == before
    words = daemon.cli("fork", "--at", moment, "--without-source", "intern")
    assert "the fork is better" in words and "configured" in words
    assert daemon.stop() == 0
    assert forked(daemon, "--at", moment, "--without-source", "intern") == found


def test_a_fork_that_changes_nothing_finds_no_difference(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(GOOD, 5), domain)
    moment = str(now())
    shared.teach(lesson(GOOD, 12), domain)
    found = forked(shared, "--domain", domain, "--at", moment)
    assert (found["won"], found["lost"], found["regret"], found["p"], found["answered"]) == (0, 0, 0, 1.0, None)
    assert found["judged"] == 48 and found["now"] == found["fork"] > 0.5
    smaller = forked(shared, "--domain", domain, "--at", moment, "--set", "learn.features=16", "--set", "memory.neighbours=1")
    assert smaller["judged"] == 48 and smaller["now"] == found["now"] and smaller["set"] == ["learn.features=16",
                                                                                            "memory.neighbours=1"]


@pytest.mark.parametrize(("words", "code", "said"), [
    ("--at 2001-01-01T00:00:00Z", 1, "the first event came at"), ("--at yesterday", 2, "seconds since"),
    ("--at NOW", 1, "no label was learned since then"), ("--at FIRST --without-source nobody", 1, "there are: http"),
    ("--at FIRST --set learn.features=0", 78, "greater than 0"), ("--at FIRST --set features", 78, "as in the file"),
    ("--at FIRST --set adapt.steps=3", 78, "learn and memory"), ("--at FIRST --set learn.feature=3", 78, "feature"),
    ("--at FIRST --set memory.policy='best'", 78, "unknown name 'best'"), ("--at FIRST --domain nil", 1, "nil")])
def test_what_is_wrong_is_named_with_its_cure(shared: Daemon, words: str, code: int, said: str) -> None:
    shared.teach(lesson(["card"], 1, source="http"), "text")
    first = time.time()
    shared.teach(lesson(["card"], 2, source="http"), "text")
    given = [{"NOW": str(now()), "FIRST": str(first)}.get(word, word) for word in words.split()]
    where = [] if "--domain" in words else ["--domain", "text"]
    assert said in complaint(shared, "fork", *given, *where, expect=code)


def complaint(daemon: Daemon, *words: str, expect: int) -> str:
    """Run a command that fails; return what it says."""
    done = subprocess.run([sys.executable, "-m", "adaptd", *words, "--config", str(daemon.folder)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, f"{words} ended with {done.returncode}: {done.stderr}"
    return done.stderr
