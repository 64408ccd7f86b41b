"""Alerts: real servers get what the built-in sinks send; who was told what, and when it is told again."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from adaptd import alerts, config
from adaptd.alerts import Alerts, Post
from adaptd.bench.brokers import free_port
from adaptd.config import AlertSettings
from adaptd.errors import BadConfig, BadSignature, NotDelivered
from adaptd.feeds.webhook import Webhook as Feed
from adaptd.plugins import build, collect, load
from adaptd.records import Alert
from adaptd.sinks import Command, Email, Webhook
from tests.acceptance.daemon import until
from tests.acceptance.receivers import Receiver

pytestmark = pytest.mark.acceptance
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
ALERT = Alert(id="a1", key="k1", kind="problem", code="feed_failed", subject="feed mail", message="feed mail: it is\nbroken — é",
              hint="mend it", since=1.0, at=2.0, host="here", store="/store")
Json = dict[str, Any]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


# -- the built-in sinks ---------------------------------------------------------------------------------------


def test_a_webhook_is_signed_so_that_a_webhook_feed_takes_it(receiver: Receiver) -> None:
    Webhook(url=f"{receiver.url}/alerts?team=ml", secret=SECRET, headers={"x-team": "ml"}).send(ALERT)
    (path, headers, body), = receiver.taken
    assert (path, headers["x-team"], headers["webhook-id"]) == ("/alerts?team=ml", "ml", "a1")
    assert json.loads(body) == ALERT.body()
    feed = Feed(secret=SECRET, signature="standard")
    feed.signed(headers, body)
    with pytest.raises(BadSignature):
        feed.signed(headers, body + b" ")


def test_a_webhook_that_is_not_taken_is_a_failure_and_follows_nobody(receiver: Receiver) -> None:
    for status in (302, 404, 500):
        receiver.status = status
        with pytest.raises(NotDelivered, match=f"answered {status}"):
            Webhook(url=receiver.url).send(ALERT)
    assert len(receiver.taken) == 3


class Mailbox:
    """Keeps what a mail server takes."""

    def __init__(self) -> None:
        self.mail: list[Any] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mail.append(envelope)
        return "250 OK"

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
        self.logins.append((given.login, given.password))
        return AuthResult(success=given.password == b"hunter2")


@pytest.fixture
def mailbox(certificate: Path) -> Iterator[tuple[Mailbox, int]]:
    """A mail server that wants STARTTLS and a password."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    box = Mailbox()
    server = Controller(box, hostname="localhost", port=free_port(), tls_context=context, require_starttls=True,
                        auth_required=True, authenticator=box.login)
    server.start()
    yield box, server.port
    server.stop()


def test_an_email_goes_over_starttls_with_a_password(mailbox: tuple[Mailbox, int], certificate: Path) -> None:
    box, port = mailbox
    sink = Email(host="localhost", port=port, sender="adaptd@example.org", to=["a@example.org", "b@example.org"], user="me",
                 password="hunter2", ca_file=str(certificate / "cert.pem"))
    sink.send(ALERT)
    (mail,) = box.mail
    text = mail.content.decode()
    assert mail.rcpt_tos == ["a@example.org", "b@example.org"] and box.logins == [(b"me", b"hunter2")]
    assert "code: feed_failed" in text and "it is broken =?utf-8?" in text  # the line break of the message is none in the header
    assert "hunter2" not in repr(sink)


def test_an_email_is_not_sent_to_a_server_that_nobody_vouches_for(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    with pytest.raises(ssl.SSLError):
        Email(host="localhost", port=port, sender="adaptd@example.org", to=["a@example.org"]).send(ALERT)
    assert not box.mail


def test_a_command_gets_it_on_its_standard_input_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTD_SECRET", "x")
    code = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + str('ADAPTD_SECRET' in os.environ))"
    Command(argv=[sys.executable, "-c", code, str(tmp_path / "$HOME; out")]).send(ALERT)
    assert (tmp_path / "$HOME; out").read_text() == json.dumps(ALERT.body()) + "False"


