"""Every domain that is shipped in one daemon: they share an encoder, and what befalls one is not felt by another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from adaptd_translate import small
from tests import tiny
from tests.acceptance.daemon import ADAPTING, Daemon, Json, lesson, until

pytestmark = pytest.mark.acceptance
CONFIG = ADAPTING.replace("{", "{{").replace("}", "}}") + """
[plugins]
allow = ["adaptd-support", "adaptd-finance", "adaptd-recommend", "adaptd-entities", "adaptd-translate", "adaptd-vision",
         "adaptd-speech"]
""" + tiny.SENSES + """
[encoders.words]
kind = "words"
[limits]
queue = 200
[domains.support]
[domains.finance]
[domains.recommend]
[domains.entities]
encoder = "words"
[domains.translate.options]
model = "{seq2seq}"
beams = 1
threads = 1
[domains.vision]
encoder = "eyes"
[domains.speech]
encoder = "ears"
[domains.meter]
kind = "numeric"
encoder = "numbers"
"""
PAIRS = [("the dog runs", "der hund läuft"), ("the cat sleeps", "die katze schläft"), ("a man sits", "ein mann sitzt")]
RED, BLUE = (250, 0, 0), (0, 0, 250)


def film(item: str, genre: str, **more: Any) -> Json:
    return {"item": item, "text": f"a {genre} film", "features": {"genre": [genre]}, **more}


LESSONS: dict[str, list[Json]] = {
    "text": lesson(["card", "weather"], 6),
    "support": [{"text": text, "label": {"intent": intent, "answer": answer}} for text, intent, answer in (
        ("How do I reset my password?", "login", "Use the link on the login page."),
        ("What are your opening hours?", "hours", "We are open from 9 to 17."),
        ("My debit card was stolen", "card", "We have blocked the card."))],
    "finance": [{"text": f"{text} {n}", "entity": "Hopper", "label": label} for n in range(4) for text, label in (
        ("the flight was late again, awful", {"topic": "delay", "sentiment": "negative"}),
        ("a lovely crew, thank you", {"sentiment": "positive"}))],
    "recommend": [film("i1", "war", user="ana", label={"rating": 5}), film("i2", "comedy", user="ana", label={"rating": 1})],
    "entities": [{"text": f"{name} moved to {city}.", "label": [{"start": 0, "end": len(name), "type": "person"}]}
                 for name in ("Ada Chang", "Omar Keller", "Nina Patel") for city in ("Oslo", "Lima")],
    "translate": [{"text": text, "label": reply} for text, reply in PAIRS],
    "vision": [{"image": tiny.sent(tiny.square(*colour, noise=n)), "label": label}
               for n in range(4) for label, colour in (("red", RED), ("blue", BLUE))],
    "speech": [{"audio": tiny.sent(tiny.tone(hertz, noise=n)), "label": label}
               for n in range(4) for label, hertz in (("low", 300.0), ("high", 3000.0))],
    "meter": [{"load": load + n / 10, "site": "a", "label": "+" if load > 5 else "-"} for n in range(4) for load in (1, 9)],
}
ASKED: dict[str, Json] = {
    "text": {"text": "my credit card"}, "support": {"text": "my card was stolen"}, "finance": {"text": "late again, awful"},
    "entities": {"text": "Ada Keller moved to Lima."}, "translate": {"text": "the dog sleeps"},
    "vision": {"image": tiny.sent(tiny.square(*RED, noise=99))}, "speech": {"audio": tiny.sent(tiny.tone(300.0, noise=99))},
    "meter": {"load": 1.2, "site": "a"},
}


@pytest.fixture
def daemon(make: Callable[..., Daemon], tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    small.fresh(model := tmp_path_factory.mktemp("seq2seq"), PAIRS, width=16, layers=1, words=60)
    made = make(CONFIG.format(seq2seq=model, vit=tiny.vit(tmp_path_factory.mktemp("vit")),
                              whisper=tiny.whisper(tmp_path_factory.mktemp("whisper")))).start()
    for domain, events in LESSONS.items():
        made.teach(events, domain)
    return made


def said(daemon: Daemon, *domains: str) -> dict[str, Any]:
    """Return each domain's answer, to the bit, with everything learned and solved."""
    found: dict[str, Any] = {}
    for domain in domains or (*ASKED, "recommend"):
        daemon.settled(domain)
        if domain == "recommend":
            body = {"user": "ana", "candidates": [film("i3", "war"), film("i4", "comedy")]}
            found[domain] = daemon.post("recommend/rank", body)["ranking"]
        else:
            answer = daemon.post(f"{domain}/predict", {"inputs": [ASKED[domain]]})["predictions"][0]
            found[domain] = (answer["label"], answer.get("scores"), answer.get("heads"))
    return found


