"""Tokens and connections without a daemon: what a token grants, how fast, and what a client may keep waiting for."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from adaptd.api.app import create_app
from adaptd.api.claims import check_events, check_feedback, check_inputs, speaker
from adaptd.api.connection import HEAD_BYTES
from adaptd.api.listener import SPARE
from adaptd.api.refusals import ADDRESSES, LOGGED, REPORTED, Refusals
from adaptd.api.routes import ENDPOINTS
from adaptd.api.server import Server
from adaptd.config import Http, Limits
from adaptd.errors import Busy, Forbidden
from adaptd.grants import ENDED_S, ROLES, Grant, Keyring, Token, digest, generated
from adaptd.host import address
from adaptd.tls import context
from adaptd.wire import url

LIMITS = Limits(connections=2, header_s=0.3, body_s=0.3)
DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
OPENED = re.compile(r"^\| `(GET|POST) (\S+)` \| ([a-z, ]+) \|$", re.M)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def token(given: str = "t", **more: Any) -> Token:
    grant = more.pop("grant", Grant(actor="token:crm", roles=frozenset({"ingest"})))
    return Token(**{"id": 1, "name": "crm", "digest": digest(given), "grant": grant, "created": 0.0, "creator": "test", **more})


# -- what a token grants ------------------------------------------------------------------------------------------


def test_the_page_lists_every_route_with_its_roles() -> None:
    """A route that is new fails here until the page says who may use it."""
    listed = {(method, path): set(roles.split(", ")) for method, path, roles in OPENED.findall(DOCS)}
    open_to_all = {"/healthz", "/readyz", "/v1/feeds/{name}/hook"}
    wanted = {(one.method, one.path): {"anybody"} if one.path in open_to_all else set(one.roles) or {"every token"}
              for one in ENDPOINTS}
    assert listed == wanted


def test_the_page_explains_every_role() -> None:
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCS, re.M)) == dict(ROLES)


def test_every_route_names_roles_that_there_are() -> None:
    assert all(role in ROLES for one in ENDPOINTS for role in one.roles)


def test_an_admin_may_everything_and_others_what_they_are_for() -> None:
    Grant(actor="a", roles=frozenset({"admin"})).check_role(("operate",), "x")
    Grant(actor="a", roles=frozenset({"predict"})).check_role((), "x")
    with pytest.raises(Forbidden, match="x needs the role label or operate; a has ingest, predict"):
        Grant(actor="a", roles=frozenset({"predict", "ingest"})).check_role(("label", "operate"), "x")


def test_some_domains_are_not_the_whole_store() -> None:
    grant = Grant(actor="a", roles=frozenset({"operate"}), domains=frozenset({"text"}))
    grant.check_domain("text")
    for other in ("mail", None):
        with pytest.raises(Forbidden):
            grant.check_domain(other)


@pytest.mark.parametrize("claimed", ["other", "crm ", "CRM", "", 5, ["crm"]])
def test_a_bound_token_speaks_for_its_source_alone(claimed: Any) -> None:
    grant = Grant(actor="a", roles=frozenset({"predict", "ingest", "label"}), source="crm")
    assert speaker(grant) == "crm"
    check_inputs(grant, [{"source": "crm"}, {"source": None}, {}, 5], explain=False)
    check_events(grant, [{"source": "crm", "label": "a"}, {}])
    check_feedback(grant, [{"teacher": "crm"}, {"source": claimed, "id": "1"}])  # whose event it is
    for check, field in ((lambda found: check_inputs(grant, found, explain=False), "source"),
                         (lambda found: check_events(grant, found), "source"),
                         (lambda found: check_feedback(grant, found), "teacher")):
        with pytest.raises(Forbidden, match="'crm' and for no other") as refused:
            check([{}, {field: claimed}])
        assert "[1]" in str(refused.value.field)


def test_labels_are_for_who_may_teach_and_evidence_for_who_may_read() -> None:
    ingest, label = (Grant(actor="a", roles=frozenset({role})) for role in ("ingest", "label"))
    check_events(ingest, [{"text": "a"}, {"label": None}])
    check_events(label, [{"label": "x"}])
    for grant, event, role in ((ingest, {"label": "x"}, "label"), (label, {"text": "a"}, "ingest")):
        with pytest.raises(Forbidden, match=f"needs the role {role}"):
            check_events(grant, [event])
    with pytest.raises(Forbidden, match="label or operate"):
        check_inputs(Grant(actor="a", roles=frozenset({"predict"})), [], explain=True)


# -- the ring -----------------------------------------------------------------------------------------------------


def test_a_ring_finds_its_tokens_and_nothing_like_them() -> None:
    ring, given = Keyring(), generated()
    ring.own("own")
    ring.hold([token(given)])
    assert ring.find(given) and ring.find("own")
    for wrong in ("", given[:-1], given + "a", given.upper(), digest(given).hex()):
        assert ring.find(wrong) is None
    ring.hold([])
    assert ring.find(given) is None and ring.find("own")


def test_every_digest_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is meant, as many comparisons: the first that fits ends nothing."""
    compared = []
    monkeypatch.setattr("adaptd.grants.hmac.compare_digest", lambda one, other: compared.append(one) or one == other)
    ring = Keyring()
    ring.hold([token(f"t{number}", id=number) for number in range(1, 6)])
    for given in ("t1", "t5", "wrong"):
        compared.clear()
        ring.find(given)
        assert len(compared) == 5


