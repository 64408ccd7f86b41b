"""Publish to an MQTT topic with quality of service 1: the broker's PUBACK is the acknowledgement. The id is a user property."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from adaptd.feeds.broker import CONNECT_S
from adaptd.feeds.mqtt import MqttBroker, let_go
from adaptd.interfaces import Send
from adaptd.records import Message

NOBODY = 16  # MQTT 5's reason code "no matching subscribers"; a broker need not tell


@dataclass(kw_only=True)
class MqttTopic(MqttBroker):
    """A reader needs a persistent session, or the broker drops what comes while it is away."""

    name: ClassVar[str] = "mqtt"

    topic: str

    def __post_init__(self) -> None:
        """Refuse what cannot be published to."""
        super().__post_init__()
        if not self.client_id or not self.topic or any(one in self.topic for one in "+#"):
            raise ValueError("client_id must not be empty, and topic the name of one, without wildcards")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Connect; yield what publishes."""
        loop, lost = asyncio.get_running_loop(), asyncio.Event()
        client, waiting = self.client(), dict[int, asyncio.Future[Any]]()
        client.on_disconnect = lambda *_: loop.call_soon_threadsafe(lost.set)

        def taken(number: int, code: Any) -> None:
            if (done := waiting.pop(number, None)) is not None and not done.done():
                done.set_result(code)

        client.on_publish = lambda _, __, number, code, ___: loop.call_soon_threadsafe(taken, number, code)

        async def send(messages: Sequence[Message]) -> None:
            told = []
            for one in messages:  # the answers come by way of this loop, which is busy here: none overtakes its entry
                number = client.publish(self.topic, one.raw(), qos=1, properties=_properties(one)).mid
                waiting[number] = loop.create_future()
                told.append(waiting[number])
            await _answered(told, lost)

        try:
            await self.accepted(client, None, clean=True)
            yield send
        finally:
            await let_go(client)


async def _answered(told: Sequence[asyncio.Future[Any]], lost: asyncio.Event) -> None:
    """Wait for the broker's answers; raise when one refuses, or none comes."""
    answers = asyncio.ensure_future(asyncio.wait_for(asyncio.gather(*told), CONNECT_S))
    over = asyncio.ensure_future(lost.wait())
    try:
        await asyncio.wait([answers, over], return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise ConnectionError("the connection to the broker was lost")
        for code in answers.result():
            if code.is_failure:
                raise ConnectionError(f"the broker refuses: {code}")
            if code.value == NOBODY:
                raise ConnectionError("nobody has subscribed to the topic: the broker has dropped what it was sent")
    finally:
        answers.cancel()
        over.cancel()


def _properties(message: Message) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = [("id", message.id), ("kind", message.kind)]
    return properties
