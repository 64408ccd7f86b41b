"""A vocabulary names, orders and relates labels; what in it contradicts itself is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from adaptd.config import VocabularySettings
from adaptd.errors import BadConfig, BadPayload
from adaptd.heads import Labels
from adaptd.records import HeadAnswer
from adaptd.text import Text
from adaptd.vocabulary import Vocabulary

TABLE = """label,parent,synonyms,related
cards,,,
card_lost,cards,lost card|stolen card,card_new
card_new,cards,,
loans,,,
"""
SKOS = """
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix : <http://example.org/> .
:cards a skos:Concept ; skos:notation "cards" ; skos:narrower :new .
:lost a skos:Concept ; skos:notation "card_lost" ; skos:broader :cards ; skos:related :new ;
    skos:altLabel "lost card", "stolen card" ; skos:prefLabel "卡片丢失"@zh .
:new a skos:Concept ; skos:notation "card_new" .
"""


def vocabulary(folder: Path, text: str, name: str = "labels.csv", **settings: object) -> Vocabulary:
    (folder / name).write_text(text, encoding="utf-8")
    made = Vocabulary.of(Text(), "text", VocabularySettings.model_validate({"file": name, **settings}), folder)
    assert made is not None
    return made


def answer(scores: dict[str, float], *, withheld: bool = False) -> HeadAnswer:
    best = max(scores, key=scores.__getitem__)
    label, reason = (None, "unsure") if withheld else (best, None)
    return HeadAnswer(label=label, confidence=scores[best], scores=scores, reason=reason)


def applied(words: Vocabulary, given: HeadAnswer, limit: float = 0.0) -> tuple[str | None, float, Sequence[str], str | None]:
    found = words.applied({"label": given}, lambda head, confidence: "unsure" if confidence < limit else None)["label"]
    return found.label, round(found.confidence, 6), list(found.path), found.instead_of


@pytest.mark.parametrize(("text", "name"), [(TABLE, "labels.csv"), (SKOS, "labels.ttl")])
def test_a_table_and_a_graph_say_the_same(text: str, name: str, tmp_path: Path) -> None:
    words = vocabulary(tmp_path, text, name)
    assert words.path("card_lost") == ["cards", "card_lost"] and words.path("card_new") == ["cards", "card_new"]
    assert words.named("Stolen  card", "label") == "card_lost" and words.named("weather", "label") == "weather"
    assert set(words.concepts["card_lost"].related) == {"card_new"}


def test_an_answer_shows_its_path_and_one_that_is_not_sure_backs_off_to_the_broader_label(tmp_path: Path) -> None:
    words = vocabulary(tmp_path, TABLE)
    assert applied(words, answer({"card_lost": 0.7, "loans": 0.3})) == ("card_lost", 0.7, ["cards", "card_lost"], None)
    assert applied(words, answer({"card_lost": 0.4, "card_new": 0.35, "loans": 0.25})) == ("cards", 0.75, ["cards"], "card_lost")
    assert applied(words, answer({"loans": 0.4, "card_new": 0.3})) == ("loans", 0.4, [], None)  # it has none that is broader


def test_a_withheld_answer_backs_off_only_to_what_is_not_withheld(tmp_path: Path) -> None:
    words = vocabulary(tmp_path, TABLE)
    unsure = answer({"card_lost": 0.4, "card_new": 0.35, "loans": 0.25}, withheld=True)
    assert applied(words, unsure, limit=0.7)[0] == "cards" and applied(words, unsure, limit=0.8)[0] is None
    assert applied(words, unsure, limit=0.0)[0] is None  # not for its confidence: it fits nothing


def test_a_closed_vocabulary_refuses_other_labels_and_names_the_nearest(tmp_path: Path) -> None:
    words = vocabulary(tmp_path, TABLE, closed=True)
    assert words.named("lost card", "label") == "card_lost"
    with pytest.raises(BadPayload, match="no label of the vocabulary") as error:
        words.named("card lots", "label")
    assert "card_lost" in error.value.hint


def test_a_text_that_names_a_label_is_told_its_other_names(tmp_path: Path) -> None:
    words = vocabulary(tmp_path, TABLE)
    assert words.also("Report a stolen card here.") == ["card_lost", "lost card", "card_new"]
    assert words.also("postcards and loanshark") == []
    assert vocabulary(tmp_path, SKOS, "labels.ttl").also("如果卡片丢失怎么办")[0] == "card_lost"  # words that nothing parts


@pytest.mark.parametrize(("text", "said"), [
    ("label,parent\na,b\nb,a\n", "broader than itself"),
    ("label,parent\na,b\n", "which is no label"),
    ("label,synonyms\na,x\nb,X\n", "names 'a' and 'b'"),
    ("name\na\n", "no column 'label'"),
])
def test_what_contradicts_itself_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=said):
        vocabulary(tmp_path, text)


def test_a_vocabulary_is_of_a_head_that_answers_with_one_label(tmp_path: Path) -> None:
    domain = Text()
    domain.heads = {"topics": Labels()}
    with pytest.raises(BadConfig, match="something else than one label"):
        Vocabulary.of(domain, "text", VocabularySettings(file="labels.csv"), tmp_path)
