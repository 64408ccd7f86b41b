"""A daemon's address, and one HTTP exchange with it over the standard library alone: a unix socket or TCP.

Where: below `adaptd.client`. Raises `NotRunning` when nobody listens, `Disconnected` when an answer did not arrive; the
daemon's own errors are rebuilt from its error objects.
"""

from __future__ import annotations

import functools
import http.client
import json
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adaptd.errors import AdaptdError, BadConfig, BadRequest, Busy, Disconnected, NoAnswer, NotRunning

Json = dict[str, Any]
LOST = (http.client.HTTPException, ConnectionError)
SHAPES = 'give a folder with an adaptd.toml, a socket\'s path, or a URL as "http://127.0.0.1:8410"'


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a daemon listens: a unix socket's path, or a URL's parts."""

    path: Path | None = None
    host: str = ""
    port: int | None = None
    secure: bool = False
    prefix: str = ""  # of a proxy that serves the daemon below a path
    cafile: Path | None = None  # who vouches for the daemon's certificate, where the system's do not

    def connection(self, timeout_s: float | None) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        if self.path is not None:
            return UnixConnection(self.path, timeout_s)
        if self.secure:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self._context)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        try:
            made = ssl.create_default_context(cafile=self.cafile)
        except OSError as error:  # ssl.SSLError is one
            raise BadConfig(f"cafile: {self.cafile}: {error.strerror or error}", field="cafile",
                            hint="give the PEM certificates of the authority that signed the daemon's") from None
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        return made

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        port = "" if self.port is None else f":{self.port}"
        return f"http{'s' if self.secure else ''}://{self.host}{port}{self.prefix}"


def url(text: str, cafile: Path | None = None) -> Address:
    """Read a URL.

    >>> str(url("http://127.0.0.1:8410/"))
    'http://127.0.0.1:8410'
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadConfig(f"where is no URL: {error}", field="where", hint=SHAPES) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username is not None:
        raise BadConfig("where is no URL of a daemon", field="where", hint=f"{SHAPES}; the token goes into token=")
    return Address(host=host, port=port, secure=parts.scheme == "https", prefix=parts.path.rstrip("/"), cafile=cafile)


class Wire:
    """Exchanges with one daemon. Each has a connection of its own, unless they are kept."""

    def __init__(self, address: Address, token: str | None = None) -> None:
        self.address = address
        self._authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._idle: list[http.client.HTTPConnection] | None = None

    def keep(self) -> None:
        """Keep connections open from now on; each thread that calls meanwhile takes one for itself."""
        self._idle = [] if self._idle is None else self._idle

    def close(self) -> None:
        """Close what is kept, and keep no more."""
        idle, self._idle = self._idle or [], None
        for connection in idle:
            connection.close()

    def exchange(self, method: str, path: str, body: Any, timeout_s: float | None) -> tuple[int, Json, str | None]:
        """Send one request; return status, document and Retry-After. `bytes` are sent as they are, else JSON."""
        data = body if body is None or isinstance(body, bytes) else _encoded(body)
        connection = self._taken(timeout_s)
        try:
            status, text, retry_after = self._send(connection, method, path, data)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | http.client.HTTPException):
                raise self._explained(error, timeout_s) from None
            raise
        self._give(connection)
        try:
            document = json.loads(text) if text else {}
        except ValueError:
            raise AdaptdError(f"{self.address} answered {status} without JSON", hint="look at the daemon's log") from None
        return status, document if isinstance(document, dict) else {"value": document}, retry_after

    def _taken(self, timeout_s: float | None) -> http.client.HTTPConnection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()  # an idle one has nothing to read but its end
        return self.address.connection(timeout_s)

    def _give(self, connection: http.client.HTTPConnection) -> None:
        if (idle := self._idle) is None or connection.sock is None:
            connection.close()
        else:
            idle.append(connection)

    def _send(self, connection: http.client.HTTPConnection, method: str, path: str,
              data: bytes | None) -> tuple[int, bytes, str | None]:
        headers = self._authorization | ({"Content-Type": "application/json"} if data is not None else {})
        try:
            connection.request(method, self.address.prefix + path, data, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before the body was read (too large): the answer is there
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Retry-After")

    def _explained(self, error: Exception, timeout_s: float | None) -> AdaptdError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return NotRunning(f"no daemon listens on {self.address}", hint="start it: adaptd run")
        if isinstance(error, TimeoutError):
            return NoAnswer(f"the daemon did not answer within {timeout_s or 0:g} s", hint="look at its log")
        if isinstance(error, LOST):
            return Disconnected(f"{self.address}: the daemon closed the connection",
                                hint="see whether it still runs: adaptd status")
        return AdaptdError(f"{self.address}: {error}", hint=_cure(error, self.address))


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"this cannot be sent as JSON: {error}", hint="send text, finite numbers, lists and mappings") from None


def _cure(error: Exception, address: Address) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name the host as the certificate does; cafile= says who vouches for it"
    if isinstance(error, PermissionError):
        return "run this as the daemon's user"
    if address.path is None:
        return "look at the address and the network"
    return "a unix socket's path has at most 107 characters"


def rebuilt(status: int, document: Mapping[str, Any], retry_after: str | None = None) -> AdaptdError:
    """Make the exception that an error answer stands for."""
    given = document.get("error")
    return from_body(given if isinstance(given, Mapping) else {}, status, retry_after)


def from_body(error: Mapping[str, Any], status: int = 422, retry_after: str | None = None) -> AdaptdError:
    """Make the exception that an error object stands for."""
    message, hint = str(error.get("message") or f"the daemon answered {status}"), str(error.get("hint") or "")
    kind = next((cls for cls in _classes(AdaptdError) if cls.code == error.get("code")), AdaptdError)
    if status == Busy.status or issubclass(kind, Busy):
        return (kind if issubclass(kind, Busy) else Busy)(message, retry_after_s=seconds(retry_after), hint=hint)
    return kind(message, hint=hint, field=error.get("field"))


def _classes(cls: type[AdaptdError]) -> Iterator[type[AdaptdError]]:
    """Walk the errors that a running daemon can answer; "not running" and "cannot start" are not among them."""
    for sub in cls.__subclasses__():
        if sub.exit_code in (1, 4):
            yield sub
            yield from _classes(sub)


def seconds(retry_after: str | None) -> float:
    """Read Retry-After."""
    try:
        return max(0.0, float(retry_after or 1.0))
    except ValueError:  # an HTTP date
        return 1.0
