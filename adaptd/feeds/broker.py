"""What feeds and outputs of brokers share: where the broker is, who we are to it, TLS; and an inbox for what it pushes.

A connection that is lost raises; `adaptd.follow` and `adaptd.publish` try again, later and later, so the client libraries'
own reconnecting is off: one place decides. The libraries are imported when a connection is made.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

from adaptd.errors import BadConfig, MissingExtra

T = TypeVar("T")
CONNECT_S = 10.0  # a broker that does not answer for so long is not there


@dataclass(kw_only=True)
class Broker:
    """Where a broker is and who we are to it: options of every feed that reads from one, and every output that sends to one."""

    schemes: ClassVar[tuple[str, str]]  # without and with TLS
    port: ClassVar[tuple[int, int]]
    library: ClassVar[tuple[str, str]]  # the module, and the extra that brings it

    url: str  # scheme, host, port and what the kind adds; no credentials
    username: str | None = None
    password: str | None = field(default=None, repr=False)  # by reference: { "$env" = "NAME" }
    ca_file: str | None = None  # certificates that are trusted instead of the system's
    cert_file: str | None = None  # our certificate, and
    key_file: str | None = None  # its key

    def __post_init__(self) -> None:
        """Refuse what cannot be connected to, and a library that is not installed."""
        module, extra = self.library
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"this kind needs the library {module!r}, which is not installed",
                               hint=f"pip install 'adaptd[{extra}]'")
        parts = urlsplit(self.url)
        if parts.scheme not in self.schemes or not parts.hostname:
            raise BadConfig("url: no address of such a broker", field="url",
                            hint="write {}://HOST, or {}://HOST for TLS".format(*self.schemes))
        if parts.username is not None or parts.password is not None:
            raise BadConfig("url: credentials do not belong into it", field="url",
                            hint='give username and password: password = { "$env" = "NAME" } or { "$file" = "path" }')
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")

    @property
    def parts(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.parts.hostname or "", self.parts.port or self.port[self.secure]

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.parts.scheme == self.schemes[1]

    def tls(self) -> ssl.SSLContext | None:
        """Return what a connection is encrypted with; None where it is not."""
        if not self.secure:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@dataclass(kw_only=True)
class BrokerFeed(Broker):
    """Options of every feed that reads from a broker."""

    batch: int = 250  # messages that are read, and not committed, at most
    wait_s: float = 1.0  # how long a read waits for a message

    def __post_init__(self) -> None:
        """Refuse what cannot be connected to, and a read that never ends."""
        super().__post_init__()
        if not 1 <= self.batch <= 10_000 or self.wait_s <= 0:
            raise ValueError("batch must be from 1 to 10000, and wait_s positive")


class Inbox(Generic[T]):
    """What a broker pushes until it is read, in order; the end of the connection comes last. Bounded by the prefetch."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[T | BaseException] = asyncio.Queue()

    def put(self, one: T) -> None:
        """Take a message in."""
        self._waiting.put_nowait(one)

    def fail(self, error: BaseException) -> None:
        """Note that no more will come."""
        self._waiting.put_nowait(error)

    async def next(self, limit: int, wait_s: float) -> Sequence[T]:
        """Return what has come, at most `limit`; wait for the first. Raises what ended the connection."""
        found: list[T] = []
        try:
            found.append(self._message(await asyncio.wait_for(self._waiting.get(), wait_s)))
        except TimeoutError:
            return found
        while len(found) < limit and not self._waiting.empty():
            found.append(self._message(self._waiting.get_nowait()))
        return found

    @staticmethod
    def _message(one: T | BaseException) -> T:
        if isinstance(one, BaseException):
            raise one
        return one
