"""The daemon's unix socket, spoken to with the standard library alone: the command line's way to the daemon.

Raises `NotRunning` when nobody listens, and the daemon's own errors rebuilt from its error objects.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptd.errors import AdaptdError, Busy, NotRunning

Json = dict[str, Any]


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


class Client:
    """One store's daemon. Every call is a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, path: str, body: Any = None, timeout_s: float | None = 60.0) -> Json:
        """Send one request and return the answer's document.

        Raises
        ------
        NotRunning
            Nobody listens on the socket.
        AdaptdError
            What the daemon answered, as the class of its code; `Busy` carries when to try again.
        """
        status, document, retry_after = self.exchange(method, path, body, timeout_s)
        if status >= 400:
            raise rebuilt(status, document, retry_after)
        return document

    def exchange(self, method: str, path: str, body: Any = None,
                 timeout_s: float | None = 60.0) -> tuple[int, Json, str | None]:
        """Send one request; return status, document and Retry-After. `bytes` are sent as they are, else JSON."""
        connection = UnixConnection(self._path, timeout_s)
        try:
            status, text, retry_after = _send(connection, method, path, body)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"no daemon listens on {self._path}", hint="start it: adaptd run") from None
        except TimeoutError:
            raise AdaptdError(f"the daemon did not answer within {timeout_s:g} s", hint="look at its log") from None
        except (OSError, http.client.HTTPException) as error:
            raise AdaptdError(f"{self._path}: {_reason(error)}", hint=_cure(error)) from None
        finally:
            connection.close()
        try:
            document = json.loads(text) if text else {}
        except ValueError:
            raise AdaptdError(f"the daemon answered {status} without JSON", hint="look at its log") from None
        return status, document if isinstance(document, dict) else {"value": document}, retry_after


def _send(connection: UnixConnection, method: str, path: str, body: Any) -> tuple[int, bytes, str | None]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data is not None else {}
    try:
        connection.request(method, path, data, headers)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before the body was read (too large): the answer is there
    response = connection.getresponse()
    return response.status, response.read(), response.getheader("Retry-After")


def _reason(error: Exception) -> str:
    closed = isinstance(error, http.client.HTTPException | ConnectionError)
    return "the daemon closed the connection" if closed else str(error)


def _cure(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "run this as the daemon's user"
    if isinstance(error, http.client.HTTPException | ConnectionError):
        return "see whether it still runs: adaptd status"
    return "a unix socket's path has at most 107 characters"


def rebuilt(status: int, document: Mapping[str, Any], retry_after: str | None = None) -> AdaptdError:
    """Make the exception that an error answer stands for."""
    given = document.get("error")
    error = given if isinstance(given, Mapping) else {}
    message, hint = str(error.get("message") or f"the daemon answered {status}"), str(error.get("hint") or "")
    kind = next((cls for cls in _classes(AdaptdError) if cls.code == error.get("code")), AdaptdError)
    if status == Busy.status or issubclass(kind, Busy):
        return (kind if issubclass(kind, Busy) else Busy)(message, retry_after_s=_seconds(retry_after), hint=hint)
    return kind(message, hint=hint, field=error.get("field"))


def _classes(cls: type[AdaptdError]) -> Iterator[type[AdaptdError]]:
    """Walk the errors that a running daemon can answer; "not running" and "cannot start" are not among them."""
    for sub in cls.__subclasses__():
        if sub.exit_code in (1, 4):
            yield sub
            yield from _classes(sub)


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 1.0))
    except ValueError:  # an HTTP date
        return 1.0
