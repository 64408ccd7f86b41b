"""Publish to a NATS JetStream stream. The server's answer is the acknowledgement; a second delivery within the stream's
duplicate window is dropped by the server itself, by the header `Nats-Msg-Id`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from adaptd.feeds.broker import CONNECT_S
from adaptd.feeds.nats import NatsServer
from adaptd.interfaces import Send
from adaptd.records import Message


@dataclass(kw_only=True)
class JetStreamSubject(NatsServer):
    """A stream must have the subject, or nothing is acknowledged."""

    name: ClassVar[str] = "nats"

    subject: str

    def __post_init__(self) -> None:
        """Refuse what cannot be sent to."""
        super().__post_init__()
        if not self.subject or any(one in self.subject for one in "*> "):
            raise ValueError("subject must be the name of one, without wildcards")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Connect; yield what publishes."""
        async with super().connected() as client:
            stream = client.jetstream()

            async def send(messages: Sequence[Message]) -> None:
                if not client.is_connected:
                    raise ConnectionError("the connection to the server was lost")
                await asyncio.gather(*(stream.publish(self.subject, one.raw(), timeout=CONNECT_S, headers={"Nats-Msg-Id": one.id})
                                       for one in messages))

            yield send
