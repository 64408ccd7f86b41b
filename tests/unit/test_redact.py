"""Redaction at the door: what becomes of an element, and that doing it twice is doing it once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptd.config import Limits, Redact
from adaptd.errors import BadConfig
from adaptd.feeds.elements import element
from adaptd.ingest import Door
from adaptd.records import canonical
from adaptd.redact import Redactor, redactor
from adaptd.text import Text

ALL = ["email", "phone", "card", "iban", "id", "ip"]
EVENT = {"id": "bob@example.com/1", "text": "我是 bob@example.com，电话13812345678", "subject": "Bob@Example.com",
         "source": "crm", "answer": {"why": "card 4111 1111 1111 1111"}, "phone": 13812345678, "n": 1700000000000,
         "from 10.0.0.1": ["x"], "label": "lost"}
NEEDLES = ("bob", "13812345678", "4111", "10.0.0.1")


def policy(action: str = "replace", **settings: Any) -> Redactor:
    made = redactor(Redact(entities=ALL, action=action, **settings), b"key", "domains.text.redact")  # type: ignore[arg-type]
    assert made is not None
    return made


def door(action: str = "replace") -> Door:
    return Door(Text(), Limits(), b"key", lambda: 1_777_900_000.0, policy(action))


def test_without_entities_nothing_is_touched() -> None:
    assert redactor(Redact(), b"key", "x") is None


@pytest.mark.parametrize("action", ["replace", "hash"])
def test_an_item_holds_nothing_of_it_and_is_the_same_again(action: str) -> None:
    [(_, item)], rejected = door(action).items([EVENT], source="http")
    assert not rejected
    kept = canonical(item.payload) + canonical([item.key, item.subject, item.source, item.answer])
    assert not [needle for needle in NEEDLES if needle in kept.lower()], kept
    assert item.payload["n"] == 1700000000000 and item.source == "crm" and item.label == "lost"
    again = {**item.payload, "id": item.key, "subject": item.subject, "source": item.source, "answer": item.answer}
    [(_, same)], _ = door(action).items([again], source="http")
    assert (same.digest, same.key, same.subject, same.content) == (item.digest, item.key, item.subject, item.content)
    assert item.subject == door(action).named("bob@example.com"), "every spelling is one person"
    assert item.subject != door(action).named("eve@example.com")


def test_replaced_by_what_it_was_or_by_a_token_of_its_own() -> None:
    text = "a@b.com or c@d.com, A@B.com"
    assert policy().text(text) == "<EMAIL> or <EMAIL>, <EMAIL>"
    first, _, third = (part.strip(" ,") for part in policy("hash").text(text).replace("or", ",").split(","))
    assert first == third and first.startswith("<EMAIL:")
    other = Redactor(policy("hash").settings, policy().finder, b"another store")
    assert other.text("a@b.com") != first, "only with the store's key can it be compared"


def test_reject_says_where_and_not_what() -> None:
    good, rejected = door("reject").items([{"text": "mail a@b.com"}, {"text": "fine", "tags": [{"x": "+14155552671"}]},
                                           {"text": "fine", "subject": "a@b.com"}, {"text": "fine"}], source="http")
    assert [index for index, _ in good] == [3]
    assert [one["error"]["field"] for one in rejected] == ["text", "tags[0].x", "subject"]
    assert "a@b" not in json.dumps(rejected)


@pytest.mark.parametrize("label", ["a@b.com", "<EMAIL>", "<PHONE:abcdefghabcdefgh>"])
def test_a_label_is_refused_as_another_class_would_be_learned(label: str) -> None:
    good, rejected = door().items([{"text": "x", "label": label}], source="http")
    assert not good and rejected[0]["error"]["field"] == "label" and "a@b" not in json.dumps(rejected)
    assert not door().feedback([{"event": "e", "label": label}], source="http")[0]


def test_late_labels_find_their_event() -> None:
    [(_, item)], _ = door().items([EVENT], source="http")
    given = {"source": "crm", "id": EVENT["id"], "label": "x", "teacher": "ann@example.com"}
    [(_, late)], _ = door().feedback([given], source="http")
    assert late.key == item.key and "ann" not in late.teacher


@pytest.mark.parametrize("raw", [
    json.dumps({"body": {"text": ["a\u00e9 bob@example.com"]}, "tel": 13812345678}).encode(),  # escaped: \u00e9
    b'{"text": "bob\\u0040example.com"}',
    b'{"text": "bob@example.com", ',
    "我的电话13812345678".encode("utf-16"),
    "bob@example.com".encode("utf-16-le"),
    b"bob@example.com\xff",
])
def test_a_dead_letter_holds_nothing_of_it(raw: bytes) -> None:
    came = element(raw, "null", key="bob@example.com", about={"headers": {"from": "bob@example.com"}})
    item, reason = policy().letter(came, '{"message":"no head bob@example.com"}')
    kept = item.raw + canonical([item.key, item.about, reason]).encode()
    for needle in ("bob", "13812345678"):
        assert needle.encode() not in kept.replace(b"\0", b""), kept
    twice, _ = policy().letter(element(item.raw, "null", key=item.key, about=item.about), reason)
    if came.value is not None:
        assert (twice.raw, twice.key, twice.about) == (item.raw, item.key, item.about)


def test_a_letter_that_is_tried_again_is_the_event_that_came() -> None:
    item, _ = policy().letter(element(json.dumps(EVENT).encode(), "null"), "")
    [(_, again)], _ = door().items([json.loads(item.raw)], source="http")
    [(_, first)], _ = door().items([EVENT], source="http")
    assert (again.key, again.digest, again.subject) == (first.key, first.digest, first.subject)


def test_a_region_without_a_plan_is_refused() -> None:
    with pytest.raises(BadConfig, match="XX"):
        policy(regions=["XX"])


PIECES = st.sampled_from(["a@b.com", "138", "1234", "5678", "13812345678", " ", "-", "电话", "<EMAIL>", "+1", "4111111111111111",
                          "@", "x", "\uff11", "(415) 555-2671", "10.0.0.1", "."])
VALUES = st.lists(PIECES, max_size=6).map("".join) | st.integers(0, 10**17) | st.none()


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "text", "x", "subject"]), VALUES | st.lists(VALUES, max_size=2)),
       st.sampled_from([policy("replace"), policy("hash")]))
def test_twice_is_once(fields: dict[str, Any], by: Redactor) -> None:
    once = by.element(fields)
    assert by.element(once) == once
