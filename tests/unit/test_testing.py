"""adaptd.testing finds each way in which a plugin can break its promises, and says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import adaptd
from adaptd.gate import NotWorse
from adaptd.testing import FakeClock, check_domain, check_gate
from adaptd.text import Text


class Good(Text):
    """A domain to spoil."""

    name = "good"


class BadName(Good):
    name = "Not Good"


class NoHeads(Good):
    heads = {}


class Raises(Good):
    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        return adaptd.Example(text=payload["text"].strip())


class Changes(Good):
    def example(self, payload: Any) -> adaptd.Example:
        example = super().example(payload)
        payload["seen"] = True
        return example


class Counts(Good):
    calls = 0

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        type(self).calls += 1
        return adaptd.Example(text=f"{super().example(payload).text}{self.calls}")


class Empty(Good):
    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        super().example(payload)
        return adaptd.Example()


class TakesAll(Good):
    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        return adaptd.Example(text=str(payload))


class NotJson(Good):
    def render(self, prediction: adaptd.Prediction) -> Mapping[str, Any]:
        return {"label": {prediction.label}}


class NoHead(Good):
    def targets(self, label: Any) -> Mapping[str, Any]:
        return {}


class Unchecked(Good):
    def targets(self, label: Any) -> Mapping[str, Any]:
        return {"label": label["name"]}


def test_a_good_domain_passes() -> None:
    check_domain(Good, payloads=[{"text": "hello"}], feedback=["greeting"], rejected=[{}, {"text": ""}, {"text": 1}])


@pytest.mark.parametrize("domain, complaint", [
    (BadName, "name 'Not Good' must be small letters"),
    (NoHeads, "needs at least one head"),
    (Raises, "only BadPayload may reject"),
    (Changes, "the payload was changed"),
    (Counts, "is not pure"),
    (Empty, "gives an encoder nothing"),
    (TakesAll, "should raise BadPayload"),
    (NotJson, "is not JSON"),
    (NoHead, "names no head"),
    (Unchecked, "refused|only BadPayload"),
])
def test_a_bad_domain_is_told_what_is_wrong(domain: type[adaptd.Domain], complaint: str) -> None:
    feedback = [{"name": "greeting"}] if domain is Unchecked else ["greeting"]
    with pytest.raises(AssertionError, match=complaint):
        check_domain(domain, payloads=[{"text": "hello"}], feedback=feedback, rejected=[{"text": ""}])


def test_a_label_that_the_head_refuses_fails_the_check() -> None:
    with pytest.raises(AssertionError, match="the label 7 was refused: a label must be a string"):
        check_domain(Good, payloads=[{"text": "hello"}], feedback=[7])


class AlwaysPromotes(NotWorse):
    def judge(self, scores: adaptd.Paired) -> adaptd.Verdict:
        return adaptd.Verdict(decision="promote", reasons=["why not"])


class Silent(NotWorse):
    def judge(self, scores: adaptd.Paired) -> adaptd.Verdict:
        return adaptd.Verdict(decision="undecided", reasons=[])


def test_gates_are_checked() -> None:
    check_gate(NotWorse())
    with pytest.raises(AssertionError, match="no rows: was promoted"):
        check_gate(AlwaysPromotes())
    with pytest.raises(AssertionError, match="no reasons"):
        check_gate(Silent())


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock(10.0)
    assert clock() == clock() == 10.0
    clock.advance(2.5)
    assert clock() == 12.5
