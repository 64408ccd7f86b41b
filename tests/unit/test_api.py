"""HTTP by contract: routes, status codes, bad requests, the token, the stream, real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptd.api import replies
from adaptd.api.app import create_app
from adaptd.api.guard import over_unix
from adaptd.api.routes import ENDPOINTS
from adaptd.api.server import Server, bind_unix
from adaptd.api.traced import RequestTracer
from adaptd.config import Limits
from adaptd.errors import (
    AdaptdError,
    BadSignature,
    Busy,
    CannotStart,
    Conflict,
    NotFound,
    NotReady,
    Refused,
    StoreFailed,
    UnknownDomain,
)
from adaptd.grants import Grant, Keyring, Token, digest
from adaptd.ingest import Door
from adaptd.text import Text

Json = dict[str, Any]
LIMITS = Limits(items=5, bytes=2000, characters=100, body_s=0.2)
VERSION = {"version": 2}
SHOWN: Json = {"name": "crm", "state": "valid", "roles": ["ingest"], "domains": None, "source": None, "expires": None,
               "used": None}


@dataclass
class Double:
    """Operations that remember what they were asked, or fail as they are told."""

    fails: Exception | None = None
    is_ready: bool = True
    learner: str = "ok"
    asked: list[tuple[str, Any]] = field(default_factory=list)
    happenings: Sequence[Json] = ()
    closed: bool = False
    full: bool = False
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event | None = None  # predict waits for it
    door: Door = field(default_factory=lambda: Door(Text(), LIMITS, b"key", lambda: 1.8e9))

    def _note(self, name: str, *given: Any, **named: Any) -> None:
        self.asked.append((name, (*given, named)))
        if self.fails:
            raise self.fails

    def ready(self) -> bool:
        return self.is_ready

    def status(self) -> Json:
        self._note("status")
        return {"state": "ready", "pid": 1, "uptime_s": 1.0, "domains": {}, "seq": 0, "chain": {}, "listening": {},
                "feeds": {}, "outputs": {}, "problems": []}

    def health(self) -> Json:
        return {"state": "running", "parts": {"writer": {"state": "ok", "age_s": 0.1},
                                              "learner:text": {"state": self.learner, "age_s": 0.2}}}

    def metrics(self) -> bytes:
        return b"adaptd_events_total 1\n"

    async def subscribe(self) -> AsyncIterator[Json]:
        try:
            for one in self.happenings:
                yield one
            await asyncio.Event().wait()
        finally:
            self.closed = True

    def expect(self, domain: str, actor: str) -> None:
        if self.full:
            raise Busy("too many predictions are waiting", retry_after_s=2.0)

    async def predict(self, domain: str, inputs: Sequence[Any], *, source: str, explain: bool,
                      min_seq: int | None, actor: str) -> Json:
        self._note("predict", domain, inputs, source=source, explain=explain, min_seq=min_seq, actor=actor)
        self.entered.set()
        if self.release:
            await self.release.wait()
        one: Json = {"event": "e", "label": None, "confidence": 0.0, "scores": {}, "cost": {}}
        return {"version": 1, "seq": 0, "predictions": [one for _ in inputs]}

    async def events(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
        self._note("events", domain, items, source=source)
        return self._ingested(items, *self.door.items(items, source=source))

    async def feedback(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
        self._note("feedback", domain, items, source=source)
        return self._ingested(items, *self.door.feedback(items, source=source))

    def _ingested(self, items: Sequence[Any], good: Sequence[tuple[int, Any]], rejected: list[Json]) -> Json:
        ids: list[str | None] = [None for _ in items]
        for index, _ in good:
            ids[index] = f"e{index}"
        return {"accepted": len(good), "duplicates": 0, "held": 0, "rejected": rejected, "events": ids, "seq": 9}

    async def adapt(self, domain: str, *, wait: bool, actor: str, **what: bool) -> Json:
        self._note("adapt", domain, wait=wait, actor=actor, **what)
        return {"verdict": "undecided", "version": None, "reasons": ["too few"]}

    async def snapshot(self, domain: str, *, reason: str, actor: str) -> Json:
        self._note("snapshot", domain, reason=reason, actor=actor)
        return VERSION

    async def versions(self, domain: str) -> Json:
        self._note("versions", domain)
        return {"versions": []}

    async def version(self, domain: str, number: int) -> Json:
        self._note("version", domain, number)
        return VERSION

    async def difference(self, domain: str, one: int, other: int) -> Json:
        self._note("difference", domain, one, other)
        return {"labels": {}, "rows": {}, "metrics": {}}

    async def rollback(self, domain: str, *, to: int | None, at: float | None, reason: str, actor: str,
                       and_replay: bool, except_sources: Sequence[str]) -> Json:
        self._note("rollback", domain, to=to, at=at, reason=reason, actor=actor, and_replay=and_replay,
                   except_sources=except_sources)
        return {**VERSION, "saved": 3}

    async def replay(self, domain: str, *, since: int | float, except_sources: Sequence[str], except_events: Sequence[str],
                     reason: str, actor: str) -> Json:
        self._note("replay", domain, since=since, except_sources=except_sources, except_events=except_events, reason=reason,
                   actor=actor)
        return {"relearned": 1, "skipped": 2}

    async def promote(self, domain: str, *, to: int, force: bool, reason: str, actor: str) -> Json:
        self._note("promote", domain, to=to, force=force, reason=reason, actor=actor)
        return VERSION

    async def exported(self, domain: str, number: int, *, to: str, actor: str) -> Json:
        self._note("exported", domain, number, to=to, actor=actor)
        return VERSION

    async def switch(self, domain: str, *, back: bool, reason: str, actor: str) -> Json:
        self._note("switch", domain, back=back, reason=reason, actor=actor)
        return {**VERSION, "incumbent": None}

    async def forget(self, domain: str, *, selector: Json, reason: str, actor: str) -> Json:
        self._note("forget", domain, selector=selector, reason=reason, actor=actor)
        return {"asked": selector, "at": 1.0, "actor": actor, "reason": reason, "removed": {"event": 1}, "entries": 1,
                "labels_gone": 0, "versions": {}, "backups": [], "exports": [], "outputs": [], "checks": {}}

    async def hold(self, domain: str, *, what: str, source: str, reason: str, actor: str) -> Json:
        self._note("hold", domain, what=what, source=source, reason=reason, actor=actor)
        return {}

    async def resume(self, domain: str, *, what: str, source: str, reason: str, actor: str, drop: bool) -> Json:
        self._note("resume", domain, what=what, source=source, reason=reason, actor=actor, drop=drop)
        return {"learned": 4}

    async def history(self, domain: str | None, *, limit: int) -> Json:
        self._note("history", domain, limit=limit)
        return {"actions": []}

    async def memory(self, domain: str) -> Json:
        self._note("memory", domain)
        return {"heads": {}}

    async def search(self, domain: str, *, text: str, k: int) -> Json:
        self._note("search", domain, text=text, k=k)
        return {"results": []}

    async def explain(self, domain: str, event: str, *, counterfactual: bool) -> Json:
        self._note("explain", domain, event, counterfactual=counterfactual)
        return {"event": event, "received": 1.0, "live_then": 1, "answers": [], "labels": [], "now": {}}

    async def review(self, domain: str, *, n: int | None, minutes: float | None) -> Json:
        self._note("review", domain, n=n, minutes=minutes)
        return {"items": [], "pool": 0, "pace_s": 6.0, "teacher": "review", "version": 1, "seq": 0}

    async def review_report(self, domain: str) -> Json:
        self._note("review_report", domain)
        return {"teachers": [], "labels": 0, "later": None}

    async def backup(self, *, file: str, force: bool, actor: str) -> Json:
        self._note("backup", file=file, force=force, actor=actor)
        return {"file": file, "bytes": 1, "schema": "0001", "seq": 0, "domains": {}, "chain": None, "counts": {},
                "unsound": []}

    async def tokens(self) -> Json:
        self._note("tokens")
        return {"tokens": [SHOWN]}

    async def create_token(self, name: str, *, roles: Sequence[str], domains: Sequence[str] | None, source: str | None,
                           expires: float | None, actor: str) -> Json:
        self._note("create_token", name, roles=roles, domains=domains, source=source, expires=expires, actor=actor)
        return {"token": "adaptd_x", **SHOWN}

    async def revoke_token(self, name: str, *, reason: str, actor: str) -> Json:
        self._note("revoke_token", name, reason=reason, actor=actor)
        return SHOWN

    async def feeds(self) -> Json:
        self._note("feeds")
        return {"feeds": {}}

    def expect_hook(self, name: str, *, headers: Mapping[str, str]) -> None:
        if name not in ("crm", "erp"):
            raise NotFound("there is no such feed")
        if "x-hub-signature-256" not in headers:
            raise BadSignature

    async def outputs(self) -> Json:
        self._note("outputs")
        return {"outputs": {}}

    async def output(self, name: str, *, paused: bool, actor: str) -> Mapping[str, Any]:
        self._note("output", name, paused=paused, actor=actor)
        return {"state": "paused" if paused else "running"}

    async def hook(self, name: str, *, headers: Mapping[str, str], body: bytes) -> Json:
        self._note("hook", name, signature=headers.get("x-hub-signature-256"), body=body)
        return {"id": None}

    async def feed(self, name: str, *, paused: bool, actor: str) -> Mapping[str, Any]:
        self._note("feed", name, paused=paused, actor=actor)
        return {"state": "paused" if paused else "running"}

    async def dead(self, name: str, *, after: int, limit: int) -> Json:
        self._note("dead", name, after=after, limit=limit)
        return {"feed": name, "total": 0, "dead": []}

    async def retry_dead(self, name: str, *, ids: Sequence[int] | None, actor: str) -> Json:
        self._note("retry_dead", name, ids=ids, actor=actor)
        return {"taken": 1, "left": []}

    async def drop_dead(self, name: str, *, ids: Sequence[int] | None, actor: str) -> Json:
        self._note("drop_dead", name, ids=ids, actor=actor)
        return {"dropped": 1}


class OffTheLoop(Double):
    """Operations that read the store, which the event loop must not wait for."""

    def status(self) -> Json:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return super().status()


def ring() -> Keyring:
    """Return a ring whose only token, "good", is ann's."""
    keyring = Keyring()
    keyring.hold([Token(id=1, name="ann", digest=digest("good"), created=0.0, creator="test",
                        grant=Grant(actor="token:ann", roles=frozenset({"admin"})))])
    return keyring


