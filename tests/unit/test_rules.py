"""Rules: what holds, what is answered then, and what is refused before it could be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import adaptd
from adaptd import Rule
from adaptd.errors import BadConfig
from adaptd.records import HeadAnswer
from adaptd.rules import Rules
from adaptd.testing import check_domain
from adaptd.text import Text

ASKED = {"text": "hello", "channel": "chat", "amount": 12}


class Two(Text):
    name = "two"
    heads = {"topic": adaptd.Classify(), "mood": adaptd.Classify()}


def model(label: str | None = "refund", **scores: float) -> HeadAnswer:
    found = scores or {"refund": 0.6, "delivery": 0.3, "billing": 0.1}
    return HeadAnswer(label=label, confidence=max(found.values()), scores=found, reason=None if label else "unsure")


def answer(*rules: Rule, said: HeadAnswer | None = None, payload: Mapping[str, Any] = ASKED, limit: float = 0.0) -> HeadAnswer:
    def withheld(head: str, confidence: float) -> str | None:
        return "too unsure" if confidence < limit else None

    return Rules.of(Text(), rules).applied(payload, {"label": said or model()}, withheld)["label"]


def did(found: HeadAnswer) -> Sequence[tuple[str, str, str | None]]:
    return [(one.rule, one.did, one.label) for one in found.rules]


@pytest.mark.parametrize("when", ["true", "payload.channel == 'chat' && label == 'refund'", "confidence < 0.7",
                                  "labels.label in ['refund', 'billing']", "payload.amount > 10", "!has(payload.order)",
                                  "payload.text.matches('^h.*o$')"])
def test_a_label_that_is_never_answered_gives_way_to_the_next(when: str) -> None:
    found = answer(Rule(name="r", when=when, never=["refund"]))
    assert (found.label, did(found)) == ("delivery", [("r", "never", "refund")])
    assert found.confidence == 0.3  # as the model had it
    assert found.scores == model().scores


@pytest.mark.parametrize("when", ["false", "payload.channel == 'mail'", "confidence > 0.9", "label == ''"])
def test_a_rule_that_does_not_hold_changes_nothing(when: str) -> None:
    assert answer(Rule(name="r", when=when, never=["refund"]), Rule(name="m", when=when, must="x")) == model()


def test_a_ban_of_what_would_not_be_answered_changes_nothing() -> None:
    assert answer(Rule(name="r", never=["delivery"])) == model()
    assert answer(Rule(name="r", never=["refund"]), said=model(None)) == model(None)


def test_a_label_that_must_be_answered_is_whatever_the_model_says() -> None:
    for said in (model(), model(None)):
        found = answer(Rule(name="m", when="payload.amount == 12", must="fraud"), said=said)
        assert (found.label, found.confidence, found.reason, did(found)) == ("fraud", 1.0, None, [("m", "must", "fraud")])


def test_the_first_must_that_holds_counts_and_a_ban_is_stronger() -> None:
    rules = [Rule(name="a", must="fraud"), Rule(name="b", must="delivery"), Rule(name="ban", never=["fraud"])]
    assert answer(*rules[:2]).label == "fraud"
    assert did(answer(*rules)) == [("ban", "never", "fraud"), ("b", "must", "delivery")]


def test_nothing_is_answered_when_every_label_is_forbidden() -> None:
    found = answer(Rule(name="a", never=["refund", "delivery"]), Rule(name="b", never=["billing"]))
    assert (found.label, found.confidence, found.reason) == (None, 0.0, "rules forbid every label that scored")
    assert did(found) == [("a", "never", "refund"), ("a", "never", "delivery"), ("b", "never", "billing")]


def test_the_next_label_is_withheld_when_it_is_too_unsure() -> None:
    found = answer(Rule(name="r", never=["refund"]), limit=0.8)
    assert (found.label, found.reason, did(found)) == (None, "too unsure", [("r", "never", "refund")])


@pytest.mark.parametrize(("when", "why"), [
    ("payload.order == 1", "Key not found"), ("payload.text > 1", "No matching overloads"), ("payload.text", "'hello'"),
    ("payload.many.all(a, payload.many.all(b, a == a))", "budget")])
def test_a_condition_that_cannot_be_told_does_not_hold_and_is_named(when: str, why: str) -> None:
    found = answer(Rule(name="r", when=when, never=["refund"]), payload={**ASKED, "many": list(range(2000))})
    assert found.label == "refund"
    assert [(one.rule, one.did) for one in found.rules] == [("r", "failed")] and why in str(found.rules[0].error)


def test_a_rule_is_about_its_head_and_sees_the_others() -> None:
    rules = Rules.of(Two(), [Rule(name="r", head="mood", when="labels.topic == 'refund'", must="angry")])
    found = rules.applied(ASKED, {"topic": model(), "mood": model("calm", calm=1.0)}, lambda *_: None)
    assert (found["topic"], found["mood"].label) == (model(), "angry")


@pytest.mark.parametrize(("rule", "message"), [
    (Rule(name="r", when="payload.", must="x"), r"rules\.r\.when: .*Syntax error"),
    (Rule(name="r", when="nothing == 1", must="x"), "undeclared reference to 'nothing'"),
    (Rule(name="r", when="__import__('os')", must="x"), "undeclared reference to '__import__'"),
    (Rule(name="r", when="1 + 1", must="x"), "not true or false"),
    (Rule(name="r"), "give either must or never"),
    (Rule(name="r", must="x", never=["y"]), "give either must or never"),
    (Rule(name="r", never="refund"), "give either must or never"),
    (Rule(name="r", must=" "), r"rules\.r\.must: a label must not be empty"),
    (Rule(name="r", head="topic", must="x"), "no head 'topic'"),
])
def test_what_cannot_be_a_rule_is_refused(rule: Rule, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        Rules.of(Text(), [rule])


def test_rules_have_names_of_their_own_and_heads_where_there_are_several() -> None:
    with pytest.raises(BadConfig, match="two rules named 'r'"):
        Rules.of(Text(), [Rule(name="r", must="x")] * 2)
    with pytest.raises(BadConfig, match="names no head"):
        Rules.of(Two(), [Rule(name="r", must="x")])


def test_a_domain_s_own_rules_come_after_the_configuration_s_and_are_checked() -> None:
    class Ruled(Text):
        name = "ruled"
        rules = [Rule(name="own", must="own")]

    given = Rules.of(Ruled(), [Rule(name="given", when="payload.amount > 100", must="given")])
    assert [given.applied({"amount": amount}, {"label": model()}, lambda *_: None)["label"].label for amount in (1, 101)] == [
        "own", "given"]
    Ruled.rules = [Rule(name="own", when="(", must="own")]
    with pytest.raises(BadConfig, match=r"own\.when"):
        check_domain(Ruled, payloads=[{"text": "hello"}])
