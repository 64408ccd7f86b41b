"""Alert sinks: where alerts are sent. Built-in and by the plugins' door; each sends one alert or raises.

Each runs in a thread of its own (`adaptd.alerts`), so it may wait, for as long as its timeout.
"""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import ClassVar
from urllib.parse import urlsplit

from adaptd import process, signing
from adaptd.errors import BadConfig, NotDelivered
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import AlertSink
from adaptd.records import Alert

PORTS = {"starttls": 587, "tls": 465, "none": 25}
LONGEST_SUBJECT = 150


@hookimpl
def register_alert_sinks() -> Iterable[type[AlertSink]]:
    """Offer the built-in sinks."""
    return [Webhook, Email, Command]


@dataclass(kw_only=True)
class Webhook:
    """POST the alert as a JSON object; signed as Standard Webhooks has it where there is a secret."""

    name: ClassVar[str] = "webhook"

    url: str = field(repr=False)  # some hold a secret in their path: by reference
    secret: str | None = field(default=None, repr=False)  # by reference
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0
    _key: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        found = urlsplit(self.url)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise BadConfig("url: not http:// or https:// and a host", field="url", hint="where alerts are posted to")
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise BadConfig("url: it has a blank, a control character or a letter that is none of ASCII's", field="url",
                            hint="write it percent-encoded")
        self._key = None if self.secret is None else signing.key(self.secret)

    def send(self, alert: Alert) -> None:
        """Send it; any answer but 2xx is a failure. No redirect is followed: it would lead to who was not named."""
        body, moment = json.dumps(alert.body()).encode(), str(int(time.time()))
        headers = {"Content-Type": "application/json", "User-Agent": "adaptd", "webhook-id": alert.id,
                   "webhook-timestamp": moment}
        if self._key is not None:
            headers["webhook-signature"] = signing.signature(self._key, alert.id, moment, body)
        found = urlsplit(self.url)
        kind = http.client.HTTPSConnection if found.scheme == "https" else http.client.HTTPConnection
        connection = kind(found.hostname or "", found.port, timeout=self.timeout_s)
        try:
            path = (found.path or "/") + (f"?{found.query}" if found.query else "")
            connection.request("POST", path, body, {**headers, **self.headers})
            answer = connection.getresponse()
            answer.read(65536)
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise NotDelivered(f"{found.hostname} answered {answer.status} {answer.reason[:80]}")


@dataclass(kw_only=True)
class Email:
    """Send the alert as plain text through a mail server."""

    name: ClassVar[str] = "email"

    host: str
    sender: str
    to: list[str]
    tls: str = "starttls"  # or "tls" from the first byte, or "none"
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)  # by reference
    ca_file: str | None = None  # beside the system's
    timeout_s: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what would send a password in the clear, or to nobody."""
        if self.tls not in PORTS:
            raise BadConfig(f"tls: {self.tls!r} is not known", field="tls", hint=f"one of {', '.join(PORTS)}")
        if not isinstance(self.to, list) or not self.to:
            raise BadConfig("to: nobody", field="to", hint='to = ["ops@example.org"]')
        if (self.user is None) != (self.password is None):
            raise BadConfig("user and password belong together", field="password", hint="give both, or neither")
        if self.password is not None and self.tls == "none":
            raise BadConfig("a password would go in the clear", field="tls", hint='tls = "starttls"')

    def send(self, alert: Alert) -> None:
        """Send it; a recipient that the server refuses is a failure."""
        message = EmailMessage()
        words = f"[adaptd {alert.host}] {alert.kind}: {alert.message}"
        message["Subject"] = " ".join(words.split())[:LONGEST_SUBJECT]
        message["From"], message["To"], message["Date"] = self.sender, ", ".join(self.to), formatdate()
        message["Message-ID"] = make_msgid(alert.id, "adaptd")
        message.set_content("\n".join(f"{name}: {value}" for name, value in alert.body().items()))
        with self._server() as server:
            if self.user is not None and self.password is not None:
                server.login(self.user, self.password)
            if refused := server.send_message(message):
                raise NotDelivered(f"refused: {', '.join(refused)}")

    def _server(self) -> smtplib.SMTP:
        port = self.port or PORTS[self.tls]
        if self.tls == "tls":
            return smtplib.SMTP_SSL(self.host, port, timeout=self.timeout_s, context=self._trust())
        server = smtplib.SMTP(self.host, port, timeout=self.timeout_s)
        if self.tls == "starttls":
            try:
                server.starttls(context=self._trust())
            except BaseException:
                server.close()
                raise
        return server

    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context


@dataclass(kw_only=True)
class Command:
    """Run a program, without a shell, with the alert as a JSON object on its standard input."""

    name: ClassVar[str] = "command"

    argv: list[str]
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what is no list of words."""
        if not isinstance(self.argv, list) or not self.argv or not all(isinstance(word, str) for word in self.argv):
            raise BadConfig("argv: not a list of words", field="argv", hint='argv = ["/usr/local/bin/page", "--team", "ml"]')

    def send(self, alert: Alert) -> None:
        """Run it; an exit code other than 0 is a failure. It inherits no setting of the daemon."""
        try:
            done = subprocess.run(self.argv, input=json.dumps(alert.body()), capture_output=True, text=True, errors="replace",
                                  timeout=self.timeout_s, env=process.environment())
        except subprocess.TimeoutExpired:
            raise NotDelivered(f"{self.argv[0]} timed out after {self.timeout_s:g} s") from None
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [""]
            raise NotDelivered(f"{self.argv[0]} ended with {done.returncode}: {said[0][:200]}")
