"""Follow a RabbitMQ queue. It has no offset: each message must name its id, and a second delivery is known by it.

A message is acknowledged after our commit; until then the broker has at most `batch` of them on the way to us. What our own
door refuses is acknowledged, too: it lies among our dead letters.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import unquote

from adaptd.feeds.broker import CONNECT_S, Broker, BrokerFeed, Inbox
from adaptd.feeds.elements import element
from adaptd.interfaces import FeedItem, Risk

TRANSIENT = 1  # AMQP's delivery mode of a message that is not written to disk


@dataclass(kw_only=True)
class RabbitServer(Broker):
    """Where a RabbitMQ is, and how it is connected to."""

    schemes = "amqp", "amqps"
    port = 5672, 5671
    library = "aio_pika", "rabbitmq"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Connect; yield the connection."""
        import aio_pika

        host, port = self.address
        connection = await aio_pika.connect(
            host=host, port=port, login=self.username or "guest", password=self.password or "guest",
            virtualhost=unquote(self.parts.path[1:]) or "/", ssl=self.secure, ssl_context=self.tls(), timeout=CONNECT_S)
        try:
            yield connection
        finally:
            await connection.close()


@dataclass(kw_only=True)
class RabbitMq(BrokerFeed, RabbitServer):
    """Each message a JSON object. The queue must be there; nobody else should read from it."""

    name: ClassVar[str] = "rabbitmq"
    needs_id: ClassVar[bool] = True

    queue: str
    _taken: int = field(default=0, init=False, repr=False)
    _lag: int | None = field(default=None, init=False, repr=False)
    _transient: bool = field(default=False, init=False, repr=False)

    def lag(self) -> int | None:
        """Return the messages in the queue that are not committed, when last looked; None before that."""
        return self._lag

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield what comes; an empty batch means nothing new. The cursor counts the messages."""
        self._taken = json.loads(cursor)["taken"] if cursor else 0
        inbox: Inbox[Any] = Inbox()
        async with self.connected() as connection:
            channel = await connection.channel()
            channel.close_callbacks.add(lambda _, error: inbox.fail(error or ConnectionError("the broker closed the channel")))
            await channel.set_qos(prefetch_count=self.batch)
            queue = await channel.declare_queue(self.queue, passive=True)
            await queue.consume(_into(inbox))
            yield []
            while True:
                messages = await inbox.next(self.batch, self.wait_s)
                ready = (await channel.declare_queue(self.queue, passive=True)).declaration_result.message_count
                self._lag = int(ready or 0) + len(messages)
                yield [self._item(message) for message in messages]
                if messages:
                    await messages[-1].ack(multiple=True)

    async def risks(self) -> Sequence[Risk]:
        """Say whether what the broker has acknowledged outlives its restart."""
        from aio_pika.exceptions import ChannelPreconditionFailed

        found = []
        if self._transient:
            found.append(Risk(message="messages are published as transient: a restart of the broker loses them",
                              hint="let producers publish with delivery_mode 2, and wait for the broker's confirms"))
        async with self.connected() as connection:
            channel = await connection.channel()
            await channel.declare_queue(self.queue, passive=True)
            try:
                await channel.declare_queue(self.queue, durable=True)  # a queue that is there stays as it is
            except ChannelPreconditionFailed as error:
                if "'durable'" in str(error):
                    found.append(Risk(message=f"queue {self.queue!r} is not durable: a restart of the broker loses it",
                                      hint="declare it anew with durable = true, or as a quorum queue"))
        return found

    def _item(self, message: Any) -> FeedItem:
        self._taken += 1
        self._transient = self._transient or message.delivery_mode == TRANSIENT
        headers = {name: value if isinstance(value, str | int | float | bool) else str(value)
                   for name, value in message.headers.items()}
        about = {"message_id": message.message_id, "routing_key": message.routing_key, "exchange": message.exchange,
                 "type": message.type, "headers": headers}
        return element(message.body, json.dumps({"taken": self._taken}), about=about)


def _into(inbox: Inbox[Any]) -> Any:
    async def put(message: Any) -> None:
        inbox.put(message)

    return put
