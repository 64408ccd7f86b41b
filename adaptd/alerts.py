"""Alerts: what is wrong, and verdicts, to the configured sinks. Told once, again after an interval, and when it is over.

`look` compares what is wrong now with what each sink was told: same code and subject, same problem. It is over when it was
gone for a while: what flaps is told once, and so is what a restart interrupts. What is to be told goes
into a bounded queue of the sink's own thread, which tries for a while; a sink that fails is a problem itself, of which
the other sinks hear.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptd import plugins
from adaptd.config import AlertSettings
from adaptd.errors import AdaptdError
from adaptd.interfaces import AlertSink
from adaptd.records import Alert, Problem

log = logging.getLogger(__name__)
Json = Mapping[str, Any]
QUEUE = 100  # alerts of a sink that may wait
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between the tries of one alert
AGAIN_S = 60.0  # after the last of them: the problem, if it still is one, is told anew
GONE_S = 120.0  # a problem that is gone for so long, or for `repeat_s`, is over: longer than a feed pauses between two tries
OUTCOMES = ("delivered", "failed", "dropped")  # of an alert
FAILED, DEMOTED = "alert_failed", "demoted"  # problems' codes


@dataclass
class _Known:
    """A problem that a sink was told of, or is being told of."""

    at: float
    code: str
    subject: str = ""  # what it was about is not kept over a restart: somebody may have it forgotten meanwhile
    message: str = "what was told before a restart is over"
    delivered: bool = False  # only then a restart does not tell it again
    gone: float | None = None  # since when it is not there
    over: bool = False  # and that is being told


class Post:
    """One sink, what it was told, and the thread that sends."""

    def __init__(self, name: str, sink: AlertSink, settings: AlertSettings, store: str,
                 count: Callable[[str, str], None], secrets: Collection[str] = ()) -> None:
        self.name = name
        self._sink = sink
        self._settings = settings
        self._over_s = min(GONE_S, settings.repeat_s)
        self._store = store
        self._count = count
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._known: dict[str, _Known] = {}
        self._queue: queue.Queue[Alert | None] = queue.Queue(QUEUE)
        self._stop = threading.Event()
        self._failure: Problem | None = None
        self._thread = threading.Thread(target=self._run, name=f"alerts-{name}", daemon=True)

    @property
    def waiting(self) -> int:
        """Alerts that are not sent yet."""
        return self._queue.qsize()

    def problem(self) -> Problem | None:
        """Return what is wrong with the sink, for as long as it is."""
        return self._failure

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def close(self, limit_s: float) -> None:
        """Send what waits, if that is quickly done."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._stop.set()
        self._thread.join(limit_s)
        self._stop.set()

    def facts(self) -> list[list[Any]]:
        """Return what was delivered to the sink, for a file: a restart does not tell it again."""
        return [[key, known.at, True, known.code] for key, known in tuple(self._known.items()) if known.delivered]

    def remember(self, facts: Sequence[Sequence[Any]]) -> None:
        """Take over what it was told before a restart."""
        self._known = {key: _Known(at, code, delivered=True) for key, at, told, code in facts if told}

    # -- in the scheduler's thread -----------------------------------------------------------------------------

    def look(self, problems: Sequence[Json]) -> None:
        """Tell what is new, what goes on, and what is over."""
        now, repeat_s = time.time(), self._settings.repeat_s
        present = {_key(one["code"], _subject(one)): one for one in problems
                   if (one["code"], one["subject"]) != (FAILED, self.name)}
        for key, one in present.items():
            known = self._known.get(key)
            if known is None or known.over or now - known.at >= repeat_s:
                delivered = known is not None and known.delivered and not known.over
                self._known[key] = _Known(now, one["code"], _subject(one), one["message"], delivered)
                kind = "demote" if one["code"] == DEMOTED else "problem"
                self._tell(kind, one["code"], _subject(one), one["message"], one["hint"], one["since"])
                continue
            known.gone = None
            if not known.subject:  # told before a restart: now the words are there again
                known.subject, known.message = _subject(one), one["message"]
        for key, known in tuple(self._known.items()):
            if key in present or known.over:
                continue
            known.gone = now if known.gone is None else known.gone
            if now - known.gone >= self._over_s:
                known.over = True
                self._tell("resolved", known.code, known.subject, known.message, "", known.at, key)

    def verdict(self, domain: str, last: Json) -> None:
        """Tell a verdict, if it is one that the sink wants."""
        self._tell(last["verdict"], "verdict", domain, f"{domain}: {'; '.join(last['reasons'])}", "", last["at"])

    def _told(self, kind: str, key: str) -> None:
        """Note that the sink knows, or does not want to."""
        if (known := self._known.get(key)) is None:
            return
        if kind != "resolved":
            known.delivered = True
        elif known.over:  # else it is back meanwhile
            self._known.pop(key, None)

    def _tell(self, kind: str, code: str, subject: str, message: str, hint: str, since: float, key: str = "") -> None:
        key = key or _key(code, subject)
        if kind not in self._settings.on and not (kind == "demote" and "problem" in self._settings.on):
            self._told(kind, key)
            return
        alert = Alert(id=uuid.uuid4().hex, key=key, kind=kind, code=code, subject=subject,
                      message=message, hint=hint, since=since, at=time.time(), host=socket.gethostname(), store=self._store)
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            self._drop(alert, "dropped", f"{QUEUE} alerts wait already")

    # -- in the sink's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set() and (alert := self._queue.get()) is not None:
            self._send(alert)

    def _send(self, alert: Alert) -> None:
        for pause in (*PAUSES_S, None):
            try:
                self._sink.send(alert)
            except Exception as error:  # a sink may be a stranger's, and may raise anything
                words = self._words(error)
                self._fails(words)
                if pause is None:
                    self._drop(alert, "failed", words)
                elif self._stop.wait(pause):
                    return
            else:
                self._told(alert.kind, alert.key)
                self._count(self.name, "delivered")
                self._failure = None
                return

    def _words(self, error: Exception) -> str:
        """Return what may be said of a failure: other sinks and the log hear it, and most errors' words are nobody's choice."""
        kind = type(error).__name__
        words = error.message if isinstance(error, AdaptdError) else error.strerror if isinstance(error, OSError) else None
        for secret in self._secrets:
            words = words and words.replace(secret, "***")
        return f"{kind}: {words}" if words else kind

    def _fails(self, words: str) -> None:
        since = self._failure.since if self._failure else time.time()
        self._failure = Problem(code=FAILED, subject=self.name, since=since,
                                message=f"alerts to {self.name} are not delivered: {words}",
                                hint=f"they are tried again; mend [alerts.{self.name}], or what it sends to")

    def _drop(self, alert: Alert, outcome: str, words: str) -> None:
        log.error("alert %s of %s was not delivered to %s: %s", alert.kind, alert.message, self.name, words,
                  extra={"action": FAILED})
        self._count(self.name, outcome)
        self._fails(words)
        if (known := self._known.get(alert.key)) is None:
            return
        if alert.kind != "resolved":
            known.at = time.time() - self._settings.repeat_s + AGAIN_S
        elif known.over:
            known.over, known.gone = False, time.time() - self._over_s + AGAIN_S


