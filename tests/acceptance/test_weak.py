"""Weak labels on a real daemon: they wait, are admitted where the holdout shows that they help, and can be withdrawn."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.acceptance.daemon import PATTERNS, SUBJECTS, Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
PAGE = (Path(__file__).parents[2] / "docs" / "weak.md").read_text()
TEAMS = ("red", "blue", "green", "black")
ALL = [subject for subjects in SUBJECTS.values() for subject in subjects]
ON = """
[holdout]
share = 0.5
after = 1
[gate]
options = {{ min_rows = 8 }}
[weak]
sources = ["rules", "chance"]
every_labels = {every}
[adapt]
every_labels = 0
[http]
port = 0
"""


def routed(patterns: Sequence[int], source: str, shift: int = 0, known: Sequence[int] = range(len(ALL))) -> list[Json]:
    """Return labels that no similarity of meaning tells: which team a thing goes to; with a `shift` wrong ones."""
    return [{"text": PATTERNS[pattern].format(subject), "label": TEAMS[(place * 7 // 3 + shift * (1 + place % 3)) % 4],
             "source": source} for pattern in patterns for place, subject in enumerate(ALL) if place in known]


def desk() -> list[Json]:
    """Return one text about each thing but every fourth: without itself none tells its label."""
    return routed([0], "desk", known=[place for place in range(len(ALL)) if place % 4])


def alive(daemon: Daemon, source: str) -> int:
    """Return how many rows of a source are alive in the live branch, which has one parent at most here."""
    return int(daemon.rows(
        "SELECT count(*) FROM learned l JOIN live ON live.domain = l.domain JOIN branch b ON b.id = live.branch "
        "WHERE l.source = ? AND (l.born > b.start OR l.born <= b.fork) AND NOT EXISTS "
        "(SELECT 1 FROM death d WHERE d.row = l.id AND (d.seq > b.start OR d.seq <= b.fork))", source)[0][0])


def lines(daemon: Daemon, what: str) -> list[Json]:
    return [one for one in daemon.ask("GET", "/v1/history?limit=100")[1]["actions"] if one["what"] == what]


def teams(daemon: Daemon) -> float:
    """Return the share of right answers to texts about the things that the desk does not know."""
    daemon.settled()
    asked = routed([8, 9], "nobody", known=range(0, len(ALL), 4))
    answers = daemon.predict(*[one["text"] for one in asked])["predictions"]
    return sum(one["label"] == said["label"] for one, said in zip(asked, answers, strict=True)) / len(asked)


def test_weak_labels_wait_are_admitted_when_they_help_the_holdout_and_can_be_withdrawn(make: Make) -> None:
    daemon = make(ON.format(every=0)).start()
    daemon.teach(desk())
    before, judged = teams(daemon), daemon.domain()["answered_and_labelled"]
    for source, shift in (("rules", 0), ("chance", 1)):
        done = daemon.teach(routed([1, 2, 3], source, shift))
        assert (done["held"], done["accepted"]) == (120, 120)
    both = {"weak:rules": 120, "weak:chance": 120}
    until(lambda: daemon.domain()["weak"]["waiting"] == both, "they wait")
    assert teams(daemon) == before and daemon.post("text/resume", {})["learned"] == 0  # a general resume is not theirs
    assert daemon.restart().post("text/replay", {"since": 0})["relearned"] == 0

    verdict = daemon.post("text/adapt", {"weak": True, "wait": True})
    [admitted], others = lines(daemon, "weak-admitted"), [*lines(daemon, "weak-rejected"), *lines(daemon, "weak-undecided")]
    assert (verdict["verdict"], admitted["detail"]["source"], admitted["after"]) == ("promote", "weak:rules", verdict["version"])
    assert [one["detail"]["source"] for one in others] == ["weak:chance"]
    assert (alive(daemon, "weak:rules"), alive(daemon, "weak:chance")) == (120, 0) and teams(daemon) > before + 0.3
    assert daemon.rows("SELECT count(*) FROM learned WHERE holdout = 1 AND source <> 'desk'") == [(0,)]
    status = daemon.restart().domain()
    assert status["weak"]["waiting"] == {"weak:chance": 120} and status["answered_and_labelled"] == judged
    assert alive(daemon, "weak:rules") == 120
    again = daemon.post("text/adapt", {"weak": True, "wait": True})  # nothing new: no second try
    assert "no label came since" in again["reasons"][0] and "120 weak labels of weak:chance wait" in daemon.cli("status")

    daemon.teach([{"text": "who asked about the blue suitcase?", "label": "blue", "source": "desk"}])
    said = daemon.cli("rollback", "--to", str(admitted["before"]), "--and-replay", "--except-source", "weak:rules")
    assert "1" in said and alive(daemon, "weak:rules") == 0 and alive(daemon, "desk") == 31
    assert daemon.ask("POST", "/v1/text/adapt", {"weak": True})[0] == 409  # a rollback puts learning on hold
    daemon.post("text/resume", {})
    daemon.teach(routed([4], "rules"))
    daemon.post("text/adapt", {"weak": True, "wait": True})  # the source was excepted, and is on hold itself
    assert alive(daemon, "weak:rules") == 0 and teams(daemon) < before + 0.3


def test_one_step_back_takes_an_admission_back(make: Make) -> None:
    daemon = make(ON.format(every=0)).start()
    daemon.teach(desk())
    before = daemon.scores(["is there any news of the piano lesson"])
    daemon.teach(routed([1, 2, 3], "rules"))
    assert daemon.post("text/adapt", {"weak": True, "wait": True})["verdict"] == "promote"
    daemon.post("text/rollback", {"reason": "the rules were wrong"})
    assert alive(daemon, "weak:rules") == 0 and daemon.scores(["is there any news of the piano lesson"]) == before


def test_a_label_that_is_not_weak_takes_the_place_of_one_that_is_even_if_it_says_the_same(make: Make) -> None:
    daemon = make(ON.format(every=0)).start()
    waits, waits_too = daemon.teach(routed([0], "rules")[:2])["events"]
    told, told_too = (one["label"] for one in routed([0], "rules")[:2])
    daemon.post("text/feedback", [{"event": waits, "label": told, "teacher": "ana"}], 202)
    assert alive(daemon, "ana") == 1 and daemon.post("text/resume", {"source": "weak:rules"})["learned"] == 1
    assert alive(daemon, "weak:rules") == 1  # the other one; what ana said is not overruled by what waited
    daemon.post("text/feedback", [{"event": waits_too, "label": told_too, "teacher": "ana"}], 202)
    assert (alive(daemon, "ana"), alive(daemon, "weak:rules")) == (2, 0)
    assert daemon.post("text/feedback", [{"event": waits, "label": "black", "teacher": "rules"}], 202)["held"] == 1
    assert daemon.post("text/resume", {"source": "weak:rules"})["learned"] == 0 and alive(daemon, "ana") == 2


def test_a_trial_starts_by_itself_after_enough_labels(make: Make) -> None:
    daemon = make(ON.format(every=140)).start()
    daemon.teach([*desk(), *routed([1, 2, 3], "rules")])
    until(lambda: lines(daemon, "weak-admitted"), "it was tried by the clock")
    assert alive(daemon, "weak:rules") == 120


def test_labels_are_proposed_marked_never_for_what_judges_and_withdrawn(make: Make) -> None:
    daemon = make(ON.format(every=0)).start()
    topics = list(SUBJECTS)
    daemon.teach(lesson(topics, 40, source="desk"))
    asked = [text for topic in topics for text in texts(topic)[40:]]
    daemon.predict(*asked)
    verdict = json.loads(daemon.cli("adapt", "--pseudo", "--wait", "--json"))
    marked = daemon.rows("SELECT source, label, event FROM label WHERE source LIKE 'pseudo:%'")
    print(verdict["reasons"], len(marked))
    assert len(marked) > 0.25 * len(asked) and {source for source, *_ in marked} == {"pseudo:1"}
    held = {event for event, in daemon.rows("SELECT event FROM learned WHERE holdout = 1")}
    assert held and not held & {event for *_, event in marked}
    assert daemon.client.call("GET", "/v1/text/review?n=500")["pool"] == len(asked)  # people are still asked about them
    if verdict["verdict"] != "promote":
        assert daemon.restart().domain()["weak"]["waiting"] == {"pseudo:1": len(marked)}
        assert daemon.post("text/resume", {"source": "pseudo:1"})["learned"] == len(marked)
    assert alive(daemon, "pseudo:1") == len(marked)
    daemon.post("text/rollback", {"to": 1, "and_replay": True, "except_sources": ["pseudo:1"]})
    assert (alive(daemon, "pseudo:1"), alive(daemon, "desk")) == (0, 320)
    daemon.post("text/resume", {})
    status, refused = daemon.ask("POST", "/v1/text/adapt", {"pseudo": True})  # whatever version would propose now
    assert status == 409 and "pseudo:1 is on hold" in refused["error"]["message"]
    assert daemon.rows("SELECT DISTINCT source FROM label WHERE source LIKE 'pseudo:%'") == [("pseudo:1",)]


def test_the_page_is_as_it_is(make: Make) -> None:
    """The page's settings are taken, and its commands run in its order; a number stands for a version that there is."""
    settings, *commands = re.findall(r"```(?:toml|console)\n(.*?)```", PAGE, re.DOTALL)
    daemon = make("[adapt]\nevery_labels = 0\n[http]\nport = 0\n" + settings).start()
    guesses = daemon.folder / "guesses.jsonl"
    guesses.write_text("\n".join(json.dumps(one) for one in routed([1], "rules")))
    daemon.teach(desk())
    for line in "".join(commands).splitlines():
        words = shlex.split(line.partition("#")[0].replace("guesses.jsonl", str(guesses)).replace("--to 7", "--to 1"))
        assert words[:2] == ["$", "adaptd"]
        if "weak:rules" in words:
            daemon.post("text/snapshot", {})
        daemon.cli(*words[2:])
    assert daemon.rows("SELECT count(*) FROM label WHERE source = 'weak:rules' AND held = 3") == [(len(ALL),)]  # dropped at last


def test_what_does_not_go_together_is_refused(make: Make) -> None:
    daemon = make(ON.format(every=0)).start()
    assert daemon.ask("POST", "/v1/text/adapt", {"weak": True, "consolidate": True})[0] == 422
    assert daemon.post("text/adapt", {"weak": True, "wait": True})["reasons"] == ["no weak label waits"]
