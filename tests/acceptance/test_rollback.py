"""Snapshot and rollback on a real daemon: weights, memory and labels move together, and back again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album", "a recipe for apple pie",
         "when does my flight leave?")


def labels(daemon: Daemon, domain: str) -> set[str]:
    """Return the labels that are remembered."""
    heads: Json = daemon.ask("GET", f"/v1/{domain}/memory")[1]["heads"]
    return set(heads["label"]["labels"])


def test_a_rollback_gives_back_answers_to_the_bit_with_memory_and_labels(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather", "music"], 12), domain)
    old = shared.post(f"{domain}/snapshot", {"reason": "before food"})["version"]
    then, memory = shared.scores(ASKED, domain), shared.domain(domain)["memory"]
    shared.teach(lesson(["card", "food", "travel"], 25), domain)
    later, version = shared.scores(ASKED, domain), shared.domain(domain)["version"]
    assert later != then and labels(shared, domain) == {"card", "weather", "music", "food", "travel"}

    began = time.monotonic()
    done = shared.post(f"{domain}/rollback", {"to": old, "reason": "wrong labels"})
    print(f"rollback took {time.monotonic() - began:.3f} s")
    assert done["version"] == old and done["saved"] > version
    assert shared.scores(ASKED, domain) == then
    found = shared.domain(domain)
    assert (found["version"], found["memory"], found["labels"]) == (old, memory, 3)
    assert labels(shared, domain) == {"card", "weather", "music"}
    assert found["held"] == [""]

    assert shared.post(f"{domain}/rollback", {"to": done["saved"]})["version"] == done["saved"]
    assert shared.scores(ASKED, domain) == later
    assert labels(shared, domain) == {"card", "weather", "music", "food", "travel"}


def test_versions_and_history_tell_what_happened(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "music"], 3), domain)
    first = shared.post(f"{domain}/snapshot", {"reason": "one"})["version"]
    saved = shared.post(f"{domain}/rollback", {"to": first, "reason": "try"})["saved"]
    document = shared.ask("GET", f"/v1/{domain}/versions")[1]
    by_number = {version["version"]: version for version in document["versions"]}
    assert document["live"] == first and by_number[first]["live"] and not by_number[saved]["live"]
    assert by_number[saved]["kind"] == "saved" and by_number[first]["reason"] == "one"
    actions = shared.ask("GET", f"/v1/history?domain={domain}")[1]["actions"]
    newest = next(one for one in actions if one["what"] == "rollback")
    assert (newest["after"], newest["detail"], newest["reason"]) == (first, {"saved": saved}, "try")


def test_after_a_rollback_labels_wait_until_resume(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "music"], 5), domain)
    version = shared.post(f"{domain}/snapshot")["version"]
    shared.teach(lesson(["food"], 5), domain)
    shared.post(f"{domain}/rollback", {"to": version})
    before = shared.scores(ASKED, domain)
    done = shared.post(f"{domain}/events", lesson(["travel", "food"], 4, prefix="held"), 202)
    assert (done["accepted"], done["held"]) == (8, 8)
    assert shared.scores(ASKED, domain) == before
    assert shared.post(f"{domain}/resume")["learned"] == 8
    assert labels(shared, domain) == {"card", "music", "travel", "food"}
    assert shared.predict(texts("travel")[0], domain=domain)["predictions"][0]["label"] == "travel"
    again = shared.post(f"{domain}/events", lesson(["travel", "food"], 4, prefix="held"), 202)
    assert (again["duplicates"], again["held"], shared.domain(domain)["memory"]) == (8, 0, 18)


def test_what_was_learned_after_a_rollback_can_be_rolled_back_again_over_hidden_labels(shared: Daemon, domain: str) -> None:
    """Labels that a rollback hides come back in another order: every state has its own, and none mixes."""
    states: dict[int, tuple[Any, set[str]]] = {}

    def keep() -> int:
        version: int = shared.post(f"{domain}/snapshot")["version"]
        states[version] = shared.scores(ASKED, domain), labels(shared, domain)
        return version

    shared.teach(lesson(["card", "weather"], 8), domain)
    first = keep()
    shared.teach(lesson(["music", "food"], 8), domain)
    keep()
    shared.post(f"{domain}/rollback", {"to": first})
    shared.post(f"{domain}/resume")
    shared.teach(lesson(["travel", "food"], 25), domain)  # food is known to dead rows, travel is new
    third = keep()
    shared.teach(lesson(["music"], 9), domain)
    keep()
    for version in [*states, *reversed(states), third, first]:
        shared.post(f"{domain}/rollback", {"to": version})
        assert (shared.scores(ASKED, domain), labels(shared, domain)) == states[version], version


def test_a_rollback_to_the_empty_first_version_learns_anew(shared: Daemon, domain: str) -> None:
    first = shared.domain(domain)["version"]
    shared.teach(lesson(["card", "weather", "music"], 25), domain)
    later = shared.scores(ASKED, domain)
    saved = shared.post(f"{domain}/rollback", {"to": first})["saved"]
    assert [label for label, _ in shared.scores(ASKED, domain)] == [None] * len(ASKED)
    assert shared.domain(domain)["memory"] == 0
    shared.post(f"{domain}/resume")
    shared.teach(lesson(["food"], 1), domain)
    assert {label for label, _ in shared.scores(ASKED, domain)} == {"food"}
    shared.teach(lesson(["weather"], 25), domain)
    assert shared.predict(texts("weather")[30], domain=domain)["predictions"][0]["label"] == "weather"
    shared.post(f"{domain}/rollback", {"to": saved})
    assert shared.scores(ASKED, domain) == later


def test_without_to_one_step_back(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "music"], 4), domain)
    first = shared.post(f"{domain}/snapshot")["version"]
    shared.teach(lesson(["food"], 4), domain)
    assert shared.post(f"{domain}/rollback")["version"] == first  # something was learned since: to the live one
    assert labels(shared, domain) == {"card", "music"}
    again = shared.post(f"{domain}/snapshot")["version"]
    assert again > first and shared.post(f"{domain}/rollback")["version"] == first  # nothing was: to its parent
    oldest = shared.ask("GET", f"/v1/{domain}/versions")[1]["versions"][0]["version"]
    assert shared.post(f"{domain}/rollback")["version"] == oldest
    assert labels(shared, domain) == set()
    status, answer = shared.ask("POST", f"/v1/{domain}/rollback", {})
    assert (status, answer["error"]["code"]) == (404, "not_found") and answer["error"]["hint"]


def test_corrections_are_undone_and_redone(shared: Daemon, domain: str) -> None:
    taught = shared.teach(lesson(["card", "weather"], 10), domain)["events"]
    before = shared.post(f"{domain}/snapshot")["version"]
    then = shared.scores(ASKED, domain)
    shared.post(f"{domain}/feedback", [{"event": event, "label": "sport"} for event in taught[::2]], 202)
    later = shared.scores(ASKED, domain)
    assert labels(shared, domain) == {"sport", "weather"} and shared.domain(domain)["memory"] == 20
    saved = shared.post(f"{domain}/rollback", {"to": before})["saved"]
    assert (shared.scores(ASKED, domain), labels(shared, domain)) == (then, {"card", "weather"})
    shared.post(f"{domain}/rollback", {"to": saved})
    assert (shared.scores(ASKED, domain), labels(shared, domain)) == (later, {"sport", "weather"})


@pytest.mark.parametrize(("body", "status", "field"), [
    ({"to": 99_999}, 404, "to"), ({"to": 0}, 422, "to"), ({"to": "1"}, 422, "to"), ({"to": 1.5}, 422, "to"),
    ({"to": 1, "at": "2026-05-04T14:05:00Z"}, 422, "at"), ({"too": 1}, 422, "too")])
def test_a_rollback_to_nowhere_is_refused_and_changes_nothing(shared: Daemon, body: Json, status: int, field: str) -> None:
    before = shared.domain()
    answered, document = shared.ask("POST", "/v1/text/rollback", body)
    assert (answered, document["error"]["field"]) == (status, field) and document["error"]["hint"]
    after = shared.domain()
    assert (after["version"], after["held"]) == (before["version"], [])


def test_a_version_of_another_domain_is_no_way_back(shared: Daemon, domain: str) -> None:
    other = shared.domain("text")["version"]
    status, document = shared.ask("POST", f"/v1/{domain}/rollback", {"to": other})
    assert (status, document["error"]["code"]) == (404, "not_found")


def test_requests_beside_rollbacks_never_fail_and_each_sees_one_version(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather"], 15), domain)
    old = shared.post(f"{domain}/snapshot")["version"]
    shared.teach(lesson(["music", "food"], 15), domain)
    new = shared.post(f"{domain}/snapshot")["version"]
    known = {old: {"card", "weather"}, new: {"card", "weather", "music", "food"}}
    wrong: list[Any] = []
    seen: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            status, document = shared.ask("POST", f"/v1/{domain}/predict", {"inputs": [
                {"text": texts("music")[1]}, {"text": texts("card")[1]}]})
            version = document.get("version")
            named = set().union(*(one["scores"] for one in document.get("predictions", [])))
            seen.append(version)
            if status != 200 or named != known.get(version):
                wrong.append((status, document))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        for version in [old, new] * 6:
            assert shared.post(f"{domain}/rollback", {"to": version})["version"] == version
            until(lambda: seen[-1:] == [version], "an answer of the new version", every_s=0.005)  # noqa: B023
    finally:
        over.set()
        for thread in asking:
            thread.join(60)
    assert wrong == [] and set(seen) == {old, new}


def test_a_stopped_store_is_rolled_back_by_the_command_line(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music"], 25))
    old = daemon.post("text/snapshot")["version"]
    then = daemon.scores(ASKED)
    daemon.teach(lesson(["food", "card"], 25))
    later = daemon.scores(ASKED)
    assert daemon.stop() == 0
    done = json.loads(daemon.cli("rollback", "--to", str(old), "--reason", "poison", "--json"))
    assert done["version"] == old
    daemon.start()
    found = daemon.domain()
    assert (found["version"], found["held"], found["labels"]) == (old, [""], 3)
    assert daemon.scores(ASKED) == then
    assert daemon.restart().scores(ASKED) == then  # from the checkpoint of the way back
    daemon.post("text/rollback", {"to": done["saved"]})
    assert labels(daemon, "text") == {"card", "weather", "music", "food"}
    assert daemon.scores(ASKED) == later
    daemon.post("text/rollback", {"to": old})
    assert daemon.restart().scores(ASKED) == then  # its checkpoint hides a label
    daemon.post("text/rollback", {"to": done["saved"]})
    daemon.kill()  # no checkpoint: from the version and the rows
    daemon.start()
    assert daemon.scores(ASKED) == later and daemon.domain()["version"] == done["saved"]
