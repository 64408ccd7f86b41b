"""Rollback to a moment on a real daemon: what was live between two versions answers again, and the way back stays open."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.acceptance.daemon import ADAPTING, SUBJECTS, Daemon, Json, lesson, texts, until
from tests.acceptance.test_rollback import ASKED, labels

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
Scores = Sequence[tuple[str, Mapping[str, float]]]
NEAR = 1e-4  # the ridge is solved anew: other last bits


def now() -> float:
    """Return a moment that lies between what came before this call and what comes after it."""
    moment = time.time()
    until(lambda: time.time() > moment + 0.01, "the clock goes on", every_s=0.005)
    return moment


def distance(one: Scores, other: Scores) -> float:
    """Return the largest difference of a score; the labels must be equal."""
    assert [label for label, _ in one] == [label for label, _ in other]
    assert [set(scores) for _, scores in one] == [set(scores) for _, scores in other]
    return max(abs(scores[label] - also[label]) for (_, scores), (_, also) in zip(one, other, strict=True) for label in scores)


def judged(daemon: Daemon, domain: str) -> tuple[Any, Any, Any]:
    """Return what the daemon knows of its answers: how many were judged, how many of them were right, how sure they were."""
    found = daemon.domain(domain)
    return found["answered_and_labelled"], found["accuracy"]["prequential"], found["calibration"]


def answer_and_correct(daemon: Daemon, domain: str, label: str, places: Sequence[int]) -> None:
    """Let texts be answered and then labelled, which counts towards prequential accuracy."""
    for place in places:
        event = daemon.predict(texts(label)[place], domain=domain)["predictions"][0]["event"]
        daemon.post(f"{domain}/feedback", {"event": event, "label": label}, 202)


def refused(daemon: Daemon, domain: str, field: str, status: int, message: str, body: Json, verb: str = "rollback") -> None:
    """Check that a request is refused with field and cure, and that nothing has changed."""
    before = daemon.domain(domain)
    answered, document = daemon.ask("POST", f"/v1/{domain}/{verb}", body)
    found: Json = document["error"]
    assert (answered, found["field"]) == (status, field) and message in found["message"] and found["hint"], document
    after = daemon.domain(domain)
    assert [after[key] for key in ("version", "held", "memory")] == [before[key] for key in ("version", "held", "memory")]


def test_a_moment_between_two_versions_answers_as_it_did_then(shared: Daemon, domain: str) -> None:
    taught = shared.teach(lesson(["card", "weather", "music"], 25), domain)["events"]
    shared.post(f"{domain}/snapshot", {"reason": "earlier"})
    shared.teach(lesson(["card", "weather", "music"], 40)[75:], domain)
    answer_and_correct(shared, domain, "music", [41, 42])
    answer_and_correct(shared, domain, "card", [43])
    then, known, counted = shared.scores(ASKED, domain), labels(shared, domain), judged(shared, domain)
    before, moment = shared.domain(domain), now()

    shared.teach(lesson(["food"], 25), domain)
    shared.post(f"{domain}/feedback", [{"event": event, "label": "sport"} for event in taught[::3]], 202)
    shared.post(f"{domain}/snapshot", {"reason": "later"})
    shared.teach(lesson(["travel"], 5), domain)
    later, state = shared.scores(ASKED, domain), labels(shared, domain)
    assert [label for label, _ in later] != [label for label, _ in then]

    done = shared.post(f"{domain}/rollback", {"at": moment, "reason": "poison since two"})
    found = shared.domain(domain)
    back = shared.scores(ASKED, domain)
    print(f"scores differ by {distance(back, then):.2e}")
    assert distance(back, then) < NEAR
    assert (labels(shared, domain), found["memory"], found["version"]) == (known, before["memory"], done["version"])
    assert judged(shared, domain) == counted and counted[0] == 3
    assert found["held"] == [""] and found["parent"] == before["version"]
    row = next(v for v in shared.ask("GET", f"/v1/{domain}/versions")[1]["versions"] if v["version"] == done["version"])
    assert (row["kind"], row["parent"]) == ("moment", before["version"]) and row["reason"].startswith("as of 20")

    shown = json.loads(shared.cli("show", str(done["version"]), "--domain", domain, "--json"))
    assert (shown["kind"], shown["memory"], set(shown["heads"]["label"])) == ("moment", before["memory"], known)
    assert [one["what"] for one in shown["history"]] == ["rollback"] and shown["metrics"]["moment"]["behind"] == 48
    differ = json.loads(shared.cli("diff", str(done["version"]), str(done["saved"]), "--domain", domain, "--json"))
    assert differ["labels"] == {"added": {"label": ["food", "sport", "travel"]}, "removed": {}}
    assert differ["rows"]["added"] == {"label": {"food": 25, "sport": 25, "travel": 5}}
    assert sum(differ["rows"]["removed"]["label"].values()) == 25 and differ["rows"]["kept"] == before["memory"] - 25
    assert differ["metrics"]["memory"] == [before["memory"], before["memory"] + 30]

    assert shared.post(f"{domain}/rollback", {"to": done["saved"]})["version"] == done["saved"]
    assert (shared.scores(ASKED, domain), labels(shared, domain)) == (later, state)
    shared.post(f"{domain}/rollback", {"to": done["version"]})
    assert distance(shared.scores(ASKED, domain), back) < 1e-5


def test_a_moment_at_which_nothing_had_come_since_a_version_is_that_version(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather"], 25), domain)
    version = shared.post(f"{domain}/snapshot")["version"]
    then = shared.scores(ASKED, domain)
    moment = now()
    shared.teach(lesson(["music"], 25), domain)
    done = shared.post(f"{domain}/rollback", {"at": moment})
    assert done["version"] != version and shared.scores(ASKED, domain) == then
    shared.post(f"{domain}/rollback", {"to": version})
    assert shared.scores(ASKED, domain) == then


def test_a_moment_on_a_discarded_branch_comes_back(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather"], 25), domain)
    first = shared.post(f"{domain}/snapshot")["version"]
    shared.teach(lesson(["music"], 22), domain)
    then, moment = shared.scores(ASKED, domain), now()
    shared.teach(lesson(["sport"], 3), domain)
    shared.post(f"{domain}/rollback", {"to": first})
    shared.post(f"{domain}/resume")
    shared.teach(lesson(["food"], 22), domain)
    other, between = shared.scores(ASKED, domain), now()
    shared.teach(lesson(["garden"], 3), domain)

    shared.post(f"{domain}/rollback", {"at": moment})
    assert labels(shared, domain) == {"card", "weather", "music"}
    assert distance(shared.scores(ASKED, domain), then) < NEAR
    shared.post(f"{domain}/rollback", {"at": between})
    assert labels(shared, domain) == {"card", "weather", "food"}
    assert distance(shared.scores(ASKED, domain), other) < NEAR
    shared.post(f"{domain}/resume")
    shared.teach(lesson(["travel"], 3), domain)
    assert shared.predict(texts("travel")[0], domain=domain)["predictions"][0]["label"] == "travel"


def test_a_moment_survives_kills_and_comes_back_on_a_stopped_store(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music"], 25))
    version = daemon.post("text/snapshot")["version"]
    for one in lesson(["card", "weather", "music"], 30)[75:]:  # one by one: a start would learn them together
        daemon.teach([one])
    then, moment = daemon.scores(ASKED), now()
    daemon.kill()
    assert distance(daemon.start().scores(ASKED), then) < NEAR  # what they told is kept
    daemon.teach(lesson(["food"], 25))
    later = daemon.scores(ASKED)
    done = daemon.post("text/rollback", {"at": moment})
    back = daemon.scores(ASKED)
    daemon.kill()  # no checkpoint: from the version and the rows
    assert distance(daemon.start().scores(ASKED), back) < 1e-5
    daemon.post("text/rollback", {"to": done["saved"]})
    assert daemon.stop() == 0

    stopped = json.loads(daemon.cli("rollback", "--at", f"{moment:.3f}", "--reason", "poison", "--json"))
    assert stopped["version"] > done["version"]
    daemon.start()
    found = daemon.domain()
    assert (found["version"], found["parent"], found["held"], found["memory"]) == (stopped["version"], version, [""], 90)
    assert distance(daemon.scores(ASKED), back) < 1e-5 and distance(back, then) < NEAR
    daemon.post("text/rollback", {"to": stopped["saved"]})
    assert daemon.scores(ASKED) == later


def test_no_moment_or_one_before_everything_is_refused_and_changes_nothing(shared: Daemon, domain: str) -> None:
    refused(shared, domain, "at", 404, "no event has come yet", {"at": 0})
    shared.teach(lesson(["card"], 1), domain)
    for at, status, message in [
            ("2026-05-04T14:05:00", 422, "no zone"), ("yesterday", 422, "not ISO 8601"), (4e9, 422, "future"),
            (1.7e12, 422, "future"), (0, 404, "first event came at"), ("2001-01-01T00:00:00Z", 404, "first event came at"),
            (True, 422, "bool")]:
        refused(shared, domain, "at", status, message, {"at": at})


@pytest.mark.slow
def test_a_moment_answers_with_the_adapter_that_was_live_then(make: Make) -> None:
    daemon = make(ADAPTING).start()
    topics = list(SUBJECTS)
    daemon.teach(lesson(topics, 40))
    plain, before = daemon.scores(ASKED), now()
    candidate = daemon.post("text/adapt", {"wait": True})
    if candidate["verdict"] != "promote":
        daemon.post("text/promote", {"to": candidate["version"], "force": True, "reason": "known"})
    adapted, after = daemon.scores(ASKED), now()
    daemon.teach(lesson(topics, 43)[320:])
    further, later = daemon.scores(ASKED), now()
    daemon.teach([{**one, "label": "spam"} for one in lesson(["sport"], 25)])
    assert plain != adapted != further

    first = daemon.post("text/rollback", {"at": after})
    assert daemon.scores(ASKED) == adapted and daemon.domain()["parent"] == candidate["version"]
    daemon.post("text/rollback", {"at": before})
    assert daemon.scores(ASKED) == plain  # what was saved before the promotion had learned the same
    daemon.post("text/rollback", {"at": later})
    assert distance(daemon.scores(ASKED), further) < NEAR and daemon.domain()["memory"] == 344
    daemon.post("text/rollback", {"to": first["version"]})
    assert daemon.scores(ASKED) == adapted