def test_a_token_ends_when_it_says_and_when_it_is_told() -> None:
    now = [100.0]
    ring = Keyring(clock=lambda: now[0])
    ends, gone = token(expires=200.0), token(revoked=50.0)
    assert ring.use(ends) is None and ring.use(gone) == "revoked"
    now[0] = 200.0
    assert ring.use(ends) == "expired" and ring.used() == {1: 100.0}


def test_a_token_that_ended_is_known_for_a_day_and_compared_no_more() -> None:
    """So that the log can name who still uses it, and requests do not get slower with each token that there was."""
    now = [100_000.0]
    ring = Keyring(clock=lambda: now[0])
    every = [token("revoked", id=1, revoked=99_000.0), token("expired", id=2, expires=99_000.0), token("valid", id=3),
             token("to come", id=4, expires=1e9)]
    ring.hold(every)
    assert all(ring.find(given) for given in ("revoked", "expired", "valid", "to come"))
    now[0] += ENDED_S
    ring.hold(every)
    assert ring.find("revoked") is ring.find("expired") is None and ring.find("valid") and ring.find("to come")
    assert len(ring._tokens) == 2


def test_a_grant_stands_as_long_as_its_token() -> None:
    now = [100.0]
    ring = Keyring(clock=lambda: now[0])
    one, other = token(expires=200.0), Grant(actor="token:other", roles=frozenset({"ingest"}))
    ring.own("own")
    ring.hold([one])
    assert ring.stands(one.grant) and not ring.stands(other)
    ring.hold([token(expires=200.0)])  # as it is read anew after each change
    assert ring.stands(one.grant)
    now[0] = 200.0
    assert not ring.stands(one.grant)
    ring.hold([token(revoked=150.0)])
    assert not ring.stands(one.grant) and ring.stands(ring._own[0].grant)


def test_a_rate_is_kept_over_time_and_lets_a_second_s_worth_come_together() -> None:
    now = [0.0]
    ring, one, other = Keyring(rate=10, clock=lambda: now[0]), token(), token(id=2)
    assert [ring.use(one) for _ in range(10)] == [None] * 10
    with pytest.raises(Busy) as busy:
        ring.use(one)
    assert busy.value.retry_after_s == pytest.approx(0.1)
    ring.use(other)  # each has its own
    taken = 0
    for step in range(100):
        now[0] = step / 20
        try:
            taken += ring.use(one) is None
        except Busy:
            pass
    assert 48 <= taken <= 51


