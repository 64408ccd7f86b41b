"""Words, tags and spans, and what a head of spans takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import seqeval.metrics as seqeval
from hypothesis import assume, given
from hypothesis import strategies as st

from adaptd import scores
from adaptd.errors import BadPayload
from adaptd.heads import Spans, Tagged, answered, recorded, said
from adaptd.metrics import Outcomes, count_answers
from adaptd.records import Row, Said, event_of, part_of, place
from adaptd.words import MOST, is_cut, spans, tags, words

HEAD = Spans()
TEXT = "Ada Chang-Li moved to 北京."


def parts(text: str) -> list[str]:
    return [text[start:end] for start, end in words(text)]


def test_words_need_nothing_but_the_text_in_any_script() -> None:
    assert parts("don't, e-mail 42°") == ["don", "'", "t", ",", "e", "-", "mail", "42", "°"]
    assert parts("北京A1 ひと 서울시 Київ") == ["北", "京", "A1", "ひ", "と", "서울시", "Київ"]
    assert parts("\x00\u200b🙂 \n") == ["\x00", "\u200b", "🙂"] and parts(" \n") == []


def test_what_lies_behind_the_words_that_are_read_is_told() -> None:
    assert len(words("a " * MOST)) == MOST and not is_cut("a " * MOST) and is_cut("a " * (MOST + 1))
    assert len(words("a " * MOST + "b")) == MOST


@pytest.mark.parametrize("found", [[], [(0, 1, "x")], [(0, 2, "x"), (2, 3, "x")], [(1, 3, "y"), (4, 5, "a-b")]])
def test_tags_and_spans_say_the_same(found: list[tuple[int, int, str]]) -> None:
    assert sorted(spans(tags(found, 6))) == found
    assert set(tags(found, 6)) == set(range(6))


def test_a_span_that_cuts_a_word_is_learned_as_the_whole_one() -> None:
    label = HEAD.check([{"start": 22, "end": 23, "type": "city"}, {"start": 1, "end": 12, "type": "person"}], "label")
    found = HEAD.rows(label, TEXT)
    assert [tag for tag in found.values() if tag != "O"] == ["B-person", "I-person", "I-person", "I-person", "B-city"]


def test_an_answer_can_be_sent_back_as_it_is() -> None:
    shown = [{**HEAD.shown((0, 4, "person"), TEXT, words(TEXT)), "confidence": 0.9}]
    assert shown == [{"start": 0, "end": 12, "type": "person", "text": "Ada Chang-Li", "words": [0, 4], "confidence": 0.9}]
    assert spans(HEAD.rows(HEAD.check(shown, "label"), TEXT)) == {(0, 4, "person")}


def test_what_is_recorded_of_an_answer_is_held_against_rows_and_shown_to_people() -> None:
    label = Tagged([{**HEAD.shown((0, 4, "person"), TEXT, words(TEXT)), "confidence": 0.9}])
    stored = json.loads(json.dumps(recorded(label)))
    assert answered(stored) == [{"start": 0, "end": 12, "type": "person", "words": [0, 4]}]
    assert said(stored) == tags([(0, 4, "person")], 0) and said(json.loads(json.dumps(recorded(Tagged())))) == {}
    assert (recorded("a"), answered("a"), said(["a"]), said(None)) == ("a", "a", '["a"]', None)


@pytest.mark.parametrize("label", [[{"start": 0, "end": 30, "type": "x"}], [{"start": 3, "end": 4, "type": "x"}],
                                   [{"start": 0, "end": 1, "type": "x"}, {"start": 2, "end": 3, "type": "x"}],
                                   [{"start": 0, "end": 3, "type": "x", "text": "Adah"}]])
def test_spans_that_are_not_of_the_text_are_refused_with_field_and_cure(label: list[Any]) -> None:
    with pytest.raises(BadPayload) as error:
        HEAD.rows(HEAD.check(label, "label"), TEXT)
    assert str(error.value.field).startswith("label[") and error.value.hint


def test_an_answer_is_right_where_every_word_of_the_text_is() -> None:
    prequential, per_label = Outcomes(), dict[str, list[int]]()
    rows = [Row(id=3 * event + part, event=event, part=part, head="entities", target=tag, born=event, source="s", content=b"",
                holdout=False) for event in range(3) for part, tag in tags([(1, 3, "x")], 3).items()]
    given = {0: Said(labels={"entities": {1: "B-x", 2: "I-x"}}, confidence=0.9),
             1: Said(labels={"entities": {1: "B-x"}}, confidence=0.9), 2: Said(labels={"entities": None}, confidence=0.9)}
    assert [given[0].to(row) for row in rows[:3]] == ["O", "B-x", "I-x"]
    count_answers(prequential, per_label, rows, given)
    assert (prequential.total, prequential.right) == (3, 1)
    assert prequential.coverage == pytest.approx(2 / 3) and prequential.error == 0.5
    assert per_label == {"O": [2, 3], "B-x": [2, 3], "I-x": [1, 3]}


def test_a_word_has_a_place_of_its_own_and_the_first_one_is_named_as_the_event() -> None:
    told: dict[str, Any] = {"head": "h", "target": "O", "source": "s", "content": b"", "holdout": False}
    rows = [Row(id=1, event=7, part=part, born=7, **told) for part in (0, 3)]
    assert [row.place for row in rows] == [7, place(7, 3)] and (event_of(rows[1].place), part_of(rows[1].place)) == (7, 3)


TAGS = st.sampled_from(("O", "B-city", "I-city", "B-person", "I-person", "B-river"))


@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8), min_size=1, max_size=6))
def test_figures_of_spans_are_seqevals(texts: list[list[tuple[str, str]]]) -> None:
    answered, taught = ([[pair[side] for pair in text] for text in texts] for side in (0, 1))
    found = ([spans(dict(enumerate(tags))) for tags in side] for side in (answered, taught))
    ours = scores.entities([*zip(*found, strict=True)])
    assume(0 < ours["f1"] < 1)  # of nothing it says 0 where we say that nothing is wrong
    theirs = seqeval.classification_report(taught, answered, output_dict=True, zero_division=0)
    for name, mine in {**ours["types"], "micro avg": ours}.items():
        if mine["taught"] and mine["f1"]:
            figures = [theirs[name][one] for one in ("precision", "recall", "f1-score", "support")]
            assert figures == pytest.approx([mine[one] for one in ("precision", "recall", "f1", "taught")])
