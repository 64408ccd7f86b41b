"""Follow a NATS JetStream stream. The offset is the stream's sequence, kept in our own transaction.

Each connection makes a consumer of its own behind our offset, so that everything comes in order and no acknowledgement of
an earlier life can hide a message; it ends by itself when nobody asks it. A gap in what it delivers is an error, and is read
again. Acknowledged is after our commit, which bounds what is on the way.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptd.errors import BadConfig
from adaptd.feeds.broker import CONNECT_S, Broker, BrokerFeed
from adaptd.feeds.elements import element
from adaptd.interfaces import FeedItem, Risk

SAME_S = 0.001  # the client library rounds a message's time
IDLE_S = 300.0  # after which the server takes a consumer away that nobody asks
ACK_WAIT_S = 3600.0  # longer than back-pressure lasts; a new connection asks again at once
CURE = "give the stream a MaxAge and MaxBytes that cover the longest pause; send again what is missing: what came is recognised"
SYNC = "set jetstream { sync_interval: always } in the server, then synced = true in this feed's options; or keep 3 replicas"


@dataclass(kw_only=True)
class NatsServer(Broker):
    """Where a NATS server is, and how it is connected to."""

    schemes = "nats", "tls"
    port = 4222, 4222
    library = "nats", "nats"

    token: str | None = field(default=None, repr=False)  # instead of username and password, by reference
    credentials_file: str | None = None  # a .creds file, instead of them

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Connect; yield the client."""
        import nats
        from nats.errors import NoServersError

        met: list[Exception] = []

        async def note(error: Exception) -> None:
            met.append(error)

        host, port = self.address
        given = {"user": self.username, "password": self.password, "token": self.token, "user_credentials": self.credentials_file,
                 "tls": self.tls()}
        try:
            client = await nats.connect(
                f"{self.parts.scheme}://{host}:{port}", allow_reconnect=False, connect_timeout=int(CONNECT_S), error_cb=note,
                max_reconnect_attempts=1, reconnect_time_wait=0,
                **{key: value for key, value in given.items() if value is not None})
        except NoServersError:
            raise met[-1] if met else ConnectionError(f"nothing answers at {host}:{port}") from None
        try:
            yield client
        finally:
            await client.close()


@dataclass(kw_only=True)
class JetStream(BrokerFeed, NatsServer):
    """Each message a JSON object."""

    name: ClassVar[str] = "nats"

    stream: str
    subject: str | None = None  # of a stream with several; wildcards are allowed
    synced: bool = False  # the operator says that the server syncs each message: it cannot be asked
    _lag: int | None = field(default=None, init=False, repr=False)
    _lost: dict[str, None] = field(default_factory=dict, init=False, repr=False)

    def lag(self) -> int | None:
        """Return the messages that were not read yet, when last read; None before that."""
        return self._lag

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield the messages after the cursor; an empty batch means nothing new."""
        from nats.errors import TimeoutError as NothingCame

        async with self.connected() as client:
            stream = client.jetstream()
            last, delivered = await self._place(stream, cursor), 0
            consumer = await self._consumer(stream, last + 1)
            yield []
            while True:
                try:
                    messages = await consumer.fetch(self.batch, timeout=self.wait_s)
                except NothingCame:
                    messages = []
                    if not client.is_connected:
                        raise ConnectionError("the connection to the server was lost") from None
                for one in messages:
                    delivered += 1
                    if one.metadata.sequence.consumer != delivered:
                        raise ConnectionError("messages were lost on the way; they are read again")
                fresh = [one for one in messages if one.metadata.sequence.stream > last]
                self._lag = messages[-1].metadata.num_pending if messages else 0
                yield [self._item(one) for one in fresh]
                if messages:
                    last = max(last, messages[-1].metadata.sequence.stream)
                    await messages[-1].ack()

    async def risks(self) -> Sequence[Risk]:
        """Say whether what the server has acknowledged is on its disk, as far as it tells."""
        async with self.connected() as client:
            config = (await client.jetstream().stream_info(self.stream)).config
        found = [Risk(message=lost, hint=CURE) for lost in self._lost]
        if config.storage == "memory":
            found.append(Risk(message=f"stream {self.stream!r} is in memory: a restart of the server loses it",
                              hint="make the stream anew with file storage"))
        elif (config.num_replicas or 1) < 3 and not self.synced:
            found.append(Risk(message="by default the server syncs every two minutes: a power cut loses messages that it has"
                                      " acknowledged", hint=SYNC))
        return found

    async def _place(self, stream: Any, cursor: str | None) -> int:
        """Return the sequence to read after."""
        info = await stream.stream_info(self.stream)
        if (kept := info.config.retention) not in (None, "limits"):
            raise BadConfig(f"stream {self.stream!r} has retention {kept!r}, which lets go of messages by acknowledgements",
                            field="stream", hint="follow a stream with retention limits; it can have this one as its source")
        known: dict[str, Any] = json.loads(cursor) if cursor else {"seq": 0, "time": 0.0}
        self._lag = info.state.last_seq - known["seq"]
        if known["seq"] and await self._is_another(stream, info.state, known):
            self._lost[f"stream {self.stream!r} is not the one that was read up to {known['seq']}"] = None
            return 0
        if known["seq"] and info.state.first_seq > known["seq"] + 1:
            missed = info.state.first_seq - known["seq"] - 1
            self._lost[f"{missed} messages of stream {self.stream!r} went before they were read"] = None
        return int(known["seq"])

    async def _is_another(self, stream: Any, state: Any, known: dict[str, Any]) -> bool:
        """Say whether the message we stopped at is not there, or is another one."""
        from nats.js.errors import NotFoundError

        if state.last_seq < known["seq"]:
            return True
        try:
            there = await stream.get_msg(self.stream, known["seq"])
        except NotFoundError:
            return False  # it went by the stream's limits
        return bool(abs(there.time.timestamp() - float(known["time"])) > SAME_S)

    async def _consumer(self, stream: Any, first: int) -> Any:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        wanted = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first, ack_policy=AckPolicy.ALL,
                                ack_wait=ACK_WAIT_S, max_ack_pending=2 * self.batch, inactive_threshold=IDLE_S)
        return await stream.pull_subscribe(self.subject or "", stream=self.stream, config=wanted)

    def _item(self, message: Any) -> FeedItem:
        place = message.metadata
        # a stream that was lost and begun again has other times
        moment = place.timestamp.timestamp()
        cursor = json.dumps({"seq": place.sequence.stream, "time": moment})
        about = {"subject": message.subject, "seq": place.sequence.stream, "headers": dict(message.headers or {})}
        return element(message.data, cursor, key=f"{place.sequence.stream}:{moment}", about=about)
