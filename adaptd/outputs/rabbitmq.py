"""Publish to a RabbitMQ exchange, persistent messages with publisher confirms; what no queue takes is an error, not a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from adaptd.feeds.broker import CONNECT_S
from adaptd.feeds.rabbitmq import RabbitServer
from adaptd.interfaces import Send
from adaptd.records import Message


@dataclass(kw_only=True)
class RabbitExchange(RabbitServer):
    """The exchange and a queue bound to it must be there; the default exchange leads to the queue that the key names."""

    name: ClassVar[str] = "rabbitmq"

    routing_key: str
    exchange: str = ""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Connect; yield what publishes."""
        import aio_pika

        async with super().connected() as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            exchange = await channel.get_exchange(self.exchange) if self.exchange else channel.default_exchange

            async def send(messages: Sequence[Message]) -> None:
                made = [aio_pika.Message(one.raw(), message_id=one.id, type=one.kind, content_type="application/json",
                                         delivery_mode=aio_pika.DeliveryMode.PERSISTENT, app_id="adaptd") for one in messages]
                await asyncio.gather(*(exchange.publish(one, self.routing_key, timeout=CONNECT_S) for one in made))

            yield send
