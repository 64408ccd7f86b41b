"""Follow MQTT topics. The protocol has no offset: each message must name its id, and a second delivery is known by it.

A persistent session (MQTT 5, quality of service 1) keeps for us what comes while we are away. A message is acknowledged after
our commit; until then the broker has at most `batch` of them on the way to us.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptd.errors import BadConfig
from adaptd.feeds.broker import CONNECT_S, Broker, BrokerFeed, Inbox
from adaptd.feeds.elements import element
from adaptd.interfaces import FeedItem, Risk

SESSION_S = 30 * 24 * 3600  # for which the broker keeps what came while we are away
KEEP_ALIVE_S = 30
QUEUE = ("in mosquitto.conf: persistence true, autosave_interval 1, max_queued_messages 0 (by default a session keeps 1000, and"
         " drops what is more); then persistent = true in this feed's options")


@dataclass(kw_only=True)
class MqttBroker(Broker):
    """Where an MQTT broker is, and how it is connected to."""

    schemes = "mqtt", "mqtts"
    port = 1883, 8883
    library = "paho", "mqtt"

    client_id: str  # of the session; no other client of the broker may have it

    def client(self, **options: Any) -> Any:
        """Return a client that is not connected yet."""
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, client_id=self.client_id, protocol=MQTTv5, reconnect_on_failure=False,
                        **options)
        if self.username is not None:
            client.username_pw_set(self.username, self.password)
        if (context := self.tls()) is not None:
            client.tls_set_context(context)
        client.connect_timeout = CONNECT_S
        return client

    async def accepted(self, client: Any, properties: Any, *, clean: bool) -> bool:
        """Connect a client and start its thread; return whether the broker has kept its session."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[bool] = loop.create_future()
        client.on_connect = lambda _, __, flags, code, ___: loop.call_soon_threadsafe(_settle, accepted, flags, code)
        host, port = self.address
        await asyncio.to_thread(client.connect, host, port, KEEP_ALIVE_S, clean_start=clean, properties=properties)
        client.loop_start()
        return await asyncio.wait_for(accepted, CONNECT_S)


async def let_go(client: Any) -> None:
    """Disconnect a client and end its thread."""
    client.on_disconnect = None
    client.disconnect()
    await asyncio.to_thread(client.loop_stop)


@dataclass(kw_only=True)
class Mqtt(BrokerFeed, MqttBroker):
    """Each message a JSON object, published with quality of service 1 or 2."""

    name: ClassVar[str] = "mqtt"
    needs_id: ClassVar[bool] = True

    topics: list[str]  # wildcards are allowed
    persistent: bool = False  # the operator says that the broker keeps sessions on disk: it cannot be asked
    _taken: int = field(default=0, init=False, repr=False)
    _waiting: int = field(default=0, init=False, repr=False)
    _lost: dict[str, None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what names no session."""
        super().__post_init__()
        if not self.topics or not self.client_id:
            raise ValueError("topics and client_id must not be empty")

    def lag(self) -> int | None:
        """Return the messages that have come and are not committed: what waits at the broker it does not say."""
        return self._waiting

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield what comes; an empty batch means nothing new. The cursor counts the messages."""
        self._taken = json.loads(cursor)["taken"] if cursor else 0
        loop = asyncio.get_running_loop()
        inbox: Inbox[Any] = Inbox()
        client = self.client(manual_ack=True)
        client.on_disconnect = lambda _, __, ___, code, ____: loop.call_soon_threadsafe(
            inbox.fail, ConnectionError(f"the connection to the broker was lost: {code}"))
        client.on_message = lambda _, __, message: loop.call_soon_threadsafe(inbox.put, message)
        try:
            kept = await self.accepted(client, self._wanted(), clean=False)
            if cursor and not kept:
                self._lost["the broker did not keep the session: messages since the last one read are lost"] = None
            client.subscribe([(topic, 1) for topic in self.topics])
            yield []
            while True:
                messages = await inbox.next(self.batch, self.wait_s)
                self._waiting = len(messages)
                yield [self._item(message) for message in messages]
                for message in messages:
                    client.ack(message.mid, message.qos)
        finally:
            await let_go(client)

    async def risks(self) -> Sequence[Risk]:
        """Say what was lost, and what the operator has to see to."""
        found = [Risk(message=lost, hint=QUEUE) for lost in self._lost]
        if not self.persistent:
            found.append(Risk(message="by default a broker keeps sessions in memory, and of each a bounded queue: what it has"
                                      " acknowledged is lost by its restart or a long pause of ours", hint=QUEUE))
        return found

    def _wanted(self) -> Any:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        wanted: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = SESSION_S
        wanted.ReceiveMaximum = self.batch
        return wanted

    def _item(self, message: Any) -> FeedItem:
        self._taken += 1
        properties = dict(getattr(message.properties, "UserProperty", None) or [])
        about = {"topic": message.topic, "properties": properties}
        return element(message.payload, json.dumps({"taken": self._taken}), about=about)


def _settle(accepted: asyncio.Future[bool], flags: Any, code: Any) -> None:
    """Say whether the broker has kept the session, or why it does not let us in."""
    if accepted.done():
        return
    if code.is_failure:
        accepted.set_exception(BadConfig(f"the broker refuses: {code}", field="username",
                                         hint="look at username, password and client_id, and at the broker's access list"))
    else:
        accepted.set_result(bool(flags.session_present))
