"""What a label may be, by the kind of its head; and the figures that are usual for each."""

from __future__ import annotations

from typing import Any

import pytest

from adaptd.config import DomainSettings
from adaptd.errors import BadConfig, BadPayload
from adaptd.heads import Classify, Generate, Head, Labels, Ordinal, Regress, as_target, facts, named, of, said
from adaptd.plugins import domain
from adaptd.scores import kappa, measures
from adaptd.text import Text

STARS, GRADE = Ordinal(classes=[1, 2, 3]), Regress(low=-1, high=1, step=0.25)


@pytest.mark.parametrize(("head", "label", "target", "back"), [
    (Classify(), " a ", "a", "a"),
    (Generate(), " Guten Tag. ", "Guten Tag.", "Guten Tag."),
    (Labels(), ["b ", "a", "b"], '["a","b"]', ["a", "b"]),
    (Labels(), [], "[]", []),
    (STARS, 2, "2", 2), (STARS, "2", "2", 2), (STARS, 2.0, "2", 2),
    (Ordinal(classes=("low", "high")), "high", "high", "high"),
    (GRADE, 0.3, "0.25", 0.25), (GRADE, -1, "-1.0", -1.0), (GRADE, "0.5", "0.5", 0.5), (GRADE, -0.01, "0.0", 0.0)])
def test_a_label_becomes_a_target_and_is_read_back(head: Head, label: Any, target: str, back: Any) -> None:
    assert head.check(label, "label") == target
    assert head.label(target) == back and type(head.label(target)) is type(back)
    assert head.check(back, "label") == target, "what is answered can be taught"


@pytest.mark.parametrize(("head", "label"), [
    (Generate(), " "), (Generate(), ["a"]),
    (Labels(), "a"), (Labels(), [1]), (Labels(), [" "]), (Labels(), {"a": 1}), (Labels(), list(map(str, range(33)))),
    (STARS, 4), (STARS, True), (STARS, None), (STARS, [1]), (GRADE, 1.01), (GRADE, "x"), (GRADE, True), (GRADE, float("nan")),
    (GRADE, 10**400), (GRADE, None)])
def test_what_cannot_be_a_label_is_refused_with_the_cure(head: Head, label: Any) -> None:
    with pytest.raises(BadPayload) as refused:
        head.check(label, "label.x")
    assert str(refused.value.field).startswith("label.x") and refused.value.hint


@pytest.mark.parametrize("head", [Classify(), Labels(), STARS, GRADE])
def test_a_head_comes_back_from_its_facts(head: Head) -> None:
    assert of(facts(head)) == head and hash(of(facts(head))) == hash(head)


def test_a_long_text_that_was_answered_is_held_against_its_key() -> None:
    text = "Guten Tag. " * 40
    assert said(text) == Generate().check(text, "label") and said("Guten Tag.") == "Guten Tag."
    assert said(" " * 300) == "", "what no label can be is equal to none"
    several = [f"{place:250}" for place in range(3)]
    assert said(several) == as_target(several), "a list is no text"


def test_what_another_kind_of_head_has_left_is_read_without_harm() -> None:
    assert Labels().label("plain") == ["plain"] and named("[not json") == ("[not json",)
    assert GRADE.label("plain") == "plain" and STARS.label("9") == "9"


@pytest.mark.parametrize("told", [
    {"kind": "rank"}, {"kind": "regress", "low": 1, "high": 0}, {"kind": "ordinal", "classes": ["a"]}, {"kind": "labels", "x": 1},
    {"kind": "regress", "low": 0, "high": 1, "step": 1e-6}, {"kind": "ordinal"}, {"kind": "ordinal", "classes": "low"}])
def test_a_head_that_is_configured_wrongly_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(BadConfig) as refused:
        domain({"text": Text}, "notes", DomainSettings(kind="text", options={"heads": {"score": told}}))
    assert refused.value.field == "domains.notes.options"


def test_figures_are_those_of_the_kind() -> None:
    assert measures(Classify(), [("a", "a")]) == {}
    assert measures(Labels(), [('["a"]', '["a","b"]'), ("[]", "[]")]) == {"micro_f1": 2 / 3, "macro_f1": 0.5}
    assert measures(STARS, [("1", "3"), ("2", "2")])["mae"] == 1.0
    assert kappa([(1, 2), (2, 3), (3, 1)]) == -0.5
