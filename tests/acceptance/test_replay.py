"""Replay on a real daemon: after a rollback the good labels are learned again and the bad ones stay out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from tests.acceptance.daemon import Daemon, Json, lesson, texts
from tests.acceptance.test_moments import now, refused
from tests.acceptance.test_rollback import labels

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
GOOD, WRONG = ["card", "weather", "music", "food"], {"card": "weather", "weather": "music", "music": "food", "food": "card"}


def counts(daemon: Daemon, domain: str) -> Json:
    """Return how many rows each label has in memory."""
    heads: Json = daemon.ask("GET", f"/v1/{domain}/memory")[1]["heads"]
    return dict(heads["label"]["labels"])


def accuracy(daemon: Daemon, domain: str) -> float:
    """Return the share of texts, none of them taught, that are answered rightly."""
    daemon.settled(domain)
    asked = [(text, label) for label in GOOD for text in texts(label)[40:]]
    answers = daemon.predict(*(text for text, _ in asked), domain=domain)["predictions"]
    return sum(answer["label"] == label for answer, (_, label) in zip(answers, asked, strict=True)) / len(asked)


def poison(each: int) -> list[Json]:
    """Return events with wrong labels, as an intern gives them."""
    return [{"text": text, "label": WRONG[label], "source": "intern"} for label in GOOD for text in texts(label)[:each]]


def mixed(good: Sequence[Json], bad: Sequence[Json]) -> list[Json]:
    """Put bad events between good ones."""
    turns = max(len(good), len(bad))
    return [one for place in range(turns) for stream in (good, bad) for one in stream[place:place + 1]]


def test_after_poison_the_good_labels_come_back_and_the_bad_ones_stay_out(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(GOOD[:3], 20, source="desk"), domain)
    good_before, moment = accuracy(shared, domain), now()
    after = lesson(["food"], 30, source="desk")
    shared.teach(mixed(after, poison(35)), domain)
    poisoned = accuracy(shared, domain)
    shared.post(f"{domain}/rollback", {"at": moment, "reason": "the intern"})
    assert accuracy(shared, domain) == good_before and "food" not in labels(shared, domain)
    waits = shared.teach([{"text": "a storm is coming", "label": "weather", "source": "desk"},
                          {"text": "the bread is stale", "label": "music", "source": "intern"}], domain)
    assert waits["held"] == 2

    body = {"since": moment, "except_sources": ["intern"], "reason": "the desk was right"}
    assert shared.post(f"{domain}/replay", body) == {"relearned": 31, "skipped": 141}
    assert counts(shared, domain) == {"card": 20, "weather": 21, "music": 20, "food": 30}
    healed = accuracy(shared, domain)
    print(f"accuracy {good_before:.2f}, poisoned {poisoned:.2f}, healed {healed:.2f}")
    assert healed > 0.9 > poisoned + 0.2
    assert shared.domain(domain)["held"] == [""]
    assert shared.post(f"{domain}/replay", body) == {"relearned": 0, "skipped": 141}
    actions = shared.ask("GET", f"/v1/history?domain={domain}")[1]["actions"]
    newest = next(one for one in actions if one["detail"].get("relearned"))
    assert (newest["what"], newest["reason"], newest["detail"]) == (
        "replay", "the desk was right",
        {"since": moment, "except_sources": ["intern"], "except_events": [], "relearned": 31, "skipped": 141})

    shared.post(f"{domain}/hold", {"source": "intern"})
    assert shared.post(f"{domain}/resume")["learned"] == 0  # the intern's label goes on waiting
    assert shared.post(f"{domain}/replay", {"since": moment}) == {"relearned": 0, "skipped": 141}  # a hold of its own binds
    assert shared.post(f"{domain}/resume", {"source": "intern"})["learned"] == 1
    assert shared.post(f"{domain}/replay", {"since": moment})["relearned"] == 140  # nothing was lost


def test_a_moment_and_what_was_good_since_come_back_in_one_command(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(GOOD[:3], 20, source="desk"), domain)
    moment = now()
    shared.teach(mixed(lesson(["food"], 30, source="desk"), poison(35)), domain)
    poisoned = accuracy(shared, domain)
    done = json.loads(shared.cli("rollback", "--domain", domain, "--at", str(moment), "--and-replay", "--except-source", "intern",
                                 "--reason", "the intern", "--json"))
    assert (done["relearned"], done["skipped"]) == (30, 140) and done["saved"]
    assert counts(shared, domain) == {"card": 20, "weather": 20, "music": 20, "food": 30}
    assert accuracy(shared, domain) > 0.9 > poisoned
    assert shared.domain(domain)["held"] == ["", "intern"]
    shared.post(f"{domain}/resume")
    assert shared.teach(poison(1), domain)["held"] == 4
    assert shared.teach([{"text": "a gale", "label": "weather", "source": "desk"}], domain)["held"] == 0
    assert counts(shared, domain)["weather"] == 21
    shared.post(f"{domain}/rollback", {"to": done["saved"]})
    assert accuracy(shared, domain) == poisoned


def test_corrections_are_learned_again_in_their_order_but_for_excepted_events(shared: Daemon, domain: str) -> None:
    taught = shared.teach(lesson(["card"], 10), domain)["events"]
    version = shared.post(f"{domain}/snapshot")["version"]
    since = shared.status()["seq"]
    for event, label in ((0, "sport"), (1, "sport"), (1, "food"), (2, "garden"), (2, "card")):
        shared.post(f"{domain}/feedback", {"event": taught[event], "label": label}, 202)
    shared.post(f"{domain}/rollback", {"to": version})
    out = {"since": since, "except_events": [taught[0]]}
    assert shared.post(f"{domain}/replay", out) == {"relearned": 4, "skipped": 1}
    assert counts(shared, domain) == {"card": 9, "food": 1}
    assert shared.post(f"{domain}/replay", out) == {"relearned": 0, "skipped": 1}
    assert shared.post(f"{domain}/replay", {"since": since}) == {"relearned": 1, "skipped": 0}
    assert counts(shared, domain) == {"card": 8, "food": 1, "sport": 1}
    assert shared.post(f"{domain}/replay", {"since": 0}) == {"relearned": 0, "skipped": 0}


def test_a_later_label_is_not_overruled_by_one_that_waited(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather"], 3), domain)
    shared.post(f"{domain}/hold")
    [event] = shared.teach([{"text": "is it going to hail?", "label": "card", "source": "intern", "id": "1"}], domain)["events"]
    shared.post(f"{domain}/feedback", {"event": event, "label": "weather"}, 202)
    body = {"since": 0, "except_sources": ["intern"]}
    assert shared.post(f"{domain}/replay", body) == {"relearned": 1, "skipped": 1}
    assert shared.post(f"{domain}/replay", body) == {"relearned": 0, "skipped": 0}
    assert shared.post(f"{domain}/resume")["learned"] == 0
    assert counts(shared, domain) == {"card": 3, "weather": 4}


def test_what_cannot_be_replayed_is_refused_before_anything_changes(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card"], 2), domain)
    refused(shared, domain, "since", 422, "not been given yet", {"since": 10**9}, "replay")
    refused(shared, domain, "since", 422, "no zone", {"since": "2026-05-04T14:05:00"}, "replay")
    refused(shared, domain, "except_events", 404, "no event", {"since": 0, "except_events": ["1-x"]}, "replay")
    refused(shared, domain, "except_sources", 404, "came from", {"since": 0, "except_sources": ["nobody"]}, "replay")
    refused(shared, domain, "except_sources", 404, "came from", {"and_replay": True, "except_sources": ["nobody"]})
