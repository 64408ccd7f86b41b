"""What else feeds are tried against: a server of events and a folder, beside the brokers of `adaptd.bench`."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from adaptd.bench.brokers import LOGIN, Json, Mosquitto, NatsServer, RabbitServer, RedisServer, Server, raw
from adaptd.bench.tansu import Tansu


class EventServer(Server):
    """An HTTP server that sends events and gives again what came after `Last-Event-ID`; it drops connections amid an event."""

    kind, program = "sse", ""
    per_connection = 150  # events, of which the last is cut
    login: str | None = None  # who is let in; none: everybody

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.asked: list[str | None] = []  # the ids that it was asked after
        self.news = threading.Condition()
        self._http: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen."""
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), _Events)
        self._http.daemon_threads = True
        self._http.events = self  # type: ignore[attr-defined]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End it, and every connection."""
        if self._http is not None:
            http, self._http = self._http, None
            with self.news:
                self.news.notify_all()
            http.shutdown()
            http.server_close()

    def close(self) -> None:
        """End it."""
        self.stop()
        super().close()

    def stands(self, http: Any) -> bool:
        """Say whether connections of this listener go on."""
        return self._http is http

    def arguments(self) -> Sequence[str]:
        """There is no program."""
        return []

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Send events to whoever listens, and to whoever asks for them later."""
        with self.news:
            self.sent += [raw(message) for message in messages]
            self.news.notify_all()

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"http://127.0.0.1:{self.port}/events?of=all", "wait_s": 0.2, **LOGIN}


class _Events(BaseHTTPRequestHandler):
    """Ids begin with 1; a message's data stands in two lines, and lines end in all three ways."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server: EventServer = self.server.events  # type: ignore[attr-defined]
        server.asked.append(self.headers.get("last-event-id"))
        given = self.headers.get("authorization", "").removeprefix("Basic ")
        if server.login is not None and base64.b64decode(given).decode() != server.login:
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        try:
            self.wfile.write(b"\xef\xbb\xbfretry: 20\n: hello\n\n")
            self._send(server, int(self.headers.get("last-event-id") or 0))
        except OSError:
            pass  # who asked is gone

    def _send(self, server: EventServer, at: int) -> None:
        last = at + server.per_connection
        while at < last:
            with server.news:
                server.news.wait_for(lambda: at < len(server.sent) or not server.stands(self.server), 5.0)  # noqa: B023
                if not server.stands(self.server):
                    return
                fresh = server.sent[at:last]
            for one in fresh or [None]:
                if one is None:
                    self.wfile.write(b": nothing\n\n")
                    continue
                at += 1
                end = (b"\n", b"\r\n", b"\r")[at % 3]
                first, comma, second = one.partition(b", ") if b'"id": "m' in one else (one, b"", b"")
                data = b"data: " + first + (b"," + end + b"data:" + second if comma else b"")
                whole = end.join([b"id: %d" % at, b"event: said", data, b"", b""])
                self.wfile.write(whole if at < last else whole[:len(whole) - 4])


class Spool(Server):
    """A folder that files are moved into; it is away while it is stopped."""

    kind, program = "folder", ""

    def __init__(self) -> None:
        super().__init__()
        self._away, self._number = self.folder.with_name(f"{self.folder.name}-away"), 0
        self.folder.rename(self._away)

    def start(self) -> None:
        """Let it be there."""
        self._away.rename(self.folder)

    def stop(self) -> None:
        """Take it away, if it is there."""
        if self.folder.exists():
            self.folder.rename(self._away)

    def close(self) -> None:
        """Remove it."""
        for folder in (self.folder, self._away):
            shutil.rmtree(folder, ignore_errors=True)

    def arguments(self) -> Sequence[str]:
        """There is no program."""
        return []

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Move a file into it."""
        self._number += 1
        new = self.folder / "new"
        new.write_bytes(b"".join(raw(message) + b"\n" for message in messages))
        new.rename(self.folder / f"{self._number:06}.jsonl")

    def options(self) -> Json:
        """Return the feed's options."""
        return {"path": str(self.folder), "poll_s": 0.2}


SERVERS: Mapping[str, type[Server]] = {
    one.kind: one for one in (RedisServer, NatsServer, Mosquitto, RabbitServer, Tansu, EventServer, Spool)}