def application(double: Double, tracer: RequestTracer | None = None, keyring: Keyring | None = None) -> Starlette:
    """Return the app."""
    return create_app(double, limits=LIMITS, keyring=keyring or ring(), report=lambda code, message, hint: None, tracer=tracer)


def on_socket(app: ASGIApp) -> ASGIApp:
    """Make requests look as they do on the unix socket."""
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "server": ("/run/adaptd.sock", None)}, receive, send)

    return wrapped


def ask(double: Double, method: str, path: str, *, tcp: bool = False, app: ASGIApp | None = None,
        **request: Any) -> httpx.Response:
    """Send one request and return the answer."""
    app = app or application(double)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app if tcp else on_socket(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://adaptd:8000") as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def error(answer: httpx.Response, status: int, code: str) -> Json:
    """Check the status and the error object, and return it."""
    found = answer.json()["error"]
    assert (answer.status_code, found["code"]) == (status, code), answer.text
    assert found["message"]
    assert isinstance(found["hint"], str)
    return dict(found)


ALONE = {"and_replay": False, "except_sources": []}
ROUTES: list[tuple[str, str, Any, str, tuple[Any, ...]]] = [
    ("POST", "/v1/text/predict", {"inputs": [{"text": "a"}], "explain": True, "min_seq": 3}, "predict",
     ("text", [{"text": "a"}], {"source": "http", "explain": True, "min_seq": 3, "actor": "socket"})),
    ("POST", "/v1/text/adapt", {"wait": True, "pseudo": True}, "adapt",
     ("text", {"wait": True, "actor": "socket", "consolidate": False, "weak": False, "pseudo": True})),
    ("POST", "/v1/text/adapt", None, "adapt",
     ("text", {"wait": False, "actor": "socket", "consolidate": False, "weak": False, "pseudo": False})),
    ("POST", "/v1/text/snapshot", {"reason": "r"}, "snapshot", ("text", {"reason": "r", "actor": "socket"})),
    ("POST", "/v1/text/snapshot", None, "snapshot", ("text", {"reason": "", "actor": "socket"})),
    ("POST", "/v1/text/rollback", {"to": 7, "reason": "r"}, "rollback",
     ("text", {"to": 7, "at": None, "reason": "r", "actor": "socket", **ALONE})),
    ("POST", "/v1/text/forget", {"subject": "s", "reason": "r"}, "forget",
     ("text", {"selector": {"subject": "s"}, "reason": "r", "actor": "socket"})),
    ("POST", "/v1/text/rollback", {"at": "2026-05-04T14:05:00Z", "and_replay": True, "except_sources": ["a"]}, "rollback",
     ("text", {"to": None, "at": 1777903500.0, "reason": "", "actor": "socket", "and_replay": True, "except_sources": ["a"]})),
    ("POST", "/v1/text/rollback", None, "rollback",
     ("text", {"to": None, "at": None, "reason": "", "actor": "socket", **ALONE})),
    ("POST", "/v1/text/replay", {"since": 7, "except_events": ["e"]}, "replay",
     ("text", {"since": 7, "except_sources": [], "except_events": ["e"], "reason": "", "actor": "socket"})),
    ("POST", "/v1/text/promote", {"to": 7, "force": True, "reason": "r"}, "promote",
     ("text", {"to": 7, "force": True, "reason": "r", "actor": "socket"})),
    ("POST", "/v1/text/versions/3/exported", {"to": "/m"}, "exported", ("text", 3, {"to": "/m", "actor": "socket"})),
    ("POST", "/v1/text/switch", {"reason": "r"}, "switch", ("text", {"back": False, "reason": "r", "actor": "socket"})),
    ("POST", "/v1/text/hold", {"what": "adaptation"}, "hold",
     ("text", {"what": "adaptation", "source": "", "reason": "", "actor": "socket"})),
    ("POST", "/v1/text/resume", {"source": "crm", "reason": "r"}, "resume",
     ("text", {"what": "learning", "source": "crm", "reason": "r", "actor": "socket", "drop": False})),
    ("POST", "/v1/text/resume", {"source": "crm", "drop": True}, "resume",
     ("text", {"what": "learning", "source": "crm", "reason": "", "actor": "socket", "drop": True})),
    ("GET", "/v1/text/versions", None, "versions", ("text", {})),
    ("GET", "/v1/text/versions/7", None, "version", ("text", 7, {})),
    ("GET", "/v1/text/versions/7/diff/9", None, "difference", ("text", 7, 9, {})),
    ("GET", "/v1/text/memory", None, "memory", ("text", {})),
    ("POST", "/v1/text/memory/search", {"text": "a", "k": 3}, "search", ("text", {"text": "a", "k": 3})),
    ("GET", "/v1/text/explain/e1", None, "explain", ("text", "e1", {"counterfactual": False})),
    ("GET", "/v1/text/explain/e1?counterfactual=true", None, "explain", ("text", "e1", {"counterfactual": True})),
    ("GET", "/v1/text/review?n=5", None, "review", ("text", {"n": 5, "minutes": None})),
    ("GET", "/v1/text/review?minutes=2.5", None, "review", ("text", {"n": None, "minutes": 2.5})),
    ("GET", "/v1/text/review", None, "review", ("text", {"n": None, "minutes": None})),
    ("GET", "/v1/text/review/report", None, "review_report", ("text", {})),
    ("GET", "/v1/status", None, "status", ({},)),
    ("GET", "/v1/history?domain=text&limit=5", None, "history", ("text", {"limit": 5})),
    ("GET", "/v1/history", None, "history", (None, {"limit": 50})),
    ("POST", "/v1/backup", {"file": "/b.tar"}, "backup", ({"file": "/b.tar", "force": False, "actor": "socket"},)),
    ("GET", "/v1/tokens", None, "tokens", ({},)),
    ("POST", "/v1/tokens/crm/revoke", {"reason": "lost"}, "revoke_token", ("crm", {"reason": "lost", "actor": "socket"})),
    ("GET", "/v1/feeds", None, "feeds", ({},)),
    ("POST", "/v1/feeds/crm/pause", None, "feed", ("crm", {"paused": True, "actor": "socket"})),
    ("POST", "/v1/feeds/crm/resume", {}, "feed", ("crm", {"paused": False, "actor": "socket"})),
    ("GET", "/v1/outputs", None, "outputs", ({},)),
    ("POST", "/v1/outputs/bus/pause", None, "output", ("bus", {"paused": True, "actor": "socket"})),
    ("POST", "/v1/outputs/bus/resume", {}, "output", ("bus", {"paused": False, "actor": "socket"})),
    ("GET", "/v1/feeds/crm/dead?after=3&limit=5", None, "dead", ("crm", {"after": 3, "limit": 5})),
    ("POST", "/v1/feeds/crm/dead/retry", {"ids": [3]}, "retry_dead", ("crm", {"ids": [3], "actor": "socket"})),
    ("POST", "/v1/feeds/crm/dead/drop", {"all": True}, "drop_dead", ("crm", {"ids": None, "actor": "socket"})),
]


@pytest.mark.parametrize(("method", "path", "body", "operation", "given"), ROUTES)
def test_a_route_asks_its_operation(method: str, path: str, body: Any, operation: str, given: tuple[Any, ...]) -> None:
    """With what was sent and by whom; the answer fits the model that describes it."""
    double = Double()
    answer = ask(double, method, path, json=body) if body is not None else ask(double, method, path)
    assert answer.status_code == 200, answer.text
    assert double.asked == [(operation, given)]
    handlers = (operation, f"{path.rsplit('/', 1)[-1]}_{operation}")
    route = next(one for one in ENDPOINTS if one.handler.__name__ in handlers and one.method == method)
    assert isinstance(route.answer, type)
    route.answer.model_validate(answer.json())


@pytest.mark.parametrize("path", ["/v1/text/events", "/v1/text/feedback"])
@pytest.mark.parametrize("form", ["list", "object", "lines"])
def test_a_batch_comes_in_three_forms(path: str, form: str) -> None:
    """A list, a single object, one object a line; 202 means durable."""
    one = {"event": "e", "label": "a"} if path.endswith("feedback") else {"text": "a"}
    line = json.dumps(one)
    content = {"list": f"[{line}, {line}]", "object": line, "lines": f"{line}\r\n\n{line}"}
    kind = "application/x-ndjson" if form == "lines" else "application/json"
    answer = ask(Double(), "POST", path, content=content[form], headers={"content-type": kind})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == (1 if form == "object" else 2)
    replies.Ingested.model_validate(answer.json())


def test_a_body_without_a_type_is_json() -> None:
    """As the simplest client sends it."""
    answer = ask(Double(), "POST", "/v1/text/events", content=b'[{"text": "a"}]')
    assert answer.status_code == 202


def test_one_bad_element_does_not_cost_the_others() -> None:
    """A lone surrogate is one element's fault."""
    content = b'[{"text": "a"}, {"text": "\\ud800"}, {"text": "b"}]'
    answer = ask(Double(), "POST", "/v1/text/events", content=content)
    assert answer.status_code == 202
    assert answer.json()["events"] == ["e0", None, "e2"]
    [rejected] = answer.json()["rejected"]
    assert (rejected["index"], rejected["error"]["field"]) == (1, "text")


def test_bad_lines_are_reported_by_their_index() -> None:
    """Lines that are not JSON and elements that the domain refuses, in one order."""
    lines = b'{"text": oops}\n{"text": "a"}\n\n{"text": 5}\n{"text": NaN}\n{"text": "b"}\n'
    answer = ask(Double(), "POST", "/v1/text/events", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 202
    body = answer.json()
    assert [one["index"] for one in body["rejected"]] == [0, 2, 3]
    assert body["events"] == [None, "e0", None, None, "e2"]
    assert "line 5, column 10" in body["rejected"][2]["error"]["message"]


@pytest.mark.parametrize(("content", "kind"), [
    (b'[{"text": 5}, {}]', "application/json"), (b'"text"', "application/json"), (b"null", "application/json"),
    (b"[1, [2]]", "application/json"), (b"oops\n{\n", "application/x-ndjson")])
def test_a_batch_without_one_good_element_is_unprocessable(content: bytes, kind: str) -> None:
    """The error says what the first one lacks; the report goes with it."""
    answer = ask(Double(), "POST", "/v1/text/events", content=content, headers={"content-type": kind})
    assert "none of" in error(answer, 422, "unprocessable")["message"]
    assert answer.json()["accepted"] == 0
    assert answer.json()["rejected"]


def test_a_duplicate_is_acceptable() -> None:
    """The same again gets a 202."""
    class Again(Double):
        async def events(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
            return {"accepted": 0, "duplicates": 1, "held": 0, "rejected": [], "events": ["e"], "seq": 1}

    assert ask(Again(), "POST", "/v1/text/events", json={"text": "a"}).status_code == 202


FAILURES: list[tuple[Exception, int, str, str | None]] = [
    (UnknownDomain("no domain"), 404, "unknown_domain", None),
    (NotFound("all unknown"), 404, "not_found", None),
    (Conflict(), 409, "conflict", None),
    (Refused(), 409, "refused", None),
    (Busy(retry_after_s=2.3), 429, "busy", "3"),
    (Busy(retry_after_s=0.01), 429, "busy", "1"),
    (NotReady(), 503, "not_ready", "1"),
    (StoreFailed(), 503, "store_failed", "5"),
    (AdaptdError("odd"), 500, "error", None),
    (ZeroDivisionError("secret"), 500, "internal", None),
]


@pytest.mark.parametrize(("fails", "status", "code", "retry"), FAILURES)
def test_a_failure_has_its_status_and_never_a_traceback(fails: Exception, status: int, code: str, retry: str | None,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    """What an operation raises becomes the error object; a fault of ours is logged."""
    for path in ("events", "feedback"):
        answer = ask(Double(fails=fails), "POST", f"/v1/text/{path}", json={"text": "a"})
        error(answer, status, code)
        assert answer.headers.get("retry-after") == retry
        assert "secret" not in answer.text
    assert ("ZeroDivisionError: secret" in caplog.text) == (code == "internal")


def test_under_a_flood_a_prediction_is_refused_before_its_body_is_read() -> None:
    operations = Double(full=True)
    answer = ask(operations, "POST", "/v1/text/predict", content=b"{")
    error(answer, 429, "busy")
    assert answer.headers["retry-after"] == "2" and not operations.asked


def test_an_answer_with_nan_is_a_fault_of_ours() -> None:
    """It is not JSON, so it does not go out."""
    class Odd(Double):
        async def memory(self, domain: str) -> Json:
            return {"mean": float("nan")}

    error(ask(Odd(), "GET", "/v1/text/memory"), 500, "internal")


P, E, F = "/v1/text/predict", "/v1/text/events", "/v1/text/feedback"
BAD_BODIES: list[tuple[str, bytes, int, str, str | None, str]] = [
    (P, b"", 400, "bad_request", None, "empty"),
    (E, b" ", 400, "bad_request", None, "empty"),
    (P, b"oops", 400, "bad_request", None, "line 1, column 1"),
    (P, b'{"inputs": [{"text": NaN}]}', 400, "bad_request", None, "NaN"),
    (P, b'{"inputs": [], "inputs": []}', 400, "bad_request", None, "duplicate key"),
    (P, b"\xff\xfe", 400, "bad_request", None, "UTF-8"),
    (P, b"[" * 900, 400, "bad_request", None, "JSON"),
    (E, b'[{"n": 99999999999999999999}]', 400, "bad_request", None, "64 bits"),
    (E, b"{}\n{}", 400, "bad_request", None, "line 2"),
    (E, b"[]", 422, "unprocessable", None, "empty list"),
    (P, b"[]", 422, "unprocessable", None, "object"),
    (P, b"{}", 422, "unprocessable", "inputs", "required"),
    (P, b'{"text": "a"}', 422, "unprocessable", "inputs", "unknown field 'text'"),
    (P, b'{"inputs": []}', 422, "unprocessable", "inputs", "at least 1"),
    (P, b'{"inputs": "a"}', 422, "unprocessable", "inputs", "list"),
    (P, b'{"inputs": [{}], "explain": "yes"}', 422, "unprocessable", "explain", "boolean"),
    (P, b'{"inputs": [{}], "min_seq": -1}', 422, "unprocessable", "min_seq", "greater"),
    (P, b'{"inputs": [{}], "min_seq": true}', 422, "unprocessable", "min_seq", "integer"),
    (P, b'{"inputs": [{}], "explian": true, "k": 1}', 422, "unprocessable", "explian", "unknown field 'k'"),
    (P, b'{"inputs": [{}], "\\ud800": true}', 422, "unprocessable", None, "unicode"),
    (P, b'{"inputs": [1,2,3,4,5,6]}', 413, "too_large", "inputs", "the limit is 5"),
    (E, b"[1,2,3,4,5,6]", 413, "too_large", None, "the limit is 5"),
    (F, b"[1,2,3,4,5,6]", 413, "too_large", None, "the limit is 5"),
    (E, b'{"text": "' + b"a" * 2000 + b'"}', 413, "too_large", None, "2000 bytes"),
    ("/v1/text/adapt", b'{"wait": 1}', 422, "unprocessable", "wait", "boolean"),
    ("/v1/text/adapt", b'{"now": true}', 422, "unprocessable", "now", "unknown field"),
    ("/v1/text/snapshot", b'{"reason": "\\ud800"}', 400, "bad_request", None, "surrogate"),
    ("/v1/text/snapshot", b'{"reason": 5}', 422, "unprocessable", "reason", "string"),
    ("/v1/text/rollback", b'{"to": 7, "at": "2026-05-04T14:05:00Z"}', 422, "unprocessable", "at", "both"),
    ("/v1/text/rollback", b'{"at": true}', 422, "bad_payload", "at", "string"),
    ("/v1/text/rollback", b'{"at": 1e999}', 400, "bad_request", None, ""),
    ("/v1/text/rollback", b'{"at": "2026-05-04T14:05:00"}', 422, "bad_payload", "at", "no zone"),
    ("/v1/text/rollback", b'{"except_sources": ["a"]}', 422, "unprocessable", "except_sources", "replay"),
    ("/v1/text/replay", b'{}', 422, "unprocessable", "since", "required"),
    ("/v1/text/replay", b'{"since": true}', 422, "bad_payload", "since", "bool"),
    ("/v1/text/replay", b'{"since": "today"}', 422, "bad_payload", "since", "ISO 8601"),
    ("/v1/text/replay", b'{"since": 1, "except_sources": "a"}', 422, "unprocessable", "except_sources", "list"),
    ("/v1/text/rollback", b'{"to": "7"}', 422, "unprocessable", "to", "integer"),
    ("/v1/text/rollback", b'{"to": 0}', 422, "unprocessable", "to", "greater"),
    ("/v1/text/promote", b"", 400, "bad_request", None, "empty"),
    ("/v1/text/promote", b"{}", 422, "unprocessable", "to", "required"),
    ("/v1/text/hold", b'{"what": "all"}', 422, "unprocessable", "what", "learning"),
    ("/v1/text/resume", b'{"sauce": "crm"}', 422, "unprocessable", "sauce", "unknown field"),
    ("/v1/text/memory/search", b'{"text": "a", "k": 0}', 422, "unprocessable", "k", "greater"),
    ("/v1/text/memory/search", b'{"text": "a", "k": 5000}', 422, "unprocessable", "k", "less"),
    ("/v1/text/memory/search", b'{"text": ""}', 422, "unprocessable", "text", "at least 1"),
    ("/v1/text/memory/search", b'{"text": "' + b"a" * 101 + b'"}', 422, "unprocessable", "text", "limit is 100"),
    ("/v1/feeds/crm/pause", b'{"a": 1}', 422, "unprocessable", "a", "unknown field"),
]


@pytest.mark.parametrize(("path", "content", "status", "code", "at", "message"), BAD_BODIES,
                         ids=range(len(BAD_BODIES)))
def test_a_bad_body_is_answered_with_field_and_cure(path: str, content: bytes, status: int, code: str, at: str | None,
                                                    message: str) -> None:
    """And no operation is asked."""
    double = Double()
    answer = ask(double, "POST", path, content=content, headers={"content-type": "application/json"})
    found = error(answer, status, code)
    assert message in found["message"]
    assert at is None or found["field"] == at
    assert double.asked == []


def test_the_cure_shows_the_right_shape() -> None:
    """The known fields, the near one, an example."""
    hint = error(ask(Double(), "POST", P, json={"input": []}), 422, "unprocessable")["hint"]
    assert "did you mean 'inputs'?" in hint
    assert "known: inputs, explain, min_seq" in hint
    assert '{"inputs":[{"text":' in hint


def test_too_many_lines_are_refused() -> None:
    """Before the rest is read."""
    answer = ask(Double(), "POST", E, content=b"1\n" * 6, headers={"content-type": "application/x-ndjson"})
    error(answer, 413, "too_large")


def test_a_body_is_cut_off_at_the_byte() -> None:
    """A chunked body has no length to look at; no more of it is taken than the limit."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100
            yield b"x" * 100

    error(ask(Double(), "POST", E, content=endless()), 413, "too_large")
    assert taken <= LIMITS.bytes + 200


def test_a_slow_body_is_given_up() -> None:
    """It holds a connection, not the daemon."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.Event().wait()

    error(ask(Double(), "POST", E, content=slow()), 408, "request_timeout")


@pytest.mark.parametrize(("path", "headers"), [
    (E, {"content-type": "text/plain"}), (E, {"content-type": "application/x-www-form-urlencoded"}),
    (E, {"content-type": ""}),
    (E, {"content-type": "application/json; charset=utf-16"}), (E, {"content-type": "/;;"}),
    (P, {"content-type": "application/x-ndjson"}),
    (E, {"content-type": "application/json", "content-encoding": "gzip"})])
def test_another_media_type_is_refused(path: str, headers: dict[str, str]) -> None:
    """Nothing is guessed and nothing is unpacked."""
    error(ask(Double(), "POST", path, content=b"[]", headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=UTF-8",
                                  'application/json;charset="utf-8"'])
def test_json_has_several_spellings(kind: str) -> None:
    """They are all one type."""
    assert ask(Double(), "POST", E, content=b'{"text": "a"}', headers={"content-type": kind}).status_code == 202


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", "/", 404, "not_found"), ("GET", "/v1/status/", 404, "not_found"),
    ("POST", "/v1/text/nothing", 404, "not_found"),
    ("GET", "/v1/text/predict", 405, "method_not_allowed"), ("DELETE", "/v1/status", 405, "method_not_allowed"),
    ("HEAD", "/v1/stream", 405, "")])
def test_no_such_route_or_method_is_an_error_object_too(method: str, path: str, status: int, code: str) -> None:
    """Never a bare text."""
    answer = ask(Double(), method, path)
    if method == "HEAD":
        assert answer.status_code == status
    else:
        error(answer, status, code)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(("query", "at"), [("limit=0", "limit"), ("limit=many", "limit"), ("limt=5", "limt")])
def test_a_bad_query_is_answered_with_its_name(query: str, at: str) -> None:
    """An unknown name is not ignored."""
    assert error(ask(Double(), "GET", f"/v1/history?{query}"), 422, "unprocessable")["field"] == at


def test_health_and_readiness() -> None:
    """Alive at once, ready when the champions have answered."""
    assert ask(Double(), "GET", "/healthz").json() == {"ok": True}
    assert ask(Double(), "GET", "/readyz").json() == {"ready": True}
    answer = ask(Double(is_ready=False), "GET", "/readyz")
    error(answer, 503, "not_ready")
    assert answer.headers["retry-after"] == "1"


def test_health_is_one_ping_per_part() -> None:
    """200 while they turn; 503 for the one that is stuck, and for the whole."""
    assert ask(Double(), "GET", "/v1/health").json()["parts"]["writer"] == {"state": "ok", "age_s": 0.1}
    assert ask(Double(), "GET", "/v1/health/learner:text").status_code == 200
    stuck = Double(learner="stalled")
    assert [ask(stuck, "GET", f"/v1/health{path}").status_code for path in ("", "/writer", "/learner:text")] == [503, 200, 503]
    assert "learner:text" in error(ask(stuck, "GET", "/v1/health/learner"), 404, "not_found")["hint"]


def test_metrics_are_prometheus_text() -> None:
    """With the version in the type."""
    answer = ask(Double(), "GET", "/metrics")
    assert answer.text == "adaptd_events_total 1\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_the_description_is_whole() -> None:
    """Every route, every reference resolved, the limits of the models in it."""
    document = ask(Double(), "GET", "/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} == \
        {(one.method, one.path) for one in ENDPOINTS}
    names = set(document["components"]["schemas"])
    assert all(ref.rsplit("/", 1)[-1] in names for ref in references(document))
    assert document["components"]["schemas"]["Predict"]["required"] == ["inputs"]


def references(node: Any) -> Iterator[str]:
    """Yield every $ref of a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


@pytest.mark.parametrize("header", [None, "", "good", "Basic good", "Bearer", "Bearer ", "Bearer bad",
                                    "Bearer good good", b"Bearer go\xf6d"])
@pytest.mark.parametrize("path", ["/v1/status", "/metrics", "/openapi.json", "/v1/stream", "/nowhere", "/healthz/"])
def test_tcp_needs_a_token(header: str | bytes | None, path: str) -> None:
    """Every route, even one that is not there; nothing says why."""
    answer = ask(Double(), "GET", path, tcp=True, headers={} if header is None else {"authorization": header})
    assert error(answer, 401, "unauthorized")["message"] == "A valid token is needed."
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_names_the_actor() -> None:
    """In the history stands who did it."""
    double = Double()
    answer = ask(double, "POST", "/v1/text/snapshot", tcp=True, headers={"authorization": "bearer good"})
    assert answer.status_code == 200
    assert double.asked == [("snapshot", ("text", {"reason": "", "actor": "token:ann"}))]


def test_two_authorization_headers_are_none() -> None:
    """Which one a proxy checked is anybody's guess."""
    headers = [("authorization", "Bearer good"), ("authorization", "Bearer bad")]
    error(ask(Double(), "GET", "/v1/status", tcp=True, headers=headers), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/v1/status?token=good", "/healthz?access_token=good"])
def test_a_token_in_the_query_is_refused(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """And not logged by us."""
    error(ask(Double(), "GET", path, tcp=True, headers={"authorization": "Bearer good"}), 400, "bad_request")
    assert "good" not in caplog.text


def test_what_is_sent_to_a_feed_needs_no_token_and_comes_as_it_is() -> None:
    """Its signature is looked at behind it; nothing else beside it is open."""
    double = Double()
    answer = ask(double, "POST", "/v1/feeds/crm/hook", tcp=True, content=b"\xff{", headers={"X-Hub-Signature-256": "s"})
    assert (answer.status_code, answer.json()) == (202, {"id": None})
    assert double.asked == [("hook", ("crm", {"signature": "s", "body": b"\xff{"}))]
    signed = {"X-Hub-Signature-256": "s"}
    error(ask(double, "POST", "/v1/feeds/crm/hook", tcp=True, content=b"x" * 10_000_000, headers=signed), 413, "too_large")
    for path in ("/v1/feeds/crm/hook/", "/v1/feeds/hook", "/v1/feeds/a/b/hook", "/v1/feeds//hook", "/v1/feeds/crm/hookx"):
        error(ask(double, "POST", path, tcp=True), 401, "unauthorized")
    operation = ask(double, "GET", "/openapi.json").json()["paths"]["/v1/feeds/{name}/hook"]["post"]
    assert operation["security"] == [] and "webhook-signature" in [one["name"] for one in operation["parameters"]]


@pytest.mark.parametrize(("feed", "headers", "status", "code", "why"), [
    ("other", {"X-Hub-Signature-256": "s"}, 404, "not_found", "no such feed"),
    ("crm", {}, 401, "bad_signature", "a wrong signature, or none")])
def test_who_is_nobody_is_refused_before_the_body_is_read_and_that_is_noted(
        feed: str, headers: dict[str, str], status: int, code: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """No such feed, no signature: nothing of what may be megabytes is kept meanwhile."""
    read = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(10):
            read.append(1)
            yield b"x" * 1000

    double = Double()
    error(ask(double, "POST", f"/v1/feeds/{feed}/hook", tcp=True, content=body(), headers=headers), status, code)
    assert not read and not double.asked
    (said,) = [one.getMessage() for one in caplog.records if one.name == "adaptd.audit.refused"]
    assert why in said


def test_a_wrong_signature_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    class Strict(Double):
        async def hook(self, name: str, *, headers: Mapping[str, str], body: bytes) -> Json:
            raise BadSignature

    answer = ask(Strict(), "POST", "/v1/feeds/crm/hook", tcp=True, content=b"{}", headers={"X-Hub-Signature-256": "s"})
    error(answer, 401, "bad_signature")
    assert [one.name for one in caplog.records] == ["adaptd.audit.refused"]


def test_only_who_has_a_token_begins_a_trace() -> None:
    """A `traceparent` that is sampled decides for us, and what comes to a hook may be anybody's."""
    class Spy:
        def __init__(self) -> None:
            self.begun: list[str] = []

        @contextmanager
        def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Callable[[str, int], None]]:
            self.begun.append(headers["x-who"])
            yield lambda route, status: None

    spy, double = Spy(), Double()
    app = application(double, spy)
    bearer = {"authorization": "Bearer good", "x-who": "ann"}
    assert ask(double, "POST", "/v1/text/snapshot", tcp=True, headers=bearer, app=app).status_code == 200
    signed = {"X-Hub-Signature-256": "s", "x-who": "anybody"}
    assert ask(double, "POST", "/v1/feeds/crm/hook", tcp=True, headers=signed, app=app).status_code == 202
    assert spy.begun == ["ann"]


def test_health_is_open_on_tcp() -> None:
    """For whoever restarts us."""
    assert ask(Double(), "GET", "/healthz", tcp=True).status_code == 200
    assert ask(Double(), "GET", "/readyz", tcp=True).status_code == 200


@pytest.mark.parametrize(("server", "unix"), [
    (("/run/a.sock", None), True), (("127.0.0.1", 80), False), (("host", None), False), (None, False),
    (("/run/a.sock", 80), False)])
def test_only_a_path_without_a_port_is_the_socket(server: tuple[str, int | None] | None, unix: bool) -> None:
    """In doubt the token is asked for."""
    assert over_unix({"type": "http", "server": server}) == unix


async def serving(double: Double, folder: Path,
                  keyring: Keyring | None = None) -> tuple[Server, httpx.AsyncClient, httpx.AsyncClient]:
    """Start a real server; return it with a client of each socket."""
    tcp = socket.create_server(("127.0.0.1", 0))
    server = Server(application(double, keyring=keyring), unix=folder / "s", limits=LIMITS, tcp=tcp)
    port = tcp.getsockname()[1]
    await server.start()
    over_socket = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(folder / "s")), base_url="http://adaptd")
    return server, over_socket, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")


def test_a_real_server_knows_its_two_sockets(tmp_path: Path) -> None:
    """The unix socket is guarded by its mode, TCP by the token; a body over the limit is answered, not cut off."""
    async def check() -> None:
        server, unix, tcp = await serving(Double(), tmp_path)
        async with unix, tcp:
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
            assert (await unix.get("/v1/status")).status_code == 200
            error(await tcp.get("/v1/status"), 401, "unauthorized")
            assert (await tcp.get("/v1/status", headers={"authorization": "Bearer good"})).status_code == 200
            assert (await tcp.get("/healthz")).status_code == 200
            for client in (unix, tcp):
                answer = await client.post(E, content=b"x" * 10_000_000, headers={"authorization": "Bearer good"})
                error(answer, 413, "too_large")
            await server.stop(5)
            with pytest.raises(httpx.ConnectError):
                await tcp.get("/healthz")
        assert not (tmp_path / "s").exists()

    asyncio.run(asyncio.wait_for(check(), 60))


def test_a_request_in_flight_is_answered_before_the_end(tmp_path: Path) -> None:
    """Stop waits for it."""
    async def check() -> None:
        double = Double(release=asyncio.Event())
        server, unix, tcp = await serving(double, tmp_path)
        async with unix, tcp:
            running = asyncio.create_task(unix.post(P, json={"inputs": [{"text": "a"}]}))
            await double.entered.wait()
            stopping = asyncio.create_task(server.stop(30))
            await asyncio.sleep(0)
            assert not stopping.done()
            assert double.release
            double.release.set()
            assert (await running).status_code == 200
            await stopping
            await server.wait()

    asyncio.run(asyncio.wait_for(check(), 60))


def test_a_forced_stop_waits_for_nobody(tmp_path: Path) -> None:
    """The second signal."""
    async def check() -> None:
        double = Double(release=asyncio.Event())
        server, unix, tcp = await serving(double, tmp_path)
        async with unix, tcp:
            running = asyncio.create_task(unix.post(P, json={"inputs": [{"text": "a"}]}))
            await double.entered.wait()
            graceful = asyncio.create_task(server.stop(600))
            await asyncio.sleep(0)
            await server.stop(0)
            await graceful
            running.cancel()

    asyncio.run(asyncio.wait_for(check(), 60))


def test_the_stream_sends_what_happens_and_ends_with_the_server(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame a happening, comments between; the subscription is given back."""
    monkeypatch.setattr("adaptd.api.stream.KEEP_ALIVE_S", 0.01)

    async def check() -> None:
        double = Double(happenings=[{"event": "promoted", "domain": "text", "at": 1.0, "reason": "a\nb"}])
        server, unix, tcp = await serving(double, tmp_path)
        async with unix, tcp, unix.stream("GET", "/v1/stream") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            text, stopping = "", None
            async for chunk in answer.aiter_text():
                text += chunk
                if "keep-alive" in text and stopping is None:
                    stopping = asyncio.create_task(server.stop(30))
            assert stopping
            await stopping
        assert 'event: promoted\ndata: {"event":"promoted","domain":"text","at":1.0,"reason":"a\\nb"}\n\n' in text
        assert double.closed

    asyncio.run(asyncio.wait_for(check(), 60))


@pytest.mark.parametrize("silent", [True, False])
def test_the_stream_ends_with_the_token(tmp_path: Path, silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether something happens or not; nothing is sent that happened after that. The operator's goes on."""
    monkeypatch.setattr("adaptd.api.stream.KEEP_ALIVE_S", 0.05 if silent else 60.0)

    async def check() -> None:
        happening, keyring = asyncio.Event(), ring()

        class Later(Double):
            async def subscribe(self) -> AsyncIterator[Json]:
                await happening.wait()
                yield {"event": "promoted"}
                await asyncio.Event().wait()

        server, unix, tcp = await serving(Later(), tmp_path, keyring)
        async with (unix, tcp, unix.stream("GET", "/v1/stream") as own,
                    tcp.stream("GET", "/v1/stream", headers={"authorization": "Bearer good"}) as answer):
            chunks = answer.aiter_text()
            assert await anext(chunks) == ": adaptd\n\n"
            keyring.hold([])
            if not silent:
                happening.set()
            assert "promoted" not in "".join([chunk async for chunk in chunks])
            happening.set()
            async for chunk in own.aiter_text():
                if "promoted" in chunk:
                    break
        await server.stop(5)

    asyncio.run(asyncio.wait_for(check(), 20))


def test_the_stream_is_given_back_when_the_client_goes(tmp_path: Path) -> None:
    """A dashboard that is closed leaves nothing behind."""
    async def check() -> None:
        double = Double(happenings=[{"event": "promoted"}])
        server, unix, tcp = await serving(double, tmp_path)
        async with unix, tcp:
            async with unix.stream("GET", "/v1/stream") as answer:
                async for chunk in answer.aiter_text():
                    if "promoted" in chunk:
                        break
            async with asyncio.timeout(10):
                while not double.closed:
                    await asyncio.sleep(0.01)
            await server.stop(5)

    asyncio.run(asyncio.wait_for(check(), 60))


def test_a_stale_socket_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    """The caller holds the lock, so a socket that is there is dead."""
    path = tmp_path / "s"
    bind_unix(path).close()
    bind_unix(path).close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(CannotStart, match="in the way"):
        bind_unix(path)
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long_is_named() -> None:
    """A unix socket's name has 107 bytes."""
    with pytest.raises(CannotStart) as caught:
        bind_unix(Path("/tmp") / ("x" * 120))
    assert "shorter" in caught.value.hint


@pytest.mark.parametrize(("query", "at", "message"), [
    ("n=0", "n", "greater"), ("n=501", "n", "less"), ("n=x", "n", "integer"), ("minutes=-1", "minutes", "greater"),
    ("minutes=0", "minutes", "greater"), ("minutes=nan", "minutes", "finite"), ("minutes=500", "minutes", "less"),
    ("n=5&minutes=5", "minutes", "both"), ("m=5", "m", "unknown field")])
def test_a_review_of_no_size_is_answered_with_field_and_cure(query: str, at: str, message: str) -> None:
    double = Double()
    found = error(ask(double, "GET", f"/v1/text/review?{query}"), 422, "unprocessable")
    assert message in found["message"] and found["field"] == at and found["hint"]
    assert double.asked == []


def test_the_status_is_not_read_on_the_event_loop() -> None:
    assert ask(OffTheLoop(), "GET", "/v1/status").status_code == 200
