"""Add entries to a Redis stream. Redis' answer to each is the acknowledgement; the message lies in one field, as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from adaptd.feeds.broker import CONNECT_S
from adaptd.feeds.redis import RedisServer
from adaptd.interfaces import Send
from adaptd.records import Message


@dataclass(kw_only=True)
class RedisEntries(RedisServer):
    """Each entry has the fields `id` and `json`."""

    name: ClassVar[str] = "redis"

    stream: str
    maxlen: int | None = None  # about how many entries the stream keeps; none: all

    def __post_init__(self) -> None:
        """Refuse what cannot be sent to."""
        super().__post_init__()
        if not self.stream or (self.maxlen is not None and self.maxlen < 1):
            raise ValueError("stream must not be empty, and maxlen positive")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Connect; yield what adds entries."""
        client = self.client(CONNECT_S)

        async def send(messages: Sequence[Message]) -> None:
            async with client.pipeline(transaction=False) as pipe:
                for message in messages:
                    pipe.xadd(self.stream, {"id": message.id, "json": message.raw()}, maxlen=self.maxlen)
                await pipe.execute()

        try:
            await client.ping()
            yield send
        finally:
            await client.aclose()
