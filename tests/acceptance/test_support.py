"""Customer service on a real daemon: what was answered is answered again, what is new goes to a person, documents are cited."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon, until

pytestmark = pytest.mark.acceptance
Json = dict[str, Any]
CONFIG = """
domain = "support"
[plugins]
allow = ["adaptd-support"]
[domains.support]
[domains.support.adapt]
enabled = false
[domains.support.documents]
folder = "handbook"
"""
LONG = "We are sorry that you want to leave us. Your account can be closed in any branch; please bring an identity card. " * 4
FAQ = [
    ("How do I reset my password?", "Use the link 'forgot password' on the login page.", "login"),
    ("Where can I see my last invoices?", "Invoices are under 'my account', 'billing'.", "billing"),
    ("What are your opening hours?", "We are open on weekdays from 9 to 17.", "hours"),
    ("How can I track my parcel?", "Every parcel has a tracking link in the mail of its dispatch.", "delivery"),
    ("Which currencies can I pay in?", "We take euros, pounds and dollars.", "payment"),
    ("My debit card was stolen", "We have blocked the card; a new one is sent within 3 days.", "card_lost"),
    ("How do I close my account?", LONG, "close_account"),
    ("Can I change the delivery address?", "Until dispatch you can change it under 'my orders'.", "delivery"),
    ("How much does a new card cost?", "A new card costs 10 euros.", "card_price"),
    ("How much does a transfer abroad cost?", "Transfers abroad cost 1 % of the sum.", "transfer_price"),
    ("The app crashes when I open it", "Please update the app to the newest version.", "app"),
    ("Do you offer student discounts?", "Students get 20 % off with a valid student card.", "discount"),
    ("How long does a refund take?", "Refunds arrive within 5 working days.", "refund"),
    ("Can I use my card in Japan?", "The card works wherever Visa is taken.", "card_abroad"),
    ("How do I switch on notifications?", "Under 'settings', 'notifications'.", "app"),
    ("What is the interest on savings?", "Savings earn 2 % a year.", "savings"),
    ("How do I invite a friend?", "Send the link under 'invite'; both of you get 10 euros.", "invite"),
    ("Why was my loan rejected?", "The letter that we sent names the reason.", "loan"),
]
LUNCH = "is there a vegetarian lunch in the canteen?"


def ask(daemon: Daemon, text: str, **payload: Any) -> Json:
    found: Json = daemon.post("support/predict", {"inputs": [{"text": text, **payload}]})["predictions"][0]
    return found


def teach(daemon: Daemon) -> None:
    for place, (text, answer, intent) in enumerate(FAQ):  # one by one: each is tested against those before it
        label = {"intent": intent, "answer": answer}
        daemon.teach([{"id": f"faq-{place}", "text": text, "label": label, "source": "anna"}], "support")
    daemon.settled("support")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as made:
        (made.folder / "handbook").mkdir()
        made.start()
        assert ask(made, "hello")["why"] == "nothing has been learned yet"
        teach(made)
        yield made


def test_what_was_answered_before_is_answered_again_with_the_question_who_answered_and_how_near(daemon: Daemon) -> None:
    found = ask(daemon, "somebody stole my bank card")
    assert (found["answer"], found["from"]) == ("We have blocked the card; a new one is sent within 3 days.", "memory")
    first = found["remembered"][0]
    assert (first["question"], first["by"], first["answer"]) == ("My debit card was stolen", "anna", found["answer"])
    assert 0.5 < first["similarity"] < 1
    assert daemon.ask("GET", f"/v1/support/explain/{first['event']}")[1]["labels"][0]["label"]["intent"] == "card_lost"


def test_a_long_answer_comes_back_whole_before_and_after_a_restart(daemon: Daemon) -> None:
    assert ask(daemon, "I want to close my account")["answer"] == LONG.strip()
    daemon.restart()
    assert ask(daemon, "I want to close my account")["answer"] == LONG.strip()


def test_where_nothing_is_near_a_person_is_asked_whose_answer_is_the_next_one_and_goes_with_a_rollback(daemon: Daemon) -> None:
    found = ask(daemon, LUNCH)
    assert (found["answer"], found["hand_over"], found["from"]) == (None, True, None)
    assert "nothing near is remembered" in found["why"] and found["remembered"]
    before = daemon.post("support/snapshot", {"reason": "before"})["version"]
    label = {"intent": "canteen", "answer": "There is one every day."}
    daemon.post("support/feedback", {"event": found["event"], "label": label}, 202)
    again = ask(daemon, "does the canteen have a vegetarian lunch?")
    assert (again["answer"], again["remembered"][0]["question"]) == (label["answer"], LUNCH)
    daemon.post("support/rollback", {"to": before})
    assert ask(daemon, LUNCH)["answer"] is None
    daemon.post("support/resume", {"what": "learning"})


def test_a_follow_up_is_answered_by_what_was_said_before(daemon: Daemon) -> None:
    asked, cards = "and how much does it cost?", ["I lost my card and would like a new card"]
    assert ask(daemon, asked, conversation=cards)["remembered"][0]["answer"] == "A new card costs 10 euros."
    abroad = [{"from": "customer", "text": "I want to make a transfer abroad"}]
    assert ask(daemon, asked, conversation=abroad)["remembered"][0]["answer"] == "Transfers abroad cost 1 % of the sum."


def test_documents_are_cited_with_file_line_and_heading_and_followed(daemon: Daemon) -> None:
    handbook, question = daemon.folder / "handbook", "are dogs and other pets welcome in the branch?"
    assert "passages" not in ask(daemon, question)
    (handbook / "branches.md").write_text(
        "# Branches\n\nEvery branch has a cash machine. It takes coins, too.\n\n"
        "## Pets\n\nDogs and other pets are welcome in our branches. Please keep them on a lead.\n")
    (handbook / "loans.html").write_text("<h1>Loans</h1>\n<p>A loan is paid back monthly. It may be paid back early.</p>")
    until(lambda: (daemon.domain("support")["documents"] or {})["passages"] == 3, "the documents are read")
    found = ask(daemon, question)
    first = found["passages"][0]
    assert (first["file"], first["line"], first["heading"]) == ("branches.md", 7, "Branches › Pets")
    assert first["text"].startswith("Dogs and other pets are welcome")
    assert (found["from"], found["hand_over"]) == ("documents", True)
    (handbook / "branches.md").unlink()
    until(lambda: daemon.domain("support")["documents"]["passages"] == 1, "the change is seen")
    assert "branches.md" not in [one["file"] for one in ask(daemon, question).get("passages", ())]


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_searched(daemon: Daemon) -> None:
    (daemon.folder / "handbook" / "broken.txt").write_bytes(b"\xff\xfe\x00")
    said = until(lambda: daemon.problems().get("document_unread"), "the file is named")
    assert "broken.txt" in said


def test_what_was_answered_is_forgotten_with_its_text(daemon: Daemon) -> None:
    found = ask(daemon, "I want to close my account")
    assert found["answer"] == LONG.strip()
    daemon.post("support/forget", {"event": found["remembered"][0]["event"], "reason": "test"})
    found = ask(daemon, "I want to close my account")
    assert LONG[:30] not in str(found)
    assert not daemon.rows("SELECT 1 FROM label WHERE label LIKE ?", f"%{LONG[:30]}%")
    assert not daemon.rows("SELECT 1 FROM learned WHERE target LIKE ?", f"{LONG[:30]}%")


def test_two_teachers_who_say_the_same_in_other_words_are_not_set_aside(daemon: Daemon) -> None:
    for place, (text, _, intent) in enumerate(FAQ):
        label = {"intent": intent, "answer": f"As for '{text}': look at page {place} of the manual."}
        daemon.teach([{"text": f"{text} please", "label": label, "source": "bert"}], "support")
    assert daemon.domain("support")["held"] == []



@pytest.mark.skipif("MULTILINGUAL_E5" not in os.environ, reason="MULTILINGUAL_E5 names no folder of a multilingual encoder")
def test_a_question_in_chinese_finds_what_was_answered_in_english_and_in_chinese() -> None:
    encoder = f'[encoders.default.options]\nmodel = "{os.environ["MULTILINGUAL_E5"]}"\nprefix = "query: "\nlayers = [12]\n'
    with Daemon(CONFIG.replace('folder = "handbook"', "") + encoder) as daemon:
        daemon.start()
        teach(daemon)
        label = {"intent": "parking", "answer": "停车场在大楼后面，免费。"}
        daemon.teach([{"text": "你们有停车位吗？", "label": label, "source": "li"}], "support")
        assert ask(daemon, "我的银行卡被偷了")["remembered"][0]["question"] == "My debit card was stolen"
        assert ask(daemon, "怎么注销我的账户？")["remembered"][0]["question"] == "How do I close my account?"
        found = ask(daemon, "请问哪里可以停车？")
        assert (found["remembered"][0]["answer"], found["remembered"][0]["by"]) == (label["answer"], "li")