def others(answers: dict[str, Any], but: str) -> dict[str, Any]:
    return {domain: answer for domain, answer in answers.items() if domain != but}


def test_each_domain_answers_and_what_one_goes_through_is_not_felt_by_another(daemon: Daemon) -> None:
    before = said(daemon)
    assert [before[name][0] for name in ("text", "vision", "speech", "meter")] == ["card", "red", "low", "-"]
    assert before["support"][0]["intent"] == "card" and before["finance"][0] == {"topic": "delay", "sentiment": "negative"}
    assert before["recommend"][0]["id"] == "i3" and isinstance(before["translate"][0], str)
    assert [(one["text"], one["type"]) for one in before["entities"][0]] == [("Ada Keller", "person")]
    assert daemon.rows("SELECT count(*) FROM encoder") == [(5,)], "texts of five domains are read by one encoder"

    version = daemon.post("vision/snapshot", {"reason": "good"})["version"]
    daemon.teach([{"image": tiny.sent(tiny.square(*RED, noise=n)), "label": "blue"} for n in range(10, 16)], "vision")
    assert said(daemon, "vision") != {"vision": before["vision"]}
    assert others(said(daemon), "vision") == others(before, "vision"), "another domain's labels are nobody else's"
    daemon.post("vision/rollback", {"to": version})
    assert said(daemon) == before, "nor is its rollback, which puts its learning on hold"

    daemon.teach([{"load": 5.5, "site": "b", "label": "b"}], "meter")
    assert daemon.domain("meter")["learn_lag"] == 0 and said(daemon, "meter") != {"meter": before["meter"]}
    daemon.teach([{**film("i5", "war"), "user": "bob", "subject": "bob", "label": {"rating": 5}}], "recommend")
    daemon.post("recommend/forget", {"subject": "bob"})
    assert others(said(daemon), "meter") == others(before, "meter")

    after = said(daemon)
    daemon.crash()
    daemon.start()
    assert said(daemon) == after, "all are as they were"


def test_rubbish_for_one_domain_and_a_flood_of_it_leave_the_others_answering(daemon: Daemon) -> None:
    before = said(daemon)
    rubbish: dict[str, list[Json]] = {
        "vision": [{"image": "not base64"}, {"image": {"$base64": "AAAA"}}, {}], "speech": [{"audio": {"$base64": "AAAA"}}],
        "meter": [{}], "support": [{"text": 7}], "finance": [{"text": "a", "label": {"mood": "x"}}],
        "recommend": [{"item": "", "user": "u"}], "text": [{"text": ""}],
        "entities": [{"text": "Ada", "label": [{"start": 0, "end": 9, "type": "x"}]}], "translate": [{"text": "a", "label": 7}]}
    for domain, events in rubbish.items():
        done = daemon.post(f"{domain}/events", events, 422)
        assert all(one["error"]["message"] and one["error"]["hint"] for one in done["rejected"]), domain

    over, told = threading.Event(), list[int]()

    def flood() -> None:
        while not over.is_set():
            told.append(daemon.client.exchange("POST", "/v1/vision/predict", {"inputs": [ASKED["vision"]] * 40}, 120.0)[0])

    clients = [threading.Thread(target=flood) for _ in range(12)]
    for client in clients:
        client.start()
    try:
        until(lambda: 429 in told and 200 in told, "more than can be answered is asked of one domain")
        assert said(daemon, *others(before, "vision")) == others(before, "vision"), "all others are answered"
    finally:
        over.set()
        for client in clients:
            client.join()
    assert set(told) == {200, 429} and said(daemon) == before