def test_a_guesser_is_logged_a_few_times_and_then_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    """And can neither fill the log nor the memory."""
    told: list[str] = []
    refusals = Refusals(lambda code, message, hint: told.append(message), clock=lambda: 0.0)
    scope = {"method": "GET", "path": "/v1/status\nforged line"}
    for _ in range(10 * REPORTED):
        refusals.note("10.0.0.7", "a wrong token", scope)
    assert len(caplog.records) == LOGGED and len(told) == 1 and "10.0.0.7" in told[0]
    assert "\n" not in caplog.records[0].getMessage()
    for number in range(2 * ADDRESSES):
        refusals.note(str(number), "a wrong token", scope)
    assert len(refusals._counts) == ADDRESSES


@pytest.mark.parametrize(("family", "host", "shown"), [
    (socket.AF_INET, "127.0.0.1", "https://127.0.0.1:"), (socket.AF_INET6, "::1", "https://[::1]:")])
def test_an_address_is_a_url_that_clients_take(family: int, host: str, shown: str) -> None:
    try:
        with socket.create_server((host, 0), family=family) as bound:
            found = address(bound, secure=True)
            assert found.startswith(shown) and url(found).host == host
    except OSError:
        pytest.skip(f"this machine has no {host}")


# -- connections --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(folder: Path, tls: ssl.SSLContext | None = None,
                    limits: Limits = LIMITS) -> AsyncIterator[tuple[int, Path]]:
    """Serve with small limits; give the port and the unix socket."""
    tcp = socket.create_server(("127.0.0.1", 0))
    ring = Keyring()
    ring.own("good")
    app = create_app(cast(Any, None), limits=limits, keyring=ring, report=lambda code, message, hint: None)
    server = Server(app, unix=folder / "s", limits=limits, tcp=tcp, tls=tls)
    await server.start()
    try:
        yield tcp.getsockname()[1], folder / "s"
    finally:
        await server.stop(5)


def served(folder: Path, check: Callable[[int, Path], Awaitable[None]], limits: Limits = LIMITS) -> None:
    async def run() -> None:
        async with listening(folder, limits=limits) as (port, unix), asyncio.timeout(30):
            await check(port, unix)

    asyncio.run(run())


async def said(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Return status and code of an answer, once the connection is closed."""
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)["error"]["code"]) if head else (0, "")


FAST = AutoHTTPProtocol.__name__ == "HttpToolsProtocol"  # h11 does not tell a head that has begun from silence
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
EVENTS = b"POST /v1/text/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer good\r\ncontent-length: 100\r\n\r\n"
CHUNKED = EVENTS.replace(b"content-length: 100", b"transfer-encoding: chunked")


@pytest.mark.parametrize(("sent", "answer"), [
    (b"", (0, "")), (b"GET /healthz HTTP/1.1\r\nhost:", (408, "request_timeout") if FAST else (0, "")),
    (EVENTS + b"[", (408, "request_timeout"))])
def test_who_is_slow_is_closed(tmp_path: Path, sent: bytes, answer: tuple[int, str]) -> None:
    """Nothing at all, a head without an end, a body without an end."""
    async def check(port: int, _: Path) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await said(reader) == answer
        writer.close()

    served(tmp_path, check)


def test_dripping_does_not_help(tmp_path: Path) -> None:
    """A byte now and then keeps neither a first head open, nor a later one, nor a body that nobody reads."""
    async def drip(port: int, before: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(before)
        ended = asyncio.create_task(reader.read())
        for _ in range(100):
            writer.write(b"x")
            done, _ = await asyncio.wait([ended], timeout=0.05)
            if done:
                break
        assert ended.done(), before
        writer.close()

    async def check(port: int, _: Path) -> None:
        unread = EVENTS.replace(b"good", b"bad").replace(b"100", b"100000")
        for before in (b"GET /", HEALTH + b"GET /", unread):
            await drip(port, before)

    served(tmp_path, check)


def test_a_kept_connection_is_used_again(tmp_path: Path) -> None:
    """After an answer, also one that came before the end of its body, another request is answered."""
    async def check(port: int, _: Path) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in (HEALTH, EVENTS.replace(b"good", b"bad") + b"x" * 100, HEALTH, HEALTH):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head)
            assert found
            await reader.readexactly(int(found[1]))
            assert head.split()[1] == (b"401" if request.startswith(b"POST") else b"200")
            await asyncio.sleep(0.1)  # within the limit for a head, and longer than it in all
        writer.close()

    served(tmp_path, check)


def test_a_head_is_bounded(tmp_path: Path) -> None:
    async def check(port: int, _: Path) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (HEAD_BYTES // 6 + 1))
        assert (await reader.read()).split()[1] == (b"431" if FAST else b"400")
        writer.close()

    served(tmp_path, check)


@pytest.mark.skipif(not FAST, reason="h11 drops trailers by itself")
@pytest.mark.parametrize("trailer", [b"a: " + b"b" * 1000 + b"\r\n", b"b" * 1000], ids=["many", "one without an end"])
@pytest.mark.parametrize("given", ["good", "bad"])
def test_trailers_are_bounded(tmp_path: Path, trailer: bytes, given: str) -> None:
    """Whether somebody waits for the body's end or has answered already."""
    async def check(port: int, _: Path) -> None:
        head = CHUNKED.replace(b"good", given.encode())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"1\r\n[\r\n0\r\na: ")
        ended = asyncio.create_task(reader.read())
        sent = 0
        while not ended.done() and sent < 8 * HEAD_BYTES:
            with suppress(ConnectionError):
                writer.write(trailer)
                await writer.drain()
            sent += len(trailer)
            await asyncio.sleep(0.0005)
        assert sent < 8 * HEAD_BYTES
        writer.close()

    served(tmp_path, check, Limits())  # no time ends it


