"""The door: what is good becomes a record, what is bad is rejected by index with field and cure."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from adaptd.config import Limits
from adaptd.errors import BadPayload
from adaptd.heads import Classify
from adaptd.ingest import Door
from adaptd.interfaces import Domain
from adaptd.records import MISSING, Example
from adaptd.text import Text

NOW = 1_777_900_000.0
LIMITS = Limits(characters=1000)


def door(domain: Domain | None = None) -> Door:
    """Return a door with a clock that stands still."""
    return Door(domain or Text(), LIMITS, b"key", lambda: NOW)


class Mail(Domain):
    """Two heads."""

    name = "mail"
    heads = {"topic": Classify(), "mood": Classify()}

    def example(self, payload: Mapping[str, Any]) -> Example:
        """Read the body."""
        return Example(text=payload["body"])


def test_a_full_event_becomes_an_item() -> None:
    """The envelope is taken apart; every other field is the payload."""
    raw = {"id": 7, "text": "  Lost  CARD ", "label": " lost ", "answer": "other", "time": "2026-05-04T12:00:00+02:00",
           "source": "crm", "subject": "c-1", "channel": {"kind": "mail", "tags": ["a"]}}
    [(index, item)], rejected = door().items([raw], source="http")
    assert (index, rejected) == (0, [])
    assert item.payload == {"text": "  Lost  CARD ", "channel": {"kind": "mail", "tags": ["a"]}}
    assert (item.key, item.source, item.subject, item.answer) == ("7", "crm", "c-1", "other")
    assert (item.label, item.targets) == (" lost ", {"label": "lost"})
    assert item.time == 1_777_888_800.0
    assert item.content == hmac.digest(b"key", b"lost card", hashlib.sha256)[:16]


def test_only_the_payload_is_needed() -> None:
    """The source is the sender's; JSON's null counts as absent."""
    raw = [{"text": "a"}, {"text": "a", "id": None, "label": None, "answer": None, "time": None, "source": None,
                           "subject": None}]
    good, rejected = door().items(raw, source="http")
    assert not rejected
    for _, item in good:
        assert (item.source, item.key, item.label, item.answer, item.time, item.subject, item.targets) == \
            ("http", None, MISSING, MISSING, None, None, {})


@pytest.mark.parametrize("moment", [NOW, int(NOW), NOW + 300, 0, "2026-05-04T12:00:00Z", "20260504T120000.5+0000"])
def test_a_time_is_a_zoned_string_or_a_number(moment: Any) -> None:
    """Up to five minutes ahead."""
    [(_, item)], _ = door().items([{"text": "a", "time": moment}], source="http")
    assert isinstance(item.time, float)


def nested(depth: int) -> Any:
    """Return lists in lists."""
    return [] if depth == 0 else [nested(depth - 1)]


BAD: list[tuple[Any, str | None, str]] = [
    (None, None, "not null"),
    ("text", None, "not a string"),
    (["text"], None, "not a list"),
    (3, None, "not a number"),
    ({}, "text", "needs a text"),
    ({"text": 3}, "text", "must be a string"),
    ({"text": ""}, "text", "empty"),
    ({"text": " \u200b\n"}, "text", "empty"),
    ({"text": "a" * 1001}, "text", "limit is 1000"),
    ({"text": "a", "meta": {"notes": ["b", "c" * 1001]}}, "meta.notes[1]", "limit is 1000"),
    ({"text": "\ud800"}, "text", "lone surrogate"),
    ({"text": "a", "label": "\ud800"}, "label", "lone surrogate"),
    ({"text": "a", "id": "\udc00"}, "id", "lone surrogate"),
    ({"text": "a", "m": [{"k": "\udc00"}]}, "m[0].k", "lone surrogate"),
    ({"text": "a", "\ud800": 1}, "\\ud800", "lone surrogate"),
    ({"text": "a", "n": float("nan")}, "n", "not a JSON number"),
    ({"text": "a", "n": [float("inf")]}, "n[0]", "not a JSON number"),
    ({"text": "a", "n": 1 << 63}, "n", "64 bits"),
    ({"text": "a", "id": 1 << 64}, "id", "64 bits"),
    ({"text": "a", "n": nested(40)}, None, "nested deeper"),
    ({"text": "a", "n": b"bytes"}, "n", "not a JSON value"),
    ({"text": "a", "time": "2026-05-04T12:00:00"}, "time", "no zone"),
    ({"text": "a", "time": "2026-05-04"}, "time", "no zone"),
    ({"text": "a", "time": "yesterday"}, "time", "not ISO 8601"),
    ({"text": "a", "time": True}, "time", "not bool"),
    ({"text": "a", "time": [1]}, "time", "not list"),
    ({"text": "a", "time": NOW + 301}, "time", "301 s in the future"),
    ({"text": "a", "time": NOW * 1000}, "time", "in the future"),
    ({"text": "a", "time": 1e300}, "time", "in the future"),
    ({"text": "a", "time": -1e300}, "time", "before the year 1"),
    ({"text": "a", "time": "2999-01-01T00:00:00Z"}, "time", "in the future"),
    ({"text": "a", "id": ""}, "id", "empty"),
    ({"text": "a", "id": "x" * 257}, "id", "limit is 256"),
    ({"text": "a", "id": "a\0b"}, "id", "U+0000"),
    ({"text": "a", "id": "a\nb"}, "id", "U+000A"),
    ({"text": "a", "id": 1.5}, "id", "not a number"),
    ({"text": "a", "id": True}, "id", "not a boolean"),
    ({"text": "a", "source": ""}, "source", "empty"),
    ({"text": "a", "source": "s" * 129}, "source", "limit is 128"),
    ({"text": "a", "source": 5}, "source", "not a number"),
    ({"text": "a", "subject": {"name": "x"}}, "subject", "not an object"),
    ({"text": "a", "label": ""}, "label", "empty"),
    ({"text": "a", "label": 5}, "label", "must be a string"),
    ({"text": "a", "label": ["a"]}, "label", "must be a string"),
    ({"text": "a", "label": "l" * 257}, "label", "limit is 256"),
    ({"text": "a", "label": "l" * 10_000}, "label", "limit is 1000"),
    ({"text": "a", "label": "a\0"}, "label", "NUL"),
]


@pytest.mark.parametrize(("element", "field", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_element_is_rejected_alone(element: Any, field: str | None, message: str) -> None:
    """Its neighbours are accepted; the error names the field and the cure, and can be sent."""
    good, [rejected] = door().items([{"text": "before"}, element, {"text": "after"}], source="http")
    assert [index for index, _ in good] == [0, 2]
    assert rejected["index"] == 1
    error = rejected["error"]
    assert error["code"] == "bad_payload"
    assert message in error["message"]
    assert field is None or error["field"] == field
    str(error).encode()


def test_a_domain_with_several_heads_takes_some_of_them() -> None:
    """Each target is checked by its own head."""
    raw = [{"body": "a", "label": {"topic": "card"}}, {"body": "a", "label": {"topic": "card", "mood": 3}},
           {"body": "a", "label": {"colour": "red"}}, {"body": "a", "label": "card"}, {"body": "a", "label": {}}]
    [(_, item)], rejected = door(Mail()).items(raw, source="http")
    assert item.targets == {"topic": "card"}
    assert [(one["index"], one["error"]["field"]) for one in rejected] == \
        [(1, "label.mood"), (2, "label"), (3, "label"), (4, "label")]
    assert "mood, topic" in rejected[1]["error"]["hint"]


def _raises(*_: Any) -> Any:
    raise KeyError("boom")


@pytest.mark.parametrize(("method", "broken"), [
    ("example", _raises), ("content", _raises), ("targets", _raises), ("targets", lambda _: 5),
    ("content", lambda _: None), ("content", lambda _: "\ud800")])
def test_a_failing_plugin_costs_one_element(method: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
                                            caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises or returns; the log has the traceback."""
    domain = Text()
    monkeypatch.setattr(domain, method, broken)
    with caplog.at_level(logging.WARNING):
        good, [rejected] = door(domain).items([{"text": "a", "label": "b"}], source="http")
    assert not good
    assert rejected["error"]["code"] == "plugin_error"
    assert f"'text' failed in {method}" in rejected["error"]["message"]
    assert caplog.records[0].exc_info