def test_a_command_that_fails_or_hangs_is_a_failure() -> None:
    with pytest.raises(NotDelivered, match="ended with 3: no route"):
        Command(argv=[sys.executable, "-c", "import sys; sys.stderr.write('no route'); sys.exit(3)"]).send(ALERT)
    with pytest.raises(NotDelivered, match="timed out") as failed:
        Command(argv=[sys.executable, "-c", "import time; time.sleep(60)", "a secret"], timeout_s=0.2).send(ALERT)
    assert "a secret" not in str(failed.value)


@pytest.mark.parametrize(("kind", "options", "field"), [
    ("webhook", {"url": "ftp://example.org"}, "url"), ("webhook", {"url": "https://example.org/a b"}, "url"),
    ("webhook", {"url": "https://example.org/é"}, "url"),
    ("webhook", {"url": "https://example.org", "secret": "short"}, "secret"),
    ("email", {"host": "h", "sender": "s", "to": []}, "to"),
    ("email", {"host": "h", "sender": "s", "to": ["t"], "tls": "ssl"}, "tls"),
    ("email", {"host": "h", "sender": "s", "to": ["t"], "tls": "none", "user": "u", "password": "p"}, "tls"),
    ("command", {"argv": "rm -rf /"}, "argv"), ("command", {"args": []}, "args")])
def test_a_wrong_option_is_refused_by_name(kind: str, options: Json, field: str) -> None:
    with pytest.raises(BadConfig) as refused:
        alerts.build(collect(load("adaptd", []), "register_alert_sinks"), "ops", AlertSettings(kind=kind, options=options))
    assert (refused.value.field or "").split(".")[-1] == field and refused.value.hint


# -- who was told what ----------------------------------------------------------------------------------------


class Sink:
    """Keeps what it is sent; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.sent: list[Alert] = []
        self.failures = failures

    def send(self, alert: Alert) -> None:
        if self.failures:
            self.failures -= 1
            raise NotDelivered("no route")
        self.sent.append(alert)

    def wait(self, count: int) -> list[tuple[str, str]]:
        until(lambda: len(self.sent) >= count, f"{count} alerts; {self.sent}", 5.0, 0.005)
        return [(one.kind, one.message) for one in self.sent]


class Told:
    """Alerts with one sink, a clock to turn, and what was counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sink: Sink, **settings: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(alerts.time, "time", lambda: self.now)
        monkeypatch.setattr(alerts, "PAUSES_S", (0.01, 0.01))
        self.counted: list[str] = []
        self.sink = sink
        self.post = Post("ops", sink, AlertSettings(kind="test", **settings), "/store", lambda _, what: self.counted.append(what))
        self.alerts = Alerts([self.post])

    def look(self, *problems: Json, at: float) -> None:
        self.now = at
        self.alerts.look(problems)


def problem(message: str, code: str = "feed_failed", subject: str = "feed mail") -> Json:
    return {"code": code, "message": message, "since": 1.0, "hint": "mend it", "subject": subject}


def test_the_same_problem_is_told_once_an_interval_and_once_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, Sink(), repeat_s=100.0)
    told.alerts.start()
    told.look(problem("try 1"), at=1000)
    told.look(problem("try 2"), at=1050)  # other words, the same problem
    told.look(problem("try 3"), problem("full", "disk_low", ""), at=1100)
    told.look(at=1110)
    told.look(problem("try 4"), at=1120)  # back soon: it flaps
    told.look(at=1130)
    told.look(at=1215)
    told.look(at=1235)
    told.look(problem("try 5"), at=1240)  # back after that was told: told, too, however soon
    assert told.sink.wait(6) == [("problem", "try 1"), ("problem", "try 3"), ("problem", "full"), ("resolved", "full"),
                                 ("resolved", "try 3"), ("problem", "try 5")]
    keys = [one.key for one in told.sink.sent]
    assert keys[0] == keys[1] == keys[4] == keys[5] != keys[2] == keys[3] and len({one.id for one in told.sink.sent}) == 6
    told.alerts.close(5.0)
    assert told.counted == ["delivered"] * 6