@pytest.mark.skipif(not FAST, reason="h11 drops trailers by itself")
def test_a_trailer_is_no_header(tmp_path: Path) -> None:
    async def check(port: int, _: Path) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = CHUNKED.replace(b"authorization: Bearer good\r\n", b"")
        writer.write(head + b"1\r\n[\r\n0\r\nauthorization: Bearer good\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"401"
        writer.close()

    served(tmp_path, check)


def test_too_many_are_told_so_and_the_operator_gets_in(tmp_path: Path) -> None:
    """Beyond that they are closed; when one goes there is room again."""
    async def check(port: int, unix: Path) -> None:
        async def ask(streams: Streams) -> bytes:
            streams[1].write(HEALTH)
            return (await streams[0].readuntil(b"\r\n\r\n")).split()[1]

        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(LIMITS.connections)]
        assert [await ask(one) for one in kept] == [b"200"] * LIMITS.connections
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH)
        assert await said(reader) == (503, "too_many_connections")
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SPARE + 5)]
        async with asyncio.timeout(0.25):  # before those that wait for a head are closed for that
            await asyncio.wait([asyncio.create_task(one[0].read()) for one in idle], return_when=asyncio.FIRST_COMPLETED)
        operator = await asyncio.open_unix_connection(str(unix))
        assert await ask(operator) == b"200"
        for one in (*kept, *idle, operator, (reader, writer)):
            one[1].close()
        while True:
            again = await asyncio.open_connection("127.0.0.1", port)
            try:
                if await ask(again) == b"200":
                    break
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                again[1].close()
            await asyncio.sleep(0.02)

    served(tmp_path, check)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_handshake_that_does_not_come_gives_its_place_back(tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All places taken by silence, and free again after the time that a handshake has."""
    monkeypatch.setattr("adaptd.api.listener.HANDSHAKE_S", 0.3)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "k.pem", "-out", "c.pem"],
                   cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "k.pem").chmod(0o600)
    tls = context(Http(certfile="c.pem", keyfile="k.pem"), tmp_path)
    trusting = ssl.create_default_context(cafile=tmp_path / "c.pem")

    async def check() -> None:
        async with listening(tmp_path, tls) as (port, _), asyncio.timeout(30):
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(LIMITS.connections + SPARE)]
            refused = await asyncio.open_connection("127.0.0.1", port)
            assert await refused[0].read() == b""
            for reader, _writer in silent:
                assert await reader.read() == b""
            reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
            writer.write(HEALTH)
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"200"
            for one in (*silent, refused, (reader, writer)):
                one[1].close()

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(check())
