"""The plugin keeps its promises; and what it adds to an answer."""

from typing import Any

import pytest

import adaptd
from adaptd.testing import check_domain
from adaptd_support import Support

LONG = "Please send us the receipt. " * 20


def reply(label: str | None, **more: Any) -> adaptd.HeadAnswer:
    return adaptd.HeadAnswer(label=label, confidence=0.9, scores={"Yes.": 0.9}, reason=None if label else "nothing near", **more)


def rendered(intent: str | None, confidence: float, answer: adaptd.HeadAnswer, **more: Any) -> dict[str, Any]:
    head = adaptd.HeadAnswer(label=intent, confidence=confidence, scores={"refund": confidence}, reason="out of scope")
    return dict(Support().render(adaptd.Prediction(event="e", heads={"intent": head, "answer": answer}, cost={}, **more)))


def test_support_is_a_good_domain() -> None:
    labels = [" refund ", {"answer": "Yes."}, {"intent": "refund", "answer": LONG}]
    conversations = [{"text": "x", "conversation": turns} for turns in ("before", [7], [{"from": "agent"}])]
    check_domain(Support, feedback=labels, rejected=[{}, {"text": " "}, {"subject": "", "body": None}, *conversations])


def test_a_mail_is_read_subject_first() -> None:
    assert Support().example({"body": "It is gone.\n", "subject": "Card"}).text == "Card\nIt is gone."


def test_the_newest_turns_before_a_message_are_read_behind_it() -> None:
    turns = ["hello", "I need a new card", {"from": "agent", "text": "Of course."}]
    message = {"text": "What does it cost?", "conversation": turns}
    assert Support().example(message).text == "What does it cost?\nOf course.\nI need a new card"
    assert Support(turns=0).example(message).text == "What does it cost?"


def test_a_remembered_answer_goes_out_whole_with_the_question_it_was_given_to() -> None:
    key = Support().heads["answer"].check(LONG, "answer")
    evidence = [adaptd.Evidence(event="7", label=key, taught=key, weight=1.0, similarity=0.91, source="anna", text="Send what?")]
    found = rendered("refund", 0.9, reply(key, evidence=evidence, replies={key: LONG}))
    assert (found["answer"], found["from"], found["hand_over"], found["why"]) == (LONG, "memory", False, None)
    assert found["remembered"] == [
        {"question": "Send what?", "answer": LONG, "by": "anna", "event": "7", "similarity": 0.91}]


def test_who_is_unsure_asks_a_person_and_says_why() -> None:
    assert rendered("refund", 0.2, reply("Yes."))["why"] == "intent: confidence 0.200 is below 0.5 (sure)"
    assert rendered(None, 0.9, reply("Yes."))["why"] == "intent: out of scope"
    found = rendered("refund", 0.9, reply(None))
    assert (found["answer"], found["from"], found["hand_over"], found["why"]) == (None, None, True, "answer: nothing near")


def test_what_nobody_teaches_is_not_asked_for() -> None:
    nothing = adaptd.HeadAnswer(label=None, confidence=0.0, scores={}, reason="no label has been learned yet")
    assert not rendered("refund", 0.9, nothing)["hand_over"]


def test_where_nothing_is_remembered_documents_are_cited() -> None:
    passage = adaptd.Passage(file="refunds.md", line=3, heading="Refunds", text="Within 30 days.", similarity=0.7)
    assert rendered("refund", 0.9, reply(None), passages=[passage])["from"] == "documents"


@pytest.mark.parametrize("options", [{"sure": 2.0}, {"turns": -1}, {"unseen": 0.0}])
def test_a_knob_beyond_its_end_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Support(**options)
