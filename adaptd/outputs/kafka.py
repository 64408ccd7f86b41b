"""Produce to a Kafka topic with acks=all and an idempotent producer. The event's id is the key, the message's a header.

The client library's calls may block: they are made in a thread of the output's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from adaptd.feeds.broker import CONNECT_S
from adaptd.feeds.kafka import KafkaCluster, in_thread, words
from adaptd.interfaces import Send
from adaptd.records import Message

log = logging.getLogger(__name__)
SEND_S = 30.0  # that a batch may take


@dataclass(kw_only=True)
class KafkaTopic(KafkaCluster):
    """The topic must be there."""

    name: ClassVar[str] = "kafka"

    topic: str
    idempotent: bool = True  # false for a broker that gives producers no ids: a retry within the library may then count twice

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Connect; yield what produces."""
        thread, session = ThreadPoolExecutor(1, thread_name_prefix="kafka-output"), _Session(self)
        try:
            await in_thread(thread, session.open)

            async def send(messages: Sequence[Message]) -> None:
                await in_thread(thread, partial(session.produce, messages))

            yield send
        finally:
            session.over = True
            thread.shutdown(wait=False)


class _Session:
    """One connection. Used by one thread."""

    def __init__(self, output: KafkaTopic) -> None:
        self._output = output
        self._producer: Any = None
        self._down: str | None = None  # all brokers are away, or do not let us in
        self._failed: list[Any] = []
        self.over = False  # set from outside: what waits gives up

    def open(self) -> None:
        """Connect, and look whether the topic is there."""
        from confluent_kafka import KafkaException, Producer

        output, end = self._output, time.monotonic() + CONNECT_S
        self._producer = Producer({
            **output.config(), "acks": "all", "enable.idempotence": output.idempotent, "linger.ms": 5, "error_cb": self._met,
            "delivery.timeout.ms": int(1000 * SEND_S), "allow.auto.create.topics": False}, logger=log)
        while True:
            try:
                about = self._producer.list_topics(output.topic, timeout=1.0).topics[output.topic]
                break
            except KafkaException as error:
                self._producer.poll(0)  # tells `_met` what went wrong
                if self._down is not None or self.over or time.monotonic() > end:
                    raise ConnectionError(self._down or f"{output.address[0]} does not answer: {words(error)}") from None
        if about.error is not None:
            raise LookupError(f"there is no topic {output.topic!r}: {about.error.str()}")

    def produce(self, messages: Sequence[Message]) -> None:
        """Produce, and return when all of it is acknowledged."""
        self._failed, self._down, end = [], None, time.monotonic() + SEND_S
        for one in messages:
            self._producer.produce(self._output.topic, one.raw(), key=one.about, headers={"id": one.id, "kind": one.kind},
                                   on_delivery=self._told)
        while (left := self._producer.flush(0.2)) and self._down is None and not self.over and time.monotonic() < end:
            pass
        if left:
            self._producer.purge()
            raise ConnectionError(self._down or f"{self._output.address[0]} does not acknowledge")
        if self._failed:
            raise ConnectionError(f"{self._output.address[0]} did not take it: {self._failed[0].str()}")

    def _told(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(error)

    def _met(self, error: Any) -> None:
        """Hear from the library what is wrong; it tries again by itself."""
        from confluent_kafka import KafkaError

        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL):
            self._down = error.str()
