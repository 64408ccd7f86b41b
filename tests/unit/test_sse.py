"""Server-sent events: the standard's parsing, wherever the bytes are cut, and what a server may answer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from adaptd.errors import BadConfig, BadPayload
from adaptd.feeds import sse
from adaptd.feeds.elements import LONGEST, Fields
from adaptd.feeds.sse import Parser, Sent, ServerSentEvents

WAIT_S = 20.0
# of the HTML standard's section 9.2, and what is easily got wrong
STREAMS: Sequence[tuple[bytes, Sequence[tuple[bytes, str, str | None, str]]]] = [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [(b"YHOO\n+2\n10", "message", None, "")]),
    (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
     [(b"first event", "message", "1", "1"), (b"second event", "message", None, ""), (b" third event", "message", None, "")]),
    (b"data\n\ndata\ndata\n\ndata:", [(b"", "message", None, ""), (b"\n", "message", None, "")]),
    (b"data:test\n\ndata: test\n\n", [(b"test", "message", None, ""), (b"test", "message", None, "")]),
    (b"\xef\xbb\xbfevent: a\r\ndata: 1\r\rid: 2\n\nevent: b\n\ndata: 3\n\n",
     [(b"1", "a", None, ""), (b"3", "message", None, "2")]),
    (b"id: 1\ndata: x\n\nid: 2\ndata: never ended\n", [(b"x", "message", "1", "1")]),
    (b"id: 1\0\nData: no\nunknown: y\ndata: \xc3\xa9\n\n", [("é".encode(), "message", None, "")]),
]


@pytest.mark.parametrize("stream, wanted", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_are_the_standard_s_wherever_the_bytes_are_cut(stream: bytes, size: int,
                                                             wanted: Sequence[tuple[bytes, str, str | None, str]]) -> None:
    parser = Parser("")
    found = [one for at in range(0, len(stream), size) for one in parser.feed(stream[at:at + size])]
    assert found == [Sent(data=data, event=event, id=own, last_id=last) for data, event, own, last in wanted]


def test_an_event_that_is_cut_moves_no_place_and_retry_is_read() -> None:
    parser = Parser("7")
    assert [*parser.feed(b"retry: 1500\nid: 8\ndata: x\n")] == [] and (parser.last_id, parser.retry_s) == ("7", 1.5)
    assert next(parser.feed(b"retry: soon\n\n")).id == "8" and (parser.last_id, parser.retry_s) == ("8", 1.5)


def test_an_event_without_end_does_not_fill_the_memory() -> None:
    parser = Parser("")
    for _ in range(12):
        assert [*parser.feed(b"data: " + b"x" * (1 << 20))] == []
    for _ in range(12):
        assert [*parser.feed(b"\ndata: " + b"x" * (1 << 20))] == []
    (sent,) = parser.feed(b"\n\n")
    assert LONGEST < len(sent.data) < LONGEST + 100
    item = sse._item(sent)
    assert item.error is not None and "longer than" in item.error and len(item.raw) < LONGEST


def test_an_event_without_an_id_needs_one_in_its_data() -> None:
    named, unnamed = (sse._item(Sent(data=b'{"text": "t", "n": 5}', event="e", id=own, last_id="3")) for own in ("3", None))
    assert Fields(paths={}, needs_key=True).event(named)["id"] == "3"
    assert Fields(paths={"id": "n"}, needs_key=True).event(unnamed) == {"id": 5}
    for paths in ({}, {"id": "none"}):
        with pytest.raises(BadPayload) as refused:
            Fields(paths=paths, needs_key=True).event(unnamed)
        assert refused.value.field == "id" and refused.value.hint


@pytest.mark.parametrize("headers", [{"Last-Event-ID": "3"}, {"X": "a\nb"}, {"X": 3}])
def test_headers_that_cannot_be_are_refused(headers: Any) -> None:
    with pytest.raises((BadConfig, ValueError)) as refused:
        ServerSentEvents(url="http://host", headers=headers)
    assert "a\nb" not in str(refused.value)
    assert "hunter2" not in repr(ServerSentEvents(url="http://host", headers={"Authorization": "Bearer hunter2"}))


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((time.monotonic(), dict(self.headers)))
        status, kind, body = server.answers[min(len(server.asked), len(server.answers)) - 1]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Location", "http://elsewhere/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = HTTPServer(("127.0.0.1", 0), Answers)
    made.asked, made.answers = [], []
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def read(server: Any, number: int, **options: Any) -> list[Any]:
    feed: Any = ServerSentEvents(url=f"http://127.0.0.1:{server.server_address[1]}/x", wait_s=0.05, **options)

    async def some() -> list[Any]:
        found: list[Any] = []
        async with aclosing(feed.read(None)) as batches:
            async for batch in batches:
                found += batch
                if len(found) >= number:
                    break
        return found

    return asyncio.run(asyncio.wait_for(some(), WAIT_S))


def test_the_last_id_the_wait_and_the_headers_are_sent(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "AGAIN_S", 0.01)
    event = sse.TYPE
    server.answers = [(200, event, 'retry: 300\nid: ä1\ndata: {"n": 1}\n\nid: 2\ndata: {"n"'.encode()),
                      (200, event, b'id: 2\nevent: ping\ndata: {}\n\nid: 3\nevent: x\ndata: {"n": 2}\n\n')]
    found = read(server, 2, headers={"Authorization": "Bearer hunter2"}, events=["message", "x"])
    assert [one.value["n"] for one in found] == [1, 2] and found[1].about == {"id": "3", "event": "x"}
    (began, first), (again, second) = server.asked
    assert again - began >= 0.3, "the server asked for a pause"
    assert "Last-Event-ID" not in first and second["Last-Event-ID"].encode("latin-1").decode() == "ä1"
    assert first["Authorization"] == "Bearer hunter2"


def test_a_server_that_says_nothing_and_none_at_all_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for words in ("ReadTimeout", "failed"):
            with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not answer: .*{words}"):
                read(type("Where", (), {"server_address": ("", port)}), 1, silent_s=0.1)
            silent.close()


@pytest.mark.parametrize("answer, words", [
    ((401, sse.TYPE, b""), "answered 401"), ((204, sse.TYPE, b""), "answered 204"), ((200, "text/html", b"<p>"), "text/html"),
    ((302, sse.TYPE, b""), "302 Found: http://elsewhere/"),
])
def test_another_answer_is_an_error_that_says_what_it_was(server: Any, answer: Any, words: str) -> None:
    server.answers = [answer]
    with pytest.raises(ConnectionError, match=words):
        read(server, 1)
