"""Take in what others send to `POST /v1/feeds/{name}/hook`: each delivery an element, signed with a secret that both know.

A delivery is answered when it is committed, and known by its id when it is sent again. What cannot be taken is kept among the
dead letters, and answered like the others: a sender that tries again for ever would change nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptd import signing
from adaptd.errors import BadConfig, BadSignature, Busy, NotReady
from adaptd.feeds.elements import at, element, read_object
from adaptd.interfaces import FeedItem

TOLERANCE_S = 300.0  # that a sender's clock may be off; older deliveries may be somebody's recording
ANSWER_S = 8.0  # GitHub waits for 10
GITHUB, STANDARD, PLAIN = "github", "standard", "secret"
HEADER = "x-adaptd-secret"  # of senders that cannot sign, and can be given a header
SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "x-hub-signature", "x-hub-signature-256",
                    "webhook-signature", HEADER})  # headers that are not kept


@dataclass(kw_only=True)
class _Delivery:
    """One body on its way, and who waits for its commit."""

    body: bytes
    key: str | None
    about: Mapping[str, Any]
    done: asyncio.Future[bool]


@dataclass(kw_only=True)
class Webhook:
    """Each delivery's body a JSON object."""

    name: ClassVar[str] = "webhook"
    needs_key: ClassVar[bool] = True

    secret: str = field(repr=False)  # by reference: { "$env" = "NAME" }
    signature: str  # how it is signed: "github" or "standard"; or "secret", where it comes with the delivery
    old_secret: str | None = field(default=None, repr=False)  # is taken, too, while the senders change theirs
    events: list[str] = field(default_factory=list)  # GitHub's types of events that are taken; none: all
    only: dict[str, Any] = field(default_factory=dict)  # places of the body and what must stand there; others are passed over
    batch: int = 250  # deliveries that wait for their commit, at most
    wait_s: float = 1.0  # how long a read waits for a delivery
    _taken: int = field(default=0, init=False, repr=False)
    _keys: Sequence[bytes] = field(default=(), init=False, repr=False)
    _waiting: asyncio.Queue[_Delivery] = field(default_factory=asyncio.Queue, init=False, repr=False)
    _on_the_way: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what would let anybody in."""
        if self.signature not in (GITHUB, STANDARD, PLAIN):
            raise BadConfig(f"signature: {self.signature!r} is not known", field="signature",
                            hint=f'"{GITHUB}" (X-Hub-Signature-256), "{STANDARD}" (Standard Webhooks) or "{PLAIN}" ({HEADER})')
        if not 1 <= self.batch <= 10_000 or self.wait_s <= 0:
            raise ValueError("batch must be from 1 to 10000, and wait_s positive")
        if not isinstance(self.events, list):
            raise ValueError('events must be a list: ["issues"]')
        if self.events and self.signature != GITHUB:
            raise ValueError('events belongs to signature = "github"')
        secrets = [self.secret] if self.old_secret is None else [self.secret, self.old_secret]
        self._keys = [self._key(secret) for secret in secrets]

    def lag(self) -> int | None:
        """Return the deliveries that wait for their commit."""
        return self._waiting.qsize() + self._on_the_way

    def announced(self, headers: Mapping[str, str]) -> None:
        """Raise BadSignature where there is no signature, or one of long ago."""
        if self.signature == STANDARD:
            moment = headers.get("webhook-timestamp", "")
            if not (moment.isascii() and moment.isdigit() and abs(int(moment[:20]) - time.time()) <= TOLERANCE_S):
                raise BadSignature(f"webhook-timestamp is not within {TOLERANCE_S:g} s of our clock",
                                   hint="sign and send it now; compare the clocks")
        needed = {PLAIN: (HEADER,), GITHUB: ("x-hub-signature-256",), STANDARD: ("webhook-signature", "webhook-id")}
        if not all(headers.get(name) for name in needed[self.signature]):
            raise self._refused()

    def signed(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise BadSignature where the body is not signed with our secret, or long ago."""
        self.announced(headers)
        if self.signature == PLAIN:
            given, wanted = [headers[HEADER]], [key.decode() for key in self._keys]
        elif self.signature == GITHUB:
            given = [headers["x-hub-signature-256"]]
            wanted = [f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}" for key in self._keys]
        else:
            given = headers["webhook-signature"].split()
            wanted = [signing.signature(key, headers["webhook-id"], headers["webhook-timestamp"], body) for key in self._keys]
        matches = [hmac.compare_digest(one.encode("latin-1"), other.encode()) for one in given[:10] for other in wanted]
        if not any(matches):
            raise self._refused()

    def _refused(self) -> BadSignature:
        return BadSignature(hint=f"sign the body as it is sent: signature = {self.signature!r} in docs/feeds.md")

    async def deliver(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """Take in a delivery whose signature was checked; return its id when it is committed."""
        key = headers.get("x-github-delivery" if self.signature == GITHUB else "webhook-id") or None
        event = headers.get("x-github-event")
        if (self.events and event not in self.events) or not self._wanted(body):
            return key
        if self._waiting.qsize() + self._on_the_way >= self.batch:
            raise Busy("as many deliveries wait as may", retry_after_s=5.0)
        about = {"id": key, "event": event, "headers": {name: value for name, value in headers.items() if name not in SECRET}}
        one = _Delivery(body=body, key=key, about=about, done=asyncio.get_running_loop().create_future())
        self._waiting.put_nowait(one)
        if not (await asyncio.wait([one.done], timeout=ANSWER_S))[0]:
            raise Busy("the delivery is not committed yet", retry_after_s=30.0, hint="send it again: it counts once, by its id")
        if not one.done.result():
            raise NotReady("the delivery could not be committed", hint="send it again: it counts once, by its id")
        return key

    def _wanted(self, body: bytes) -> bool:
        """Say whether in the body stands what must; one that cannot be read is kept among the dead letters."""
        try:
            value = read_object(body) if self.only else None
        except ValueError:
            return True
        return all(at(value, path) == wanted for path, wanted in self.only.items())

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield what was delivered; an empty batch means nothing new. The cursor counts the deliveries."""
        self._taken = json.loads(cursor)["taken"] if cursor else 0
        yield []
        while True:
            batch = await self._next()
            self._on_the_way, committed = len(batch), False
            try:
                yield [self._item(one) for one in batch]
                committed = True
            finally:
                self._on_the_way = 0
                for one in batch:
                    one.done.set_result(committed)

    async def _next(self) -> list[_Delivery]:
        found = []
        try:
            found.append(await asyncio.wait_for(self._waiting.get(), self.wait_s))
        except TimeoutError:
            return found
        while not self._waiting.empty() and len(found) < self.batch:
            found.append(self._waiting.get_nowait())
        return found

    def _item(self, one: _Delivery) -> FeedItem:
        self._taken += 1
        return element(one.body, json.dumps({"taken": self._taken}), key=one.key, about=one.about)

    def _key(self, secret: str) -> bytes:
        if self.signature == STANDARD:
            return signing.key(secret)
        key = secret.encode()
        if len(key) < signing.SHORTEST:
            raise BadConfig(f"secret: shorter than {signing.SHORTEST} bytes", field="secret",
                            hint="openssl rand -hex 32 makes one")
        return key
