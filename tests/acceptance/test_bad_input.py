"""Bad input over HTTP: each gets its status, code, field and cure, nothing of it is journalled, the daemon lives on."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.acceptance.daemon import WAIT_S, Daemon, Json

pytestmark = pytest.mark.acceptance


def counted(daemon: Daemon) -> list[tuple[Any, ...]]:
    """Return how much is journalled and learned."""
    return daemon.rows("SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM label), (SELECT count(*) FROM learned),"
                       " (SELECT count(*) FROM version), (SELECT count(*) FROM hold)")


@pytest.fixture
def unharmed(shared: Daemon) -> Iterator[Daemon]:
    """Return the daemon; afterwards nothing is journalled and it answers still."""
    before = counted(shared)
    yield shared
    assert counted(shared) == before
    assert shared.status()["state"] == "running" and shared.ask("GET", "/readyz")[0] == 200


def refused(answer: tuple[int, Json], status: int, code: str, field: str | None = None) -> Json:
    """Check an error answer and return its error object."""
    error: Json = answer[1]["error"]
    assert (answer[0], error["code"]) == (status, code), answer
    assert error["message"] and error["hint"], error
    if field is not None:
        assert error["field"] == field, error
    return error


NOT_JSON: list[tuple[bytes, str]] = [
    (b"", "empty"), (b"{", "line 1"), (b"card lost", "line 1"), (b'{"text": "a"} {"text": "b"}', "Extra data"),
    (b'{"text": "a", "text": "b"}', "duplicate key"), (b'{"text": NaN}', "NaN"), (b'{"text": "a", "x": 1e999}', "1e999"),
    (b'{"text": "a", "x": -Infinity}', "Infinity"), (b'{"text": "a", "x": 9223372036854775808}', "64 bits"),
    (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "64 bits"), (b'{"text": "\xff"}', "UTF-8"),
    (b"\xef\xbb\xbf{}", "byte order mark"), ('{"text": "a"}'.encode("utf-16"), "UTF-8"),
    (b'{"text": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deeper"),
]


@pytest.mark.parametrize(("body", "words"), NOT_JSON, ids=[words for _, words in NOT_JSON])
@pytest.mark.parametrize("route", ["predict", "events", "feedback"])
def test_what_is_not_strict_json_is_refused_with_the_place(unharmed: Daemon, route: str, body: bytes, words: str) -> None:
    status, answer = unharmed.ask("POST", f"/v1/text/{route}", body)
    assert (status, answer["error"]["code"]) == (400, "bad_request"), answer
    assert words in answer["error"]["message"]


EVENTS: list[tuple[str, Any, str | None]] = [
    ("no text", {"label": "a"}, "text"),
    ("text of null", {"text": None}, "text"),
    ("text of a number", {"text": 7}, "text"),
    ("text of a list", {"text": ["a"]}, "text"),
    ("an empty text", {"text": ""}, "text"),
    ("a text of blanks", {"text": " \t\n\u200b"}, "text"),
    ("a text that is too long", {"text": "a" * 100_001}, "text"),
    ("a lone surrogate", {"text": "card \ud800"}, "text"),
    ("a lone surrogate in another field", {"text": "a", "more": {"deep": ["\udfff"]}}, "more.deep[0]"),
    ("a label of 10,000 characters", {"text": "a", "label": "x" * 10_000}, "label"),
    ("an empty label", {"text": "a", "label": " "}, "label"),
    ("a label of a number", {"text": "a", "label": 3}, "label"),
    ("a label of an object", {"text": "a", "label": {"a": 1}}, "label"),
    ("a label with NUL", {"text": "a", "label": "a\0b"}, "label"),
    ("an event from the future", {"text": "a", "time": "2999-01-01T00:00:00Z"}, "time"),
    ("milliseconds for seconds", {"text": "a", "time": 1_777_777_777_000}, "time"),
    ("a time without a zone", {"text": "a", "time": "2026-05-04T14:05:00"}, "time"),
    ("a time that is none", {"text": "a", "time": "yesterday"}, "time"),
    ("a time of a boolean", {"text": "a", "time": True}, "time"),
    ("an empty id", {"text": "a", "id": ""}, "id"),
    ("an id with NUL", {"text": "a", "id": "a\0"}, "id"),
    ("an id that is too long", {"text": "a", "id": "x" * 257}, "id"),
    ("an id of a fraction", {"text": "a", "id": 1.5}, "id"),
    ("a source of a list", {"text": "a", "source": []}, "source"),
    ("a source that is too long", {"text": "a", "source": "x" * 129}, "source"),
    ("a subject of a number", {"text": "a", "subject": 1}, "subject"),
    ("a string for an event", "card lost", None),
    ("null for an event", None, None),
    ("a list for an event", [{"text": "a"}], None),
]
IDS = [name for name, _, _ in EVENTS]


@pytest.mark.parametrize(("event", "field"), [(event, field) for _, event, field in EVENTS], ids=IDS)
def test_a_bad_event_is_refused_with_its_field(unharmed: Daemon, event: Any, field: str | None) -> None:
    answer = unharmed.ask("POST", "/v1/text/events", [event])
    refused(answer, 422, "unprocessable", field)
    (rejection,) = answer[1]["rejected"]
    assert rejection["index"] == 0 and rejection["error"]["code"] == "bad_payload"


@pytest.mark.parametrize(("event", "field"), [(event, field) for _, event, field in EVENTS], ids=IDS)
def test_a_bad_input_to_predict_is_refused_with_its_place(unharmed: Daemon, event: Any, field: str | None) -> None:
    answer = unharmed.ask("POST", "/v1/text/predict", {"inputs": [{"text": "fine"}, event]})
    error = refused(answer, 422, "bad_payload")
    assert error["field"] == f"inputs[1].{field}" if field else error["field"].startswith("inputs[1]")


@pytest.mark.parametrize(("feedback", "field"), [
    ({"label": "a"}, "event"), ({"event": "1-x"}, "label"), ({"event": "1-x", "label": None}, "label"),
    ({"event": "1-x", "label": "x" * 10_000}, "label"), ({"event": 5, "label": "a"}, "event"),
    ({"event": "1-x", "id": "2", "label": "a"}, "event"), ({"event": "1-x", "lable": "a"}, "lable"),
    ({"event": "\ud800", "label": "a"}, "event"), ("a", None)])
def test_bad_feedback_is_refused_with_its_field(unharmed: Daemon, feedback: Any, field: str | None) -> None:
    refused(unharmed.ask("POST", "/v1/text/feedback", [feedback]), 422, "unprocessable", field)


def test_feedback_for_an_unknown_event_is_not_found(unharmed: Daemon) -> None:
    for one in ({"event": "999999-abc", "label": "a"}, {"source": "crm", "id": "nobody", "label": "a"}):
        refused(unharmed.ask("POST", "/v1/text/feedback", one), 404, "not_found", "event")


@pytest.mark.parametrize("route", ["predict", "events", "feedback", "adapt", "snapshot", "rollback", "replay", "hold",
                                   "resume"])
def test_an_unknown_domain_is_named_with_those_there_are(unharmed: Daemon, route: str) -> None:
    body = {"inputs": [{"text": "a"}]} if route == "predict" else {"text": "a"} if route == "events" else \
        {"event": "1-x", "label": "a"} if route == "feedback" else {"since": 0} if route == "replay" else {}
    error = refused(unharmed.ask("POST", f"/v1/nowhere/{route}", body), 404, "unknown_domain", "domain")
    assert "text" in error["hint"]


@pytest.mark.parametrize(("route", "body", "field"), [
    ("predict", {}, "inputs"), ("predict", {"inputs": []}, "inputs"), ("predict", {"inputs": "a"}, "inputs"),
    ("predict", {"inputs": [{"text": "a"}], "explain": "yes"}, "explain"),
    ("predict", {"inputs": [{"text": "a"}], "min_seq": -1}, "min_seq"),
    ("predict", {"inputs": [{"text": "a"}], "min_seq": 1 << 62}, "min_seq"),
    ("predict", {"inputs": [{"text": "a"}], "explian": True}, "explian"),
    ("predict", {"inputs": [{"text": "a", "label": "b"}]}, "label"),
    ("snapshot", {"reason": 1}, "reason"), ("snapshot", {"reason": "x" * 1001}, "reason"), ("snapshot", [], None),
    ("hold", {"what": "breath"}, "what"), ("hold", {"drop": True}, "drop"), ("resume", {"source": None}, "source"),
    ("resume", {"drop": True}, "drop"), ("resume", {"what": "adaptation", "source": "a", "drop": True}, "drop"),
    ("adapt", {"wait": "true"}, "wait"),
    ("replay", {}, "since"), ("replay", {"since": None}, "since"),
    ("replay", {"since": 1, "except_sources": [1]}, "except_sources.0"),
    ("promote", {}, "to"), ("promote", {"to": "9"}, "to"), ("memory/search", {"text": "a", "k": 0}, "k"),
    ("memory/search", {"text": "a", "k": 1001}, "k"), ("memory/search", {"text": ""}, "text")])
def test_wrong_types_and_unknown_fields_are_refused_by_name(unharmed: Daemon, route: str, body: Any, field: str | None) -> None:
    status, answer = unharmed.ask("POST", f"/v1/text/{route}", body)
    assert status == 422 and answer["error"]["hint"], answer
    assert answer["error"].get("field") == field


def test_a_text_of_10_mb_is_refused_before_it_is_read(unharmed: Daemon) -> None:
    body = json.dumps({"text": "a" * 10_000_000}).encode()
    for route in ("events", "predict", "feedback"):
        began = time.monotonic()
        refused(unharmed.ask("POST", f"/v1/text/{route}", body), 413, "too_large")
        assert time.monotonic() - began < WAIT_S


def test_more_elements_than_the_limit_are_refused(unharmed: Daemon) -> None:
    many = [{"text": "a"}] * 1001
    refused(unharmed.ask("POST", "/v1/text/events", many), 413, "too_large")
    refused(unharmed.ask("POST", "/v1/text/predict", {"inputs": many}), 413, "too_large", "inputs")


@pytest.mark.parametrize(("headers", "status"), [
    ("content-type: text/plain", 415), ("content-type: application/json; charset=latin-1", 415),
    ("content-encoding: gzip", 415), ("content-type: multipart/form-data", 415)])
def test_what_is_not_announced_as_json_is_not_read(unharmed: Daemon, headers: str, status: int) -> None:
    head, body = raw(unharmed, f"POST /v1/text/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
                               'content-length: 13\r\n\r\n{"text": "a"}')
    assert f" {status} " in head and json.loads(body)["error"]["code"] == "unsupported_media_type"


def test_a_chunked_body_over_the_limit_is_cut_off_at_the_byte(unharmed: Daemon) -> None:
    chunk = "100000\r\n" + "a" * (1 << 20) + "\r\n"
    head, body = raw(unharmed, "POST /v1/text/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                               "transfer-encoding: chunked\r\n\r\n" + chunk * 9)
    assert " 413 " in head and json.loads(body)["error"]["code"] == "too_large"


@pytest.mark.parametrize("request_line", ["GARBAGE", "GET / HTTP/9.9", "POST /v1/text/events", "\0\0\0"])
def test_what_is_not_http_gets_400_or_is_dropped(unharmed: Daemon, request_line: str) -> None:
    head, _ = raw(unharmed, request_line + "\r\n\r\n")
    assert head == "" or " 400 " in head


def test_a_client_that_hangs_up_in_its_body_harms_nobody(unharmed: Daemon) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(unharmed.paths.socket))
        client.sendall(b"POST /v1/text/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n[{")


def test_unknown_routes_and_methods_are_errors_of_the_same_shape(unharmed: Daemon) -> None:
    for method, path, status in (("GET", "/v1/text/nothing", 404), ("GET", "/v1/text/events", 405), ("PUT", "/v1/status", 405),
                                 ("GET", "/v1/history?limit=many", 422), ("GET", "/v1/text/explain/none", 404)):
        answered, document = unharmed.ask(method, path)
        assert answered == status and document["error"]["code"] and document["error"]["hint"]


def test_a_batch_with_bad_elements_keeps_the_good_ones(shared: Daemon, domain: str) -> None:
    events = [{"text": f"good number {n}", "label": "good", "id": str(n)} for n in range(20)]
    events[3], events[17] = {"text": "", "id": "3"}, {"text": "x", "label": 7}
    done = shared.post(f"{domain}/events", events, 202)
    assert (done["accepted"], [r["index"] for r in done["rejected"]]) == (18, [3, 17])
    assert [r["error"]["field"] for r in done["rejected"]] == ["text", "label"]
    assert [n for n, event in enumerate(done["events"]) if event is None] == [3, 17]
    assert shared.domain(domain)["memory"] == 18


def test_ndjson_with_a_broken_line_keeps_the_others(shared: Daemon, domain: str) -> None:
    lines = b'{"text": "one", "label": "a"}\n\n{"text": \n{"text": "three", "label": "b"}\n[1]'
    head, body = raw(shared, f"POST /v1/{domain}/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                             f"content-type: application/x-ndjson\r\ncontent-length: {len(lines)}\r\n\r\n" + lines.decode())
    done = json.loads(body)
    assert " 202 " in head and done["accepted"] == 2
    assert [r["index"] for r in done["rejected"]] == [1, 3] and "line 3" in done["rejected"][0]["error"]["message"]


def test_the_same_id_with_another_payload_is_a_conflict_and_changes_nothing(shared: Daemon, domain: str) -> None:
    shared.teach([{"text": "first", "id": "7", "label": "a"}], domain)
    before = counted(shared)
    answer = shared.ask("POST", f"/v1/{domain}/events", {"text": "second", "id": "7", "label": "b"})
    refused(answer, 422, "unprocessable", "id")
    assert answer[1]["rejected"][0]["error"]["code"] == "conflict"
    refused(shared.ask("POST", f"/v1/{domain}/predict", {"inputs": [{"text": "third", "id": "7"}]}), 409, "conflict")
    answer = shared.ask("POST", f"/v1/{domain}/events", {"text": "first", "id": "7", "label": "b"})
    refused(answer, 422, "unprocessable", "label")
    assert counted(shared) == before
    assert shared.rows("SELECT payload FROM event WHERE key = '7' AND domain = (SELECT id FROM domain WHERE name = ?)",
                       domain) == [('{"text":"first"}',)]


def test_long_texts_are_answered_and_flagged_as_truncated(shared: Daemon, domain: str) -> None:
    answer = shared.predict("word " * 19_000, domain=domain)["predictions"][0]
    assert answer["truncated"] is True
    odd = ["日本語のテキスト", "\u202eright to left", "😀" * 50, "a\u0301" * 100, "tab\tand\x07bell", "ZWJ \u200d text"]
    assert len(shared.predict(*odd, domain=domain)["predictions"]) == len(odd)


def raw(daemon: Daemon, request: str) -> tuple[str, str]:
    """Send bytes as they are; return the answer's first line and body, both empty when there is none."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(WAIT_S)
        client.connect(str(daemon.paths.socket))
        try:
            client.sendall(request.encode("latin-1"))
        except (BrokenPipeError, ConnectionResetError):
            pass  # answered before all was sent
        answer = http.client.HTTPResponse(client)
        try:
            answer.begin()
        except (http.client.HTTPException, ConnectionResetError):
            return "", ""
        return f"HTTP/1.1 {answer.status} {answer.reason}", answer.read().decode()
