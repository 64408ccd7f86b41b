"""Runs the app on its sockets: the unix socket in the state folder and, where there is one, loopback TCP."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from adaptd.api.connection import Connection
from adaptd.api.listener import Listener
from adaptd.config import Limits
from adaptd.errors import CannotStart

log = logging.getLogger(__name__)
BACKLOG = 2048
KEEP_ALIVE_S = 30
MODE = 0o660


class _Uvicorn(uvicorn.Server):
    """A server that has listeners of its own, says when it listens, and leaves the signals to the daemon."""

    def __init__(self, config: uvicorn.Config, limits: Limits, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._limits, self._tls = limits, tls
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        # each socket has places of its own: whoever fills TCP does not keep the operator out
        limit = self._limits.connections
        listeners = [Listener(one, limit, self._connection, None if one.family == socket.AF_UNIX else self._tls)
                     for one in sockets or []]
        for listener in listeners:
            listener.start(BACKLOG, self._ended)
        self.servers = listeners  # type: ignore[assignment]  # closed and waited for as asyncio's are
        self.started = True
        self.listening.set()

    def _ended(self, accepting: asyncio.Task[None]) -> None:
        """End when a socket takes no more: a daemon that nobody reaches is to be started again."""
        if not accepting.cancelled() and (error := accepting.exception()) is not None:
            log.critical("no connections are taken any more", exc_info=error, extra={"action": "part_died"})
        self.should_exit = True

    def _connection(self, full: bool, lost: Callable[[Connection], None]) -> Connection:
        return Connection(head_s=self._limits.header_s, full=full, lost=lost, config=self.config, server_state=self.server_state,
                          app_state=self.lifespan.state, _loop=asyncio.get_running_loop())

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One app on a unix socket and perhaps a bound TCP socket, with TLS perhaps: start, wait, stop."""

    def __init__(self, app: Starlette, *, unix: Path, limits: Limits, tcp: socket.socket | None = None,
                 tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(self._answer, access_log=False, log_config=None, lifespan="off", ws="none", interface="asgi3",
                                proxy_headers=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_S)
        self._app, self._unix, self._tcp = app, unix, tcp
        self._server = _Uvicorn(config, limits, tls)
        self._task: asyncio.Task[None] | None = None
        self._inode: int | None = None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def become(self, app: Starlette) -> None:
        """Let another app answer from now on; what the old one has begun it ends."""
        self._app.state.closing.set()
        self._app = app

    async def start(self) -> None:
        """Bind the unix socket and listen on all; return when requests are taken.

        The caller holds the store's lock, so a socket that is already there is a dead daemon's.

        Raises
        ------
        CannotStart
            The socket cannot be made.
        """
        bound = bind_unix(self._unix)
        self._inode = self._unix.stat().st_ino
        sockets = [bound] if self._tcp is None else [bound, self._tcp]
        self._task = asyncio.create_task(self._server.serve(sockets=sockets), name="http")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            await self._task  # raises what went wrong
            raise CannotStart("the HTTP server ended before it listened")

    def renew(self, tls: ssl.SSLContext) -> None:
        """Shake hands with another certificate from now on: a context in use is not changed, as that may fail halfway."""
        for listener in self._server.servers:
            if isinstance(listener, Listener) and listener.tls is not None:
                listener.tls = tls

    async def wait(self) -> None:
        """Return, or raise, when the server has ended."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def stop(self, grace_s: float) -> None:
        """Take no more requests, let those that run finish for so long, then cut them off; 0 forces."""
        if self._task is None:
            return
        self._app.state.closing.set()
        self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        self._server.force_exit = self._server.force_exit or grace_s <= 0
        self._server.should_exit = True
        await asyncio.shield(self._task)
        with suppress(FileNotFoundError):
            if self._unix.stat().st_ino == self._inode:  # a new daemon's socket stays
                self._unix.unlink()


def bind_unix(path: Path) -> socket.socket:
    """Return a bound unix socket of mode 0660; a stale socket in its place is removed.

    Raises
    ------
    CannotStart
        Something else is there, or the path is too long or not writable.
    """
    try:
        if path.exists() or path.is_symlink():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise CannotStart(f"{path} is in the way: it is not a socket", hint="move it away")
            path.unlink()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(str(path))
        os.chmod(path, MODE)  # before it listens: nobody gets in with another mode
    except OSError as error:
        hint = "choose a shorter state folder" if "too long" in str(error) else "make the folder writable for this user"
        raise CannotStart(f"cannot make the socket {path}: {error.strerror or error}", hint=hint) from error
    bound.setblocking(False)
    return bound