class Alerts:
    """All sinks."""

    def __init__(self, posts: Sequence[Post]) -> None:
        self.posts = posts

    @property
    def waiting(self) -> int:
        """Alerts that are not sent yet."""
        return sum(post.waiting for post in self.posts)

    def problems(self) -> list[Problem]:
        """Return what is wrong with sinks, for as long as it is."""
        return [found for post in self.posts if (found := post.problem()) is not None]

    def start(self) -> None:
        """Start sending."""
        for post in self.posts:
            post.start()

    def look(self, problems: Sequence[Json]) -> None:
        """Tell every sink what is new, what goes on, and what is over."""
        for post in self.posts:
            post.look(problems)

    def verdict(self, domain: str, last: Json) -> None:
        """Tell the sinks that want it a verdict."""
        for post in self.posts:
            post.verdict(domain, last)

    def close(self, limit_s: float) -> None:
        """Send what waits, if that is done within the limit."""
        end = time.monotonic() + limit_s
        for post in self.posts:
            post.close(max(0.0, end - time.monotonic()))

    def facts(self) -> dict[str, Any]:
        """Return what every sink was told, for a file."""
        return {post.name: post.facts() for post in self.posts}

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Take over what the sinks were told before a restart."""
        for post in self.posts:
            post.remember(facts.get(post.name, ()))


def build(kinds: Mapping[str, type], name: str, settings: AlertSettings) -> AlertSink:
    """Make a configured sink.

    Raises
    ------
    BadConfig
        Its kind or its options are wrong.
    """
    kind: type[AlertSink] = plugins.pick(kinds, settings.kind, f"alerts.{name}.kind")
    return plugins.build(kind, settings.options, f"alerts.{name}.options")


def key_of(problem: Json) -> str:
    """Return what stays the same of a problem for as long as it lasts."""
    return _key(problem["code"], _subject(problem))


def _subject(problem: Json) -> str:
    return str(problem["subject"] or problem["message"])


def _key(code: str, subject: str) -> str:
    """Return what tells problems apart: the same code and subject, the same key."""
    return hashlib.sha256(f"{code}\0{subject}".encode()).hexdigest()[:16]
