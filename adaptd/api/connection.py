"""One connection: uvicorn's protocol, with an end to what a client may keep waiting for and to how long a head may be.

uvicorn bounds neither. A head that is whole is seen by the request cycle that it begins, whichever parser is installed; what
comes that is no body (a head, what stands between chunks, trailers) is counted for httptools, which has no bound of its own
(h11 has, and drops trailers, too).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from adaptd.api.errors import TooManyConnections, TooSlow, failure
from adaptd.errors import AdaptdError, TooLarge

HEAD_BYTES = 64 * 1024


class HeadTooLarge(TooLarge):
    """The request's head is larger than the limit."""

    status = 431


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two classes, by what is installed
    """Closed when a request's head is not whole in time; `full`: answers that there are too many; `lost` hears of its end."""

    def __init__(self, *, head_s: float, full: bool, lost: Callable[[Connection], None], **given: Any) -> None:
        super().__init__(**given)
        self._head_s, self._lost = head_s, lost
        self._due: asyncio.TimerHandle | None = None
        self._in_message = self._in_head = False
        self._bare = 0  # bytes that came since the last of a body, or since the message began
        if full:
            self.app = _too_many

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a head from now on."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place free."""
        self._lost(self)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a head must be whole in time, and bounded as all is that is no body."""
        before = self.cycle
        self._bare += len(data)
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif self._due is None and not self._busy():  # a head, or a body that nobody waits for any more
            self._wait()
        if self._in_message and self._bare > HEAD_BYTES:
            self._refuse(HeadTooLarge(f"the request's head has more than {HEAD_BYTES} bytes", hint="send fewer headers"))

    # httptools alone calls these

    def on_message_begin(self) -> None:
        """Count what is no body."""
        self._in_message = self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is none, and would come after who asks was looked at."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Count anew."""
        self._in_head, self._bare = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count anew: whoever reads the body bounds it."""
        self._bare = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count no more."""
        self._in_message, self._bare = False, 0
        super().on_message_complete()

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._stop_waiting()
        self._due = self.loop.call_later(self._head_s, self._late)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if self._busy():
            return
        if self._in_head:
            self._refuse(TooSlow(f"the request's head did not arrive in {self._head_s:g} s", hint="send it at once"))
        else:
            self.transport.close()

    def _refuse(self, error: AdaptdError) -> None:
        if self.transport.is_closing():
            return
        if not self._busy() and (self._in_head or not self._in_message):  # else it would be taken for a part of an answer
            self.transport.write(_written(failure(error)))
        self.transport.close()


def _written(response: Response) -> bytes:
    """Return an answer as it goes over the wire, where there is no request yet that it could answer."""
    headers = {**response.headers, "connection": "close"}
    lines = [f"HTTP/1.1 {response.status_code} Refused", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + bytes(response.body)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    await failure(TooManyConnections(hint="close idle connections, or raise limits.connections"))(scope, receive, send)
