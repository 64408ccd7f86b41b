"""`adaptd explain` on a real daemon: which version answered, and a counterfactual that a forget makes true."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.daemon import Daemon, lesson, until

pytestmark = pytest.mark.acceptance
ASKED = "was my card lost in the storm?"


def test_what_is_said_to_flip_the_answer_does(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card"], 3, source="intern"), domain)
    shared.teach(lesson(["weather"], 8, source="crm"), domain)
    told = shared.predict(ASKED, domain=domain)["predictions"][0]
    until(lambda: shared.ask("GET", f"/v1/{domain}/explain/{told['event']}")[1]["answers"], "the answer is recorded")

    document = json.loads(shared.cli("explain", told["event"], "--counterfactual", "--domain", domain, "--json"))
    found = document["counterfactual"]["label"]
    assert document["live_then"] == document["answers"][0]["version"] == document["now"]["version"]
    assert found["answer"] == told["label"] == document["now"]["label"] and found["records"]
    assert found["words"] in shared.cli("explain", told["event"], "--counterfactual", "--domain", domain)
    assert shared.predict(ASKED, domain=domain)["predictions"][0]["label"] == told["label"]

    for record in found["records"]:
        shared.post(f"{domain}/forget", {"event": record["event"]})
    [(label, scores)] = shared.scores([ASKED], domain)
    assert label == found["becomes"] != told["label"]
    assert max(scores.values()) == pytest.approx(found["confidence"], abs=1e-4)


def test_a_question_about_an_event_that_is_not_there_is_refused(shared: Daemon, domain: str) -> None:
    status, document = shared.ask("GET", f"/v1/{domain}/explain/nothing?counterfactual=true")
    assert (status, document["error"]["field"]) == (404, "event")
    status, document = shared.ask("GET", f"/v1/{domain}/explain/nothing?counterfactual=perhaps")
    assert (status, document["error"]["field"]) == (422, "counterfactual")