def test_targets_are_checked_for_who_asks_later() -> None:
    """A held label is learned at last."""
    assert door().targets(" lost ") == {"label": "lost"}
    with pytest.raises(BadPayload):
        door().targets(5)


def test_feedback_names_its_event_in_either_way() -> None:
    """The sender is the teacher, and the source of an event that names none."""
    raw = [{"event": "e1", "label": "a"}, {"source": "crm", "id": 7, "label": "a"}, {"id": "8", "label": "a"}]
    good, rejected = door().feedback(raw, source="http")
    assert not rejected
    assert [(one.event, one.source, one.key, one.teacher) for _, one in good] == \
        [("e1", None, None, "http"), (None, "crm", "7", "http"), (None, "http", "8", "http")]
    assert good[0][1].targets == {"label": "a"}


def test_feedback_may_name_its_teacher() -> None:
    """Where that is not who sends it: the source of an event without one stays the sender's."""
    raw = [{"event": "e1", "label": "a", "teacher": "review:ana"}, {"id": "8", "label": "a", "teacher": "review:ana"}]
    good, rejected = door().feedback(raw, source="http")
    assert not rejected and {one.teacher for _, one in good} == {"review:ana"} and good[1][1].source == "http"


@pytest.mark.parametrize(("element", "field"), [
    ({"event": "e", "label": "a", "teacher": ""}, "teacher"), ({"event": "e", "label": "a", "teacher": 5}, "teacher"),
    ([], None), ({}, "event"), ({"label": "a"}, "event"), ({"event": "e"}, "label"),
    ({"event": "e", "label": None}, "label"), ({"source": "s", "label": "a"}, "event"),
    ({"event": "e", "id": "i", "label": "a"}, "event"), ({"event": 5, "label": "a"}, "event"),
    ({"event": "", "label": "a"}, "event"), ({"event": "e", "label": 5}, "label"),
    ({"event": "\ud800", "label": "a"}, "event"), ({"event": "e", "lable": "a"}, "lable")])
def test_bad_feedback_is_rejected_alone(element: Any, field: str | None) -> None:
    """A misspelt field is answered with the right one."""
    good, [rejected] = door().feedback([element, {"event": "e", "label": "a"}], source="http")
    assert len(good) == 1
    assert rejected["index"] == 0
    assert rejected["error"].get("field") == field
    assert rejected["error"]["hint"]
