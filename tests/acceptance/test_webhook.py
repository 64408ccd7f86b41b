"""Webhooks into a real daemon over TCP, without a token: signed, durable when answered, once."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.acceptance.conftest import CONFIG
from tests.acceptance.daemon import Daemon, until

pytestmark = pytest.mark.acceptance
SECRET = "a secret that both sides know"
TABLE = '''
[feeds.issues]
kind = "webhook"
domain = "text"
options = { secret = { "$file" = "secret" }, signature = "github", wait_s = 0.2, events = ["issues"] }
fields = { text = "issue.title", label = "issue.label", source = "@event" }
'''
Make = Callable[..., Daemon]


def started(make: Make) -> Daemon:
    """Return a daemon that knows the secret by a file."""
    daemon = make(CONFIG + TABLE)
    (daemon.folder / "secret").write_text(SECRET + "\n")
    return daemon.start()


def address(daemon: Daemon) -> str:
    return str(next(one for one in daemon.status()["listening"] if one.startswith("http://"))).removeprefix("http://")


def send(where: str, body: bytes, number: str | None, *, secret: str = SECRET, feed: str = "issues",
         event: str = "issues") -> tuple[int, Any, Any]:
    """Deliver as GitHub does; return status, document and headers."""
    headers = {"Content-Type": "application/json", "X-GitHub-Event": event,
               "X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}",
               **({} if number is None else {"X-GitHub-Delivery": number})}
    with closing(http.client.HTTPConnection(where, timeout=30)) as connection:
        connection.request("POST", f"/v1/feeds/{feed}/hook", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


def issue(number: int) -> bytes:
    return json.dumps({"issue": {"title": f"it does not start {number}", "label": "bug"}, "action": "opened"}).encode()


def numbers() -> Iterator[int]:
    yield from range(10_000)


def test_a_signed_delivery_is_an_event_and_everything_else_needs_a_token(make: Make) -> None:
    daemon = started(make)
    where = address(daemon)
    assert send(where, issue(1), "d1")[:2] == (202, {"id": "d1"})
    assert daemon.rows("SELECT key, source, payload FROM event") == [("d1", "issues", '{"text":"it does not start 1"}')]
    assert send(where, issue(1), "d1")[0] == 202, "delivered again"
    assert send(where, issue(2), "d2", event="ping")[0] == 202, "passed over"
    for wrong in ("another secret, of some length", "x"):
        status, answer, headers = send(where, issue(3), "d3", secret=wrong)
        assert (status, answer["error"]["code"], headers["www-authenticate"]) == (401, "bad_signature", "HMAC-SHA256")
    assert send(where, issue(3), "d3", feed="other")[0] == 404
    for path in ("", "/issues/pause", "/issues/hook/", "/issues/dead/drop", "/a/b/hook"):
        assert daemon.over_tcp("POST", f"/v1/feeds{path}", body={})[0] == 401, path
    assert daemon.over_tcp("GET", "/v1/feeds/issues/hook")[0] in (401, 405)
    assert daemon.rows("SELECT count(*) FROM event") == [(1,)]
    # what cannot be taken is kept, and taken from the sender's hands
    for number, poison in enumerate((b"payload=%7B%7D", b"\xff", b'["list"]', b'{"issue": {"title": 5}}')):
        assert send(where, poison, f"p{number}")[0] == 202
    assert send(where, issue(4), None)[0] == 202, "without an id it would count twice"
    assert send(where, issue(5), "d1")[0] == 202, "another body under an id that was used"
    dead = daemon.ask("GET", "/v1/feeds/issues/dead")[1]["dead"]
    assert len(dead) == 6 and "there is no id" in dead[4]["reason"] and "feed_rejected" in daemon.problems()
    # paused
    assert daemon.ask("POST", "/v1/feeds/issues/pause")[0] == 200
    status, answer, headers = send(where, issue(6), "d6")
    assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "paused", "60")
    assert send(where, issue(6), "d6", secret="another secret, of some length")[0] == 401
    assert daemon.ask("POST", "/v1/feeds/issues/resume")[0] == 200
    assert send(where, issue(6), "d6")[0] == 202
    assert [key for (key,) in daemon.rows("SELECT key FROM event ORDER BY seq")] == ["d1", "d6"]
    assert SECRET not in daemon.said + json.dumps(daemon.status())
    assert SECRET not in daemon.cli("config", "show")


def test_what_was_answered_is_there_after_kill_9_and_sent_again_counts_once(make: Make) -> None:
    daemon = started(make)
    where, answered, asked, stop = address(daemon), set[int](), numbers(), threading.Event()
    lock = threading.Lock()

    def sender() -> None:
        while not stop.is_set():
            with lock:
                number = next(asked)
            try:
                if send(where, issue(number), f"d{number}")[0] == 202:
                    answered.add(number)
            except (OSError, http.client.HTTPException):
                return  # killed

    senders = [threading.Thread(target=sender) for _ in range(4)]
    for one in senders:
        one.start()
    until(lambda: len(answered) > 60, "some are answered")
    daemon.crash()
    stop.set()
    for one in senders:
        one.join(30)
    found = {key for (key,) in daemon.rows("SELECT key FROM event")}
    assert {f"d{number}" for number in answered} <= found
    daemon.start()
    sent = next(asked)
    where = address(daemon)
    for number in range(sent):
        assert send(where, issue(number), f"d{number}")[0] == 202
    assert daemon.rows("SELECT count(*), count(DISTINCT key) FROM event") == [(sent, sent)]
    assert daemon.status()["feeds"]["issues"]["dead"] == 0
