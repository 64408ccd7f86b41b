"""Rules hold over a real daemon's answers, show in them, and follow a reload."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon, lesson, until

pytestmark = pytest.mark.acceptance
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rules.md").read_text()
TEXT = "I have a question about my credit card"
RULES = """
[domains.text.rules.no_card]
when = "payload.channel == 'chat'"
never = ["card"]
[domains.text.rules.vip]
when = "has(payload.vip) && label == 'card'"
must = "account manager"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("[adapt]\nenabled = false\n" + RULES) as made:
        made.start()
        made.teach(lesson(["card", "weather", "music"], 6))
        yield made


def ask(daemon: Daemon, **payload: Any) -> dict[str, Any]:
    found: dict[str, Any] = daemon.post("text/predict", {"inputs": [{"text": TEXT, **payload}]})["predictions"][0]
    return found


def test_a_rule_that_does_not_hold_leaves_the_answer_alone(daemon: Daemon) -> None:
    found = ask(daemon, channel="mail")
    assert found["label"] == "card" and "rules" not in found


def test_a_forbidden_label_gives_way_to_the_next_which_is_what_is_recorded_and_explained(daemon: Daemon) -> None:
    found = ask(daemon, channel="chat")
    assert found["rules"] == [{"rule": "no_card", "did": "never", "label": "card"}]
    assert list(found["scores"])[:2] == ["card", found["label"]]
    assert found["confidence"] == found["scores"][found["label"]] < 0.5
    query = "SELECT p.labels FROM prediction p JOIN event e ON e.seq = p.event WHERE e.id = ?"
    (recorded,) = until(lambda: daemon.rows(query, found["event"]), "the answer is recorded")
    assert json.loads(recorded[0]) == {"label": found["label"]}
    now = json.loads(daemon.cli("explain", found["event"], "--json"))["now"]
    assert (now["label"], now["rules"]) == (found["label"], found["rules"])
    assert "rule no_card: never card" in daemon.cli("explain", found["event"])


def test_a_label_that_must_be_answered_is_one_that_nobody_taught(daemon: Daemon) -> None:
    found = ask(daemon, channel="mail", vip=True)
    assert (found["label"], found["confidence"]) == ("account manager", 1.0)


def test_a_condition_that_cannot_be_told_shows_in_the_answer(daemon: Daemon) -> None:
    found = ask(daemon)
    (failed,) = found["rules"]
    assert found["label"] == "card" and failed["did"] == "failed" and "channel" in failed["error"]


def test_rules_follow_a_reload_and_a_wrong_one_changes_nothing(daemon: Daemon) -> None:
    daemon.configure("[adapt]\nenabled = false\n[domains.text.rules.broken]\nwhen = 'payload.'\nmust = 'x'\n")
    daemon.signal(signal.SIGHUP)
    until(lambda: "rules.broken.when: INVALID_ARGUMENT: ERROR: <input>:1:9: " in str(daemon.problems()), "it is named")
    assert ask(daemon, channel="chat")["label"] != "card"
    daemon.cli("config", "check", expect=78)
    daemon.configure("[adapt]\nenabled = false\n" + re.findall(r"```toml\n(.*?)```", PAGE, re.S)[0])
    daemon.signal(signal.SIGHUP)
    until(lambda: ask(daemon, channel="chat")["label"] == "card", "it is in force")
    assert ask(daemon, channel="mail", text="my lawyer says")["label"] == "legal"
