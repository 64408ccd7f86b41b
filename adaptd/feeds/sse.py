"""Follow server-sent events of a URL. The place is the last event's id, sent as `Last-Event-ID` when it is asked again.

The server decides what it gives again and what it lets go of; an event's own id is its key, so that what comes again counts once.
Parsed here, as the HTML standard says, and with a bound: an event without an end would fill the memory.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptd.errors import BadConfig
from adaptd.feeds.broker import CONNECT_S, BrokerFeed
from adaptd.feeds.elements import LONGEST, element
from adaptd.interfaces import FeedItem

TYPE = "text/event-stream"
LONGEST_RETRY_S = 600.0  # a server that asks us to stay away for longer is asked then
AGAIN_S = 1.0  # before a stream that ended is asked for again, where the server does not say
OURS = frozenset({"accept", "accept-encoding", "cache-control", "host", "last-event-id"})


@dataclass(kw_only=True)
class ServerSentEvents(BrokerFeed):
    """Each event's data a JSON object."""

    name: ClassVar[str] = "sse"
    needs_key: ClassVar[bool] = True
    schemes = "http", "https"
    port = 80, 443
    library = "httpx", "sse"

    headers: dict[str, str] = field(default_factory=dict, repr=False)  # secrets by reference
    events: list[str] = field(default_factory=list)  # types of events that are taken; none: all
    silent_s: float = 300.0  # a connection on which nothing comes for so long, not even a comment, is lost
    _waiting: int = field(default=0, init=False, repr=False)
    _retry_s: float = field(default=0.0, init=False, repr=False)
    _not_before: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        super().__post_init__()
        if self.silent_s <= 0 or not isinstance(self.events, list):
            raise ValueError('silent_s must be positive, and events a list: ["message"]')
        for name, value in self.headers.items():
            if name.lower() in OURS or not (isinstance(value, str) and name.isascii() and value.isprintable()):
                raise BadConfig(f"headers: {name!a} is set by adaptd, or its value is no line of text", field="headers",
                                hint='headers = { Authorization = { "$env" = "NAME" } }')

    def lag(self) -> int | None:
        """Return the events that have come and are not committed: what waits at the server it does not say."""
        return self._waiting

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield the events after the cursor; an empty batch means nothing new."""
        from httpx import TransportError

        last_id = json.loads(cursor)["id"] if cursor else ""
        while True:
            await asyncio.sleep(self._not_before - time.monotonic())
            parser = Parser(last_id)
            try:
                async with self._asked(last_id) as answer, aclosing(self._chunks(answer)) as chunks:
                    yield []
                    async for chunk in chunks:
                        sent = [one for one in parser.feed(chunk) if not self.events or one.event in self.events]
                        self._retry_s = self._retry_s if parser.retry_s is None else min(parser.retry_s, LONGEST_RETRY_S)
                        for at in range(0, len(sent) or 1, self.batch):
                            self._waiting = len(sent) - at
                            yield [_item(one) for one in sent[at:at + self.batch]]
                        self._waiting = 0
            except TransportError as error:
                words = str(error) or type(error).__name__
                raise ConnectionError(f"{self.address[0]}:{self.address[1]} does not answer: {words}") from None
            finally:
                self._waiting, self._not_before = 0, time.monotonic() + max(self._retry_s, AGAIN_S)
            last_id = parser.last_id

    async def _chunks(self, answer: Any) -> AsyncGenerator[bytes, None]:
        """Yield what comes, nothing when nothing comes for `wait_s`; end with the connection, however it ends."""
        from httpx import ReadError, ReadTimeout, RemoteProtocolError

        stream = answer.aiter_bytes()
        coming: asyncio.Future[bytes | None] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(_next(stream))
                if not (await asyncio.wait({coming}, timeout=self.wait_s))[0]:
                    yield b""
                    continue
                chunk, coming = coming.result(), None
                if chunk is None:
                    return
                yield chunk
        except ReadTimeout:
            raise ConnectionError(f"nothing came for {self.silent_s:g} s, not even a comment") from None
        except (ReadError, RemoteProtocolError):
            return  # a stream of events ends so as often as not; asking again shows whether the server is there
        finally:
            if coming is not None:
                coming.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await coming

    @asynccontextmanager
    async def _asked(self, last_id: str) -> AsyncIterator[Any]:
        import httpx

        headers = {**self.headers, "Accept": TYPE, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id.encode()  # type: ignore[assignment]  # UTF-8, as the standard says
        login = None if self.username is None else httpx.BasicAuth(self.username, self.password or "")
        limit = httpx.Timeout(CONNECT_S, read=self.silent_s)
        # no redirects: the headers may hold secrets
        async with httpx.AsyncClient(verify=self.tls() or False, auth=login, timeout=limit, follow_redirects=False) as client, \
                client.stream("GET", self.url, headers=headers) as answer:
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if answer.status_code != 200:
                where = f": {answer.headers['location']}" if answer.is_redirect else ""
                raise ConnectionError(f"the server answered {answer.status_code} {answer.reason_phrase}{where}")
            if kind != TYPE:
                raise ConnectionError(f"the server answered with {kind or 'no content type'!a}, not {TYPE}")
            yield answer


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One event as it came."""

    data: bytes
    event: str
    id: str | None  # its own
    last_id: str  # the newest of the stream up to it


class Parser:
    """From bytes, cut anywhere, to events; what has no blank line behind it is none."""

    def __init__(self, last_id: str) -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._line = bytearray()
        self._first, self._after_return = True, False
        self._begin()

    def feed(self, chunk: bytes) -> Iterator[Sent]:
        """Take bytes in; yield the events that end in them."""
        if not chunk:
            return
        if self._after_return and chunk[:1] == b"\n":  # of a pair that was cut
            chunk = chunk[1:]
        self._after_return = chunk[-1:] == b"\r"
        *whole, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in whole:
            self._line += part[:_room(self._line)]
            line, self._line = bytes(self._line), bytearray()
            yield from self._take(line.removeprefix(b"\xef\xbb\xbf") if self._first else line)
            self._first = False
        self._line += rest[:_room(self._line)]

    def _begin(self) -> None:
        self._data: bytearray | None = None
        self._event = "message"
        self._id: str | None = None

    def _take(self, line: bytes) -> Iterator[Sent]:
        if not line:
            self.last_id = self.last_id if self._id is None else self._id
            if self._data is not None:
                yield Sent(data=bytes(self._data), event=self._event, id=self._id or None, last_id=self.last_id)
            self._begin()
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            value = value if self._data is None else b"\n" + value
            self._data = self._data or bytearray()
            self._data += value[:_room(self._data)]
        elif name == b"event":
            self._event = value.decode(errors="replace") or "message"
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry_s = int(value) / 1000


def _room(there: bytearray) -> int:
    """Return how many bytes may come to a line or an event: one that is too long is cut, and seen to be so."""
    return LONGEST + 16 - len(there)


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


def _item(sent: Sent) -> FeedItem:
    about = {"id": sent.id, "event": sent.event}
    return element(sent.data, json.dumps({"id": sent.last_id}), key=sent.id, about=about)
