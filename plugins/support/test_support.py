"""The plugin keeps its promises; and what it adds to an answer."""

import adaptd
from adaptd.testing import check_domain
from adaptd_support import Support


def answer(label: str | None, confidence: float) -> adaptd.Prediction:
    head = adaptd.HeadAnswer(label=label, confidence=confidence, scores={})
    return adaptd.Prediction(event="e", heads={"intent": head}, cost={})


def test_support_is_a_good_domain() -> None:
    check_domain(Support, feedback=[" refund "], rejected=[{}, {"text": " "}, {"subject": "", "body": None}])


def test_a_mail_is_read_subject_first() -> None:
    assert Support().example({"body": "It is gone.\n", "subject": "Card"}).text == "Card\nIt is gone."


def test_unsure_answers_are_handed_over() -> None:
    assert Support().render(answer("refund", 0.9)) == {"intent": "refund", "hand_over": False}
    assert Support().render(answer("refund", 0.2))["hand_over"]
    assert Support().render(answer(None, 0.0))["hand_over"]
