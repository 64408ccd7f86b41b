"""Follow a Redis stream. The offset is an entry's id, kept in our own transaction; Redis has nothing to acknowledge.

An entry's id is its key. A stream that was lost and begun again, so that its newest id lies before ours, is read from its
start: what came before is recognised. Entries that were trimmed before they were read are counted and reported.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptd.feeds.broker import CONNECT_S, Broker, BrokerFeed
from adaptd.feeds.elements import element
from adaptd.interfaces import FeedItem, Risk

START = "0-0"
NOT_CHECKED = "let the user CONFIG GET, or see to it yourself: appendonly yes, appendfsync always"


@dataclass(kw_only=True)
class RedisServer(Broker):
    """Where a Redis is, and how it is connected to."""

    schemes = "redis", "rediss"
    port = 6379, 6379
    library = "redis", "redis"

    def client(self, wait_s: float) -> Any:
        """Return a client whose requests wait for so long, and a little more."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        host, port = self.address
        secure: dict[str, Any] = {"ssl": True, "ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file,
                                  "ssl_keyfile": self.key_file}
        return Redis(host=host, port=port, db=int(self.parts.path.strip("/") or 0), username=self.username,
                     password=self.password, protocol=2, retry=Retry(NoBackoff(), 0), socket_connect_timeout=CONNECT_S,
                     socket_timeout=wait_s + CONNECT_S, **(secure if self.secure else {}))


@dataclass(kw_only=True)
class RedisStream(BrokerFeed, RedisServer):
    """Each entry an event: its fields as they are, or the JSON object in the field that `payload` names."""

    name: ClassVar[str] = "redis"

    stream: str
    payload: str | None = None
    group: str | None = None  # a consumer group whose place follows ours, for others to see; it must be there
    _lag: int | None = field(default=None, init=False, repr=False)
    _lost: list[str] = field(default_factory=list, init=False, repr=False)

    def lag(self) -> int | None:
        """Return the entries that were not read yet, when last looked; None before that."""
        return self._lag

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield the entries after the cursor; an empty batch means nothing new."""
        client = self.client(self.wait_s)
        try:
            place, count = await self._place(client, cursor)
            yield []
            while True:
                found = await client.xread({self.stream: place}, count=self.batch, block=int(self.wait_s * 1000))
                entries = found[0][1] if found else []
                items = [self._item(number.decode(), values or {}, count + at) for at, (number, values) in enumerate(entries, 1)]
                if items:
                    place, count = entries[-1][0].decode(), count + len(items)
                self._lag = await self._behind(client, count)
                yield items
                if items and self.group is not None:
                    await client.xgroup_setid(self.stream, self.group, place, entries_read=count)
        finally:
            await client.aclose()

    async def risks(self) -> Sequence[Risk]:
        """Say whether what Redis has acknowledged is on its disk."""
        client = self.client(self.wait_s)
        try:
            return [*await self._settings(client), *(Risk(message=lost, hint=LOST) for lost in self._lost)]
        finally:
            await client.aclose()

    async def _settings(self, client: Any) -> list[Risk]:
        from redis.exceptions import ResponseError

        try:
            given = await client.config_get("append*")
        except ResponseError as error:
            return [Risk(message=f"its durability could not be checked: {error}", hint=NOT_CHECKED)]
        settings = {_text(key): _text(value) for key, value in given.items()}
        on, sync = (settings.get(name) for name in ("appendonly", "appendfsync"))
        if on != "yes":
            return [Risk(message="appendonly is no: a crash of Redis loses entries that it has acknowledged", hint=CURE)]
        if sync != "always":
            return [Risk(message=f"appendfsync is {sync}: a power cut loses entries that Redis has acknowledged", hint=CURE)]
        return []

    async def _place(self, client: Any, cursor: str | None) -> tuple[str, int]:
        """Return the id to read after, and how many entries of the stream lie up to it."""
        known: dict[str, Any] = json.loads(cursor) if cursor else {"id": START, "count": 0}
        facts = await self._facts(client)
        if facts is None:
            if cursor:
                self._note(f"stream {self.stream!r} is gone; it was read up to {known['id']}")
            return START, 0
        if _order(facts["last-generated-id"]) < _order(known["id"]):
            self._note(f"stream {self.stream!r} ends before the place that was read up to ({known['id']})")
            known = {"id": START, "count": 0}
        trimmed = facts["entries-added"] - facts["length"]
        if known["id"] != START and trimmed > known["count"]:
            self._note(f"{trimmed - known['count']} entries of stream {self.stream!r} were trimmed before they were read")
        return known["id"], max(known["count"], trimmed)

    def _note(self, loss: str) -> None:
        if loss not in self._lost:
            self._lost.append(loss)

    async def _behind(self, client: Any, count: int) -> int:
        facts = await self._facts(client)
        return 0 if facts is None else max(0, min(facts["entries-added"] - count, facts["length"]))

    async def _facts(self, client: Any) -> dict[str, Any] | None:
        """Return what Redis 7 says of the stream; None while there is none."""
        from redis.exceptions import ResponseError

        try:
            found = await client.xinfo_stream(self.stream)
        except ResponseError as error:
            if "no such key" in str(error):
                return None
            raise
        # what is older than Redis 7 does not count what was added
        return {"entries-added": found["length"], **found, "last-generated-id": found["last-generated-id"].decode()}

    def _item(self, number: str, values: Mapping[bytes, bytes], count: int) -> FeedItem:
        cursor, about = json.dumps({"id": number, "count": count}), {"id": number, "stream": self.stream}
        if self.payload is not None:
            return element(values.get(self.payload.encode(), b""), cursor, key=number, about=about)
        fields = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in values.items()}
        return element(json.dumps(fields, ensure_ascii=False).encode(), cursor, key=number, about=about)


CURE = "CONFIG SET appendonly yes, appendfsync always, and the same in redis.conf"
LOST = "give the stream a MAXLEN that covers the longest pause; send again what is missing: what came is recognised"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _order(number: str) -> tuple[int, int]:
    time, _, sequence = number.partition("-")
    return int(time), int(sequence or 0)
