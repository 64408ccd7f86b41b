"""A listening socket whose connections are counted from the moment they are taken, before any TLS handshake.

To uvicorn it is one of its servers: it is closed, and its end is waited for.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from adaptd.api.connection import Connection

log = logging.getLogger(__name__)
SPARE = 16  # connections beyond the limit that are told so; more are closed without a word
HANDSHAKE_S = 10.0
PAUSE_S = 0.5  # when none can be taken: the process has no descriptor for another
Make = Callable[[bool, Callable[[Connection], None]], Connection]


class Listener:
    """Takes connections up to a limit. `make` is given whether the limit is reached, and what to tell when it is over."""

    def __init__(self, listening: socket.socket, limit: int, make: Make, tls: ssl.SSLContext | None = None) -> None:
        self._socket, self._limit, self._make = listening, limit, make
        self.tls = tls  # of the connections that are taken from now on
        self._open: set[Connection] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self, backlog: int, ended: Callable[[asyncio.Task[None]], None]) -> None:
        """Listen; `ended` hears when no more is taken."""
        self._socket.listen(backlog)
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(), name="accept")
        self._accepting.add_done_callback(ended)

    def close(self) -> None:
        """Take no more; what is open goes on."""
        if self._accepting is not None:
            self._accepting.cancel()
        for task in self._starting:
            task.cancel()
        self._socket.close()

    async def wait_closed(self) -> None:
        """Wait until nothing is taken any more."""
        if self._accepting is not None:
            await asyncio.wait([self._accepting, *self._starting])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # which says that the client has gone already
                    log.error("no connection can be taken: %s", error.strerror, extra={"action": "accept_failed"})
                    await asyncio.sleep(PAUSE_S)
                continue
            if len(self._open) >= self._limit + SPARE:
                taken.close()
                continue
            connection = self._make(len(self._open) >= self._limit, self._open.discard)
            self._open.add(connection)
            task = asyncio.create_task(self._serve(taken, connection))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _serve(self, taken: socket.socket, connection: Connection) -> None:
        """Hand a connection to its protocol; with TLS once it has shaken hands."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, taken, ssl=self.tls, ssl_handshake_timeout=HANDSHAKE_S if self.tls else None)
        except BaseException as error:  # whatever it was, the place is free again
            self._open.discard(connection)
            if not isinstance(error, OSError):  # the client went, or its handshake failed or took too long
                raise
            log.debug("a connection did not come about: %s", error)