def test_a_restart_does_not_tell_it_again_and_tells_that_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, Sink(), repeat_s=100.0)
    told.look(problem("a secret source"), at=1000)
    told.alerts.start()
    told.alerts.close(5.0)
    facts = json.loads(json.dumps(told.alerts.facts()))
    assert "secret" not in str(facts)
    again = Told(monkeypatch, Sink(), repeat_s=100.0)
    again.alerts.remember(facts)
    again.alerts.start()
    again.look(at=1005)  # the feed has not been tried yet
    again.look(problem("a secret source"), at=1010)
    again.look(at=1020)
    again.look(at=1119)
    assert not again.post.waiting and not again.sink.sent
    again.look(at=1120)
    assert again.sink.wait(1) == [("resolved", "a secret source")]
    assert again.sink.sent[0].key and again.sink.sent[0].code == "feed_failed"
    again.look(problem("a secret source"), at=1121)
    assert again.sink.wait(2)[1:] == [("problem", "a secret source")]


def test_a_restart_tells_what_was_still_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits when a daemon stops was told to nobody: neither that it is wrong nor that it is over."""
    told = Told(monkeypatch, Sink(), repeat_s=100.0)
    told.look(problem("x"), at=1000)  # its thread was not started: nothing is sent
    assert told.alerts.facts() == {"ops": []}
    again = Told(monkeypatch, Sink(), repeat_s=100.0)
    again.alerts.remember(told.alerts.facts())
    again.look(problem("x"), at=1010)
    again.alerts.start()
    assert again.sink.wait(1) == [("problem", "x")]
    again.alerts.close(5.0)
    again.look(at=1020)
    again.look(at=1120)  # nobody sends any more: that it is over waits
    last = Told(monkeypatch, Sink(), repeat_s=100.0)
    last.alerts.remember(again.alerts.facts())
    last.alerts.start()
    last.look(at=1130)
    last.look(at=1230)
    assert [kind for kind, _ in last.sink.wait(1)] == ["resolved"]
    last.alerts.close(5.0)
    assert last.alerts.facts() == {"ops": []}


def test_what_a_sink_does_not_want_to_hear_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, Sink(), repeat_s=100.0, on=["problem"])
    told.look(problem("x"), at=1000)
    told.look(at=1010)
    told.look(at=1110)
    assert told.alerts.facts() == {"ops": []} and not told.post._known


@pytest.mark.parametrize(("on", "wanted"), [
    (["problem"], ["problem", "demote"]), (["demote"], ["demote"]), (["reject", "promote"], ["reject"]), (["undecided"], [])])
def test_a_sink_hears_what_it_wants(monkeypatch: pytest.MonkeyPatch, on: list[str], wanted: list[str]) -> None:
    told = Told(monkeypatch, Sink(), on=on)
    told.look(problem("x"), problem("version 3 did worse", "demoted", ""), at=1000)
    told.alerts.verdict("text", {"verdict": "reject", "reasons": ["worse by a point"], "at": 1000.0})
    told.alerts.verdict("text", {"verdict": "failed", "reasons": ["no"], "at": 1000.0})  # a problem says so
    told.alerts.start()
    told.alerts.close(5.0)
    assert [one.kind for one in told.sink.sent] == wanted


def test_a_sink_that_fails_is_tried_again_and_is_a_problem_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, Sink(failures=2))
    monkeypatch.setattr(alerts, "PAUSES_S", (0.2, 0.2))
    told.look(problem("x"), at=1000)
    told.alerts.start()
    found = until(told.alerts.problems, "it is a problem", 5.0, 0.005)
    assert (found[0].code, found[0].subject) == ("alert_failed", "ops") and "no route" in found[0].message
    told.look(problem("x"), {**problem("itself"), "code": "alert_failed", "subject": "ops"}, at=1001)  # not told of itself
    assert told.sink.wait(1) == [("problem", "x")]
    until(lambda: not told.alerts.problems(), "it is none any more", 5.0, 0.005)
    assert told.counted == ["delivered"]


@pytest.mark.parametrize(("error", "said"), [
    (ValueError("token=hunter2"), "ValueError"), (http.client.InvalidURL("URL can't contain '/hooks/T1 B1'"), "InvalidURL"),
    (subprocess.TimeoutExpired(["page", "hunter2"], 3.0), "TimeoutExpired"), (OSError("posting to https://x/T1"), "OSError"),
    (ConnectionRefusedError(111, "Connection refused"), "ConnectionRefusedError: Connection refused"),
    (NotDelivered("curl: cannot reach https://x/hunter2"), "NotDelivered: curl: cannot reach https://x/***")])
def test_a_failure_tells_no_secret(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception,
                                   said: str) -> None:
    """Neither to the status and other sinks nor to the log, whoever chose the words."""
    class Fails:
        def send(self, alert: Alert) -> None:
            raise error

    monkeypatch.setattr(alerts, "PAUSES_S", ())
    post = Post("ops", Fails(), AlertSettings(kind="test"), "/store", lambda *_: None, {"hunter2", "", "hunter"})
    post.look([problem("x")])
    post.start()
    found = until(post.problem, "it is a problem", 5.0, 0.005)
    post.close(5.0)
    assert found.message == f"alerts to ops are not delivered: {said}"
    assert "hunter2" not in caplog.text and "T1" not in caplog.text and said in caplog.text


def test_what_was_not_delivered_is_told_anew_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, Sink(failures=3), repeat_s=10_000.0)
    told.look(problem("x"), at=1000)
    told.alerts.start()
    until(lambda: told.counted == ["failed"], "given up", 5.0, 0.005)
    told.look(problem("x"), at=1000 + alerts.AGAIN_S - 1)
    told.look(problem("x"), at=1000 + alerts.AGAIN_S + 1)
    assert told.sink.wait(1) == [("problem", "x")]


def test_a_sink_that_hangs_holds_nobody_up_and_its_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, Sink())  # its thread was not started: nothing is taken
    began = time.monotonic()
    told.look(*(problem("x", subject=str(number)) for number in range(alerts.QUEUE + 3)), at=1000)
    assert told.alerts.waiting == alerts.QUEUE and told.counted == ["dropped"] * 3 and told.alerts.problems()
    told.post._thread = type("Hangs", (), {"join": lambda self, limit_s: None})()
    told.alerts.close(0.1)
    assert time.monotonic() - began < 5.0


PAGE = (Path(__file__).parents[2] / "docs/observability.md").read_text()


def test_the_page_shows_a_sink_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], vars(module))
    (kind,) = module.register_alert_sinks()
    build(kind, {"path": str(tmp_path / "log")}, "options").send(ALERT)
    assert (tmp_path / "log").read_text().startswith("2.0 problem feed mail")


def test_the_page_shows_sinks_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_SECRET", SECRET)
    for file in ("chat-url", "mail-password"):
        (tmp_path / file).write_text("https://example.org")
    (text,) = (block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.S) if "[alerts." in block)
    (tmp_path / "adaptd.toml").write_text(text)
    settings, _ = config.load(tmp_path)
    kinds = collect(load("adaptd", []), "register_alert_sinks")
    assert [type(alerts.build(kinds, name, one)) for name, one in settings.alerts.items()] == [Webhook, Email, Command]


def test_the_sinks_come_through_the_plugins_door() -> None:
    kinds = collect(load("adaptd", []), "register_alert_sinks")
    assert set(kinds) == {"webhook", "email", "command"}
    assert isinstance(build(kinds["command"], {"argv": ["true"]}, "options"), Command)
