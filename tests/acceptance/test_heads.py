"""Several heads of several kinds in one domain, by configuration alone, on a real daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.daemon import ADAPTING, Daemon, Json, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
HEADS = """
[domains.text.options.heads]
topic = { kind = "classify" }
tags = { kind = "labels" }
urgency = { kind = "ordinal", classes = ["low", "middle", "high"] }
minutes = { kind = "regress", low = 0, high = 60, step = 5 }
"""
SAYS: dict[str, Json] = {
    "card": {"topic": "card", "tags": ["bank", "loss"], "urgency": "high", "minutes": 30},
    "weather": {"topic": "weather", "tags": [], "urgency": "low", "minutes": 5},
    "travel": {"topic": "travel", "tags": ["loss", "trip"], "urgency": "middle", "minutes": 20}}
ASKED = ("where did I put my credit card?", "will it snow in the mountains?", "my flight to Rome")


@pytest.fixture
def several(make: Make) -> Daemon:
    daemon = make(ADAPTING + HEADS).start()
    daemon.teach([{"text": text, "label": label, "id": f"{topic}-{place}"} for place in range(12)
                  for topic, label in SAYS.items() for text in [texts(topic)[place]]])
    daemon.settled()
    return daemon


def answer(daemon: Daemon, text: str, **options: Any) -> Json:
    found: Json = daemon.predict(text, **options)["predictions"][0]
    return found


def test_each_head_answers_in_its_own_kind(several: Daemon) -> None:
    for text, topic in zip(ASKED, SAYS, strict=True):
        said = answer(several, text, explain=True)
        assert said["label"] == SAYS[topic], said
        assert said["heads"].keys() == said["scores"].keys() == SAYS[topic].keys()
        assert 0 < said["confidence"] <= min(head["confidence"] for head in said["heads"].values()) + 1e-9
        assert said["heads"]["tags"]["evidence"][0]["label"] == SAYS[topic]["tags"]
    tags = answer(several, "my credit card is lost")["scores"]["tags"]
    assert tags["loss"] >= tags["bank"] > tags["trip"] >= 0, "a score is one label's"
    assert several.domain()["labels"] == 3 + 3 + 3 + 3


def test_feedback_on_some_of_the_heads_leaves_the_others_as_they_were(several: Daemon) -> None:
    said = answer(several, "a stolen visa card, quick")
    several.post("text/feedback", {"event": said["event"], "label": {"urgency": "low"}}, 202)
    several.post("text/feedback", {"event": said["event"], "label": {"urgency": "low"}}, 202)
    heads = several.ask("GET", "/v1/text/memory")[1]["heads"]
    assert [heads[name]["rows"] for name in ("topic", "tags", "urgency", "minutes")] == [36, 36, 37, 36]
    several.cli("feedback", said["event"], '{"tags": ["bank"]}')
    assert several.ask("GET", "/v1/text/memory")[1]["heads"]["tags"]["labels"]['["bank"]'] == 1


def test_status_says_how_good_each_head_is(several: Daemon) -> None:
    said = [answer(several, text) for text in texts("card", 20)[14:]]
    several.post("text/feedback", [{"event": one["event"], "label": SAYS["card"]} for one in said], 202)
    heads = until(lambda: (h := several.domain()["heads"])["topic"]["judged"] == 6 and h, "each is counted")
    assert heads["topic"]["accuracy"] == 1.0 and heads["tags"]["micro_f1"] == heads["tags"]["macro_f1"] == 1.0
    assert heads["urgency"]["mae"] == heads["minutes"]["mae"] == 0.0 and heads["urgency"]["kappa"] == 1.0


def test_a_rollback_a_restart_and_a_forget_are_exact_in_every_head(several: Daemon, make: Make) -> None:
    version = several.post("text/snapshot", {"reason": "before"})["version"]
    before = several.scores(ASKED)
    taught = several.teach([{"text": "my credit card is lost", "label": {"tags": ["strange"], "minutes": 60, "topic": "odd"}}])
    assert several.scores(ASKED) != before
    several.restart()
    changed = several.scores(ASKED)
    saved = several.post("text/rollback", {"to": version})["saved"]
    assert several.scores(ASKED) == before
    several.post("text/rollback", {"to": saved})
    several.post("text/resume", {})
    assert several.scores(ASKED) == changed
    said = answer(several, "my credit card is lost again")
    assert "strange" in said["scores"]["tags"]
    until(lambda: several.ask("GET", f"/v1/text/explain/{said['event']}")[1]["answers"], "the answer is recorded")
    several.post("text/forget", {"event": taught["events"][0]})
    held = [row for row in several.rows("SELECT labels FROM prediction") if "strange" in row[0]]
    assert not held, "no answer names what nobody teaches any more"
    [(label, scores)] = several.scores(ASKED[:1])
    assert (label, scores.keys()) == (before[0][0], before[0][1].keys())
    assert all(scores[head] == pytest.approx(before[0][1][head], abs=1e-6) for head in scores)


def test_explain_names_what_flips_a_set_and_a_number(several: Daemon) -> None:
    said = answer(several, ASKED[0])
    until(lambda: several.ask("GET", f"/v1/text/explain/{said['event']}")[1]["answers"], "the answer is recorded")
    told = json.loads(several.cli("explain", said["event"], "--counterfactual", "--json"))
    assert told["answers"][0]["labels"] == told["now"]["label"] == SAYS["card"]
    assert {name: one["answer"] for name, one in told["counterfactual"].items()} == SAYS["card"]


@pytest.mark.parametrize(("label", "field"), [
    ({"tags": "bank"}, "label.tags"), ({"tags": ["bank", ""]}, "label.tags[1]"), ({"urgency": "huge"}, "label.urgency"),
    ({"minutes": 61}, "label.minutes"), ({"minutes": "soon"}, "label.minutes"), ({"minutes": True}, "label.minutes"),
    ({"mood": "good"}, "label"), ({}, "label"), ("card", "label"), ({"tags": ["x"] * 33}, "label.tags")])
def test_a_label_that_a_head_does_not_take_is_refused_with_the_cure(several: Daemon, label: Any, field: str) -> None:
    _, document = several.ask("POST", "/v1/text/events", [{"text": "my card", "label": label}])
    error = document["rejected"][0]["error"] if "rejected" in document else document["error"]
    assert (error["code"], error["field"]) == ("bad_payload", field) and error["hint"]


def test_an_adaptation_judges_each_head_by_itself(make: Make) -> None:
    daemon = make(ADAPTING.replace("[adapt]", "[holdout]\nafter = 5\nshare = 0.5\n[gate]\noptions = { min_rows = 10 }\n"
                                              "[adapt]\nmin_labels = 40") + HEADS).start()
    daemon.teach([{"text": text, "label": {name: label[name] for name in ("tags", "urgency")}}
                  for topic, label in SAYS.items() for text in texts(topic, 40)])
    daemon.post("text/adapt", {"wait": False})
    told = until(lambda: daemon.domain()["last_verdict"], "it is judged", 300.0)
    assert {reason.partition(":")[0] for reason in told["reasons"]} == {"tags", "urgency"}, told
    assert answer(daemon, ASKED[0])["label"]["tags"] == SAYS["card"]["tags"]
