"""Words that are tagged, through a real daemon: taught, answered, corrected, rolled back, forgotten, restarted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from adaptd.words import MOST
from tests.acceptance.daemon import Daemon, until

pytestmark = pytest.mark.acceptance
CONFIG = """
[plugins]
allow = ["adaptd-entities"]
[encoders.words]
kind = "words"
[domains.entities]
encoder = "words"
[domains.entities.memory]
per_class = 30
[adapt]
every_labels = 0
options = { steps = 16 }
[http]
port = 0
"""
PEOPLE = ("Ada Chang", "Omar Sharif", "Maria Gomez", "Paul Weber", "Nina Patel", "John Keller")
CITIES = ("Wellington", "Nairobi", "Lisbon", "New York", "Oslo", "Lima")
PATTERNS = ("{} moved to {} last year.", "Yesterday {} flew from {} with a friend.", "{} likes the old town of {}.")
Json = dict[str, Any]


def tagged(pattern: str, person: str, city: str) -> Json:
    text = pattern.format(person, city)
    return {"text": text, "label": [span(text, person, "person"), span(text, city, "city")]}


def span(text: str, part: str, kind: str) -> Json:
    return {"start": text.index(part), "end": text.index(part) + len(part), "type": kind}


LESSONS = [tagged(pattern, person, city) for pattern in PATTERNS for person, city in zip(PEOPLE, CITIES, strict=True)]
ASKED = "Omar Keller moved to Nairobi last week."


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as made:
        yield made.start()


def asked(daemon: Daemon, text: str, **more: Any) -> Json:
    answer: Json = daemon.post("entities/predict", {"inputs": [{"text": text}], **more})["predictions"][0]
    return answer


def found(answer: Json) -> list[tuple[str, str]]:
    return [(one["text"], one["type"]) for one in answer["label"]]


def test_spans_are_learned_at_once_and_a_new_type_with_them(daemon: Daemon) -> None:
    assert asked(daemon, ASKED)["label"] is None
    daemon.teach(LESSONS, "entities")
    answer = asked(daemon, ASKED, explain=True)
    assert found(answer) == [("Omar Keller", "person"), ("Nairobi", "city")]
    assert [(one["start"], one["end"], one["words"]) for one in answer["label"]] == [(0, 11, [0, 2]), (21, 28, [4, 5])]
    assert all(0 < one["confidence"] <= 1 for one in answer["label"]) and "[" in answer["evidence"][0]["text"]
    fruits = ("mango", "papaya", "lychee", "guava")
    daemon.teach([{"text": f"We ate a {fruit} at noon.", "label": [span(f"We ate a {fruit} at noon.", fruit, "fruit")]}
                  for fruit in fruits], "entities")
    assert found(asked(daemon, "We ate a mango at night.")) == [("mango", "fruit")]
    assert found(asked(daemon, ASKED)) == [("Omar Keller", "person"), ("Nairobi", "city")]
    assert daemon.status()["domains"]["entities"]["labels"] == 3


def test_a_correction_takes_the_place_of_every_word_and_the_same_again_is_nothing_new(daemon: Daemon) -> None:
    daemon.teach(LESSONS, "entities")
    text = "Yesterday Rio Tinto flew from Oslo with a friend."
    wrong = [span(text, "Rio", "city"), span(text, "Oslo", "city")]
    event = daemon.teach([{"text": text, "label": wrong}], "entities")["events"][0]
    right = [span(text, "Rio Tinto", "person"), span(text, "Oslo", "city")]
    seq = daemon.post("entities/feedback", {"event": event, "label": right}, 202)["seq"]
    rows = daemon.rows("SELECT l.part, l.target FROM learned l JOIN event e ON e.seq = l.event WHERE e.id = ? AND l.id NOT IN"
                       " (SELECT row FROM death) AND l.target <> 'O' ORDER BY part", event)
    assert [tuple(row) for row in rows] == [(1, "B-person"), (2, "I-person"), (5, "B-city")]
    assert found(asked(daemon, text, min_seq=seq)) == [("Rio Tinto", "person"), ("Oslo", "city")]
    assert daemon.post("entities/feedback", {"event": event, "label": right}, 202)["duplicates"] == 1
    answer = asked(daemon, text)
    assert daemon.post("entities/feedback", {"event": answer["event"], "label": answer["label"]}, 202)["accepted"] == 1
    told = daemon.cli("explain", event, "--counterfactual", "--json")
    assert "Rio Tinto" in told and "what would flip a span is not searched for" in told
    daemon.cli("explain", event)
    daemon.cli("predict", ASKED)
    assert daemon.ask("GET", "/v1/entities/review?n=3")[0] == 422
    scores = until(lambda: (head := daemon.domain("entities")["heads"]["entities"])["judged"] and head, "it is counted")
    assert scores["kind"] == "spans" and 0 <= scores["f1"] <= 1 and set(scores["types"]) >= {"city", "person"}


def test_a_rollback_and_a_forget_take_words_back_and_a_restart_gives_the_same_bits(daemon: Daemon) -> None:
    daemon.teach(LESSONS, "entities")
    before, version = settled(daemon, ASKED), daemon.post("entities/snapshot", {})["version"]
    poison = daemon.teach([{"text": ASKED, "source": "poison", "label": []} for _ in range(30)], "entities")["events"]
    assert settled(daemon, ASKED) != before
    daemon.post("entities/rollback", {"to": version})
    assert settled(daemon, ASKED) == before
    daemon.post("entities/resume", {"what": "learning"})
    secret = "Zyx Qwv met the tokamaks in Lima."
    event = daemon.teach([{"text": secret, "label": [span(secret, "Zyx Qwv", "alias")]}], "entities")["events"][0]
    assert daemon.domain("entities")["labels"] >= 3
    removed = daemon.post("entities/forget", {"event": event, "reason": "asked"})
    assert removed["removed"]["learned"] == removed["removed"]["vector"] == 8 and removed["labels_gone"] == 2, removed
    daemon.post("entities/forget", {"source": "poison", "reason": "poison"})
    assert poison and not daemon.rows("SELECT 1 FROM learned WHERE target LIKE '%alias'")
    after = settled(daemon, ASKED)
    daemon.restart()
    assert settled(daemon, ASKED) == after
    daemon.stop()
    daemon.cli("verify")
    assert found(daemon.start().post("entities/predict", {"inputs": [{"text": ASKED}]})["predictions"][0])


def test_an_adaptation_is_judged_and_a_version_made_again(daemon: Daemon) -> None:
    daemon.teach(LESSONS, "entities")
    assert daemon.domain("entities")["evicted"]
    done = daemon.post("entities/adapt", {"wait": True})
    assert done["verdict"] in ("promote", "reject", "undecided")
    version = daemon.post("entities/snapshot", {})["version"]
    assert "match" in daemon.cli("rebuild", str(version), "--json")


def settled(daemon: Daemon, text: str) -> Json:
    daemon.settled("entities")
    answer = asked(daemon, text)
    return {name: answer[name] for name in ("label", "confidence", "scores")}


BAD: list[tuple[Any, str]] = [
    ("person", "list"), ({"start": 0}, "list"), ([{"start": 0, "end": 99, "type": "x"}], "behind the text"),
    ([{"start": -1, "end": 2, "type": "x"}], "no character"), ([{"start": 2, "end": 2, "type": "x"}], "no character"),
    ([{"start": 0, "end": 4, "type": "x"}, {"start": 3, "end": 7, "type": "y"}], "overlap"),
    ([{"start": 0, "end": 2, "type": "x"}, {"start": 2, "end": 3, "type": "y"}], "in a word that another one is in"),
    ([{"start": 0, "end": 3, "type": "x", "tag": 1}], "no field 'tag'"),
    ([{"start": 0.0, "end": 3, "type": "x"}], "whole number"), ([{"start": True, "end": 3, "type": "x"}], "whole number"),
    ([{"start": 0, "end": 3, "type": ""}], "empty"),
    ([{"start": 0, "end": 3, "type": "x", "text": "Omar"}], "the text says 'Ada'"), ([7], "object"),
    ([{"start": 3, "end": 4, "type": "x"}], "no word"), ([{"start": 0, "end": 3, "type": "x"}] * 10_000, "10000 spans"),
    ([{"start": 0, "end": 3, "type": "x" * 1000}], "256"), ([{"start": 0, "end": 3, "type": "a\0"}], "NUL"),
]


@pytest.mark.parametrize(("label", "words"), BAD, ids=[words for _, words in BAD])
def test_a_label_that_is_no_spans_of_its_text_is_refused_whenever_it_comes(daemon: Daemon, label: Any, words: str) -> None:
    text = "Ada Chang moved to Oslo."
    event = daemon.post("entities/events", [{"text": text}], 202)["events"][0]
    for path, body in (("events", {"text": text, "label": label}), ("feedback", {"event": event, "label": label})):
        error = daemon.post(f"entities/{path}", [body], 422)["rejected"][0]["error"]
        assert words in error["message"] and error["field"].startswith("label") and error["hint"], error
    assert not daemon.rows("SELECT 1 FROM learned l JOIN event e ON e.seq = l.event WHERE e.id = ?", event)


def test_any_text_is_answered_and_what_lies_behind_the_words_that_are_read_is_told(daemon: Daemon) -> None:
    daemon.teach(LESSONS, "entities")
    for text in ("<b>Ada</b> &amp; co", "北京に住む김철수", "\x01\x7f\u200b", "🙂" * 40, "a" * 100_000, "x", "e\u0301" * 10):
        assert isinstance(asked(daemon, text)["label"], list)
    long = "Ada " * 25_000
    answer = asked(daemon, long)
    assert answer["truncated"] and all(one["words"][1] <= MOST for one in answer["label"])
    within, behind = (MOST - 2) * 4, (MOST + 2) * 4
    label = [{"start": within, "end": within + 3, "type": "person"}]
    assert daemon.post("entities/feedback", {"event": answer["event"], "label": label}, 202)["accepted"] == 1
    given = {"event": answer["event"], "label": [{**label[0], "start": behind, "end": behind + 3}]}
    error = daemon.post("entities/feedback", [given], 422)["rejected"][0]["error"]
    assert f"behind the {MOST} words" in error["message"] and error["hint"] == "divide the text"
    for empty in ("", "  \n"):
        assert daemon.ask("POST", "/v1/entities/predict", {"inputs": [{"text": empty}]})[0] == 422


def test_a_text_encoder_or_what_moves_characters_is_refused_at_the_start() -> None:
    for config, words in ((CONFIG.replace('kind = "words"', 'kind = "transformers"'), 'kind = "words"'),
                          (CONFIG + "[domains.entities.redact]\nentities = ['email']\n", "moves the characters")):
        with Daemon(config) as made:
            made.spawn()
            assert made.wait() == 78 and words in made.said
