"""Produce to a Kafka topic with acks=all and an idempotent producer. The event's id is the key, the message's a header.

The client library's calls may block: they are made in a thread of the output's own.
"""

from __future__ import annotations

import logging
import threading
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
        thread, over = ThreadPoolExecutor(1, thread_name_prefix="kafka-output"), threading.Event()
        try:
            producer = await in_thread(thread, self._open)

            async def send(messages: Sequence[Message]) -> None:
                await in_thread(thread, partial(self._produce, producer, messages, over))

            yield send
        finally:
            over.set()
            thread.shutdown(wait=False)

    def _open(self) -> Any:
        from confluent_kafka import KafkaException, Producer

        producer = Producer({**self.config(), "acks": "all", "enable.idempotence": self.idempotent, "linger.ms": 5,
                             "delivery.timeout.ms": int(1000 * SEND_S), "allow.auto.create.topics": False}, logger=log)
        try:
            about = producer.list_topics(self.topic, timeout=CONNECT_S).topics[self.topic]
        except KafkaException as error:
            raise ConnectionError(f"{self.address[0]}:{self.address[1]} does not answer: {words(error)}") from None
        if about.error is not None:
            raise LookupError(f"there is no topic {self.topic!r}: {about.error.str()}")
        return producer

    def _produce(self, producer: Any, messages: Sequence[Message], over: threading.Event) -> None:
        failed: list[Any] = []
        for one in messages:
            producer.produce(self.topic, one.raw(), key=one.about, headers={"id": one.id, "kind": one.kind},
                             on_delivery=lambda error, _: failed.append(error) if error else None)
        end = time.monotonic() + SEND_S
        while (left := producer.flush(0.2)) and not over.is_set() and time.monotonic() < end:
            pass
        if left:
            producer.purge()
            raise ConnectionError(f"{self.address[0]}:{self.address[1]} does not acknowledge")
        if failed:
            raise ConnectionError(f"{self.address[0]}:{self.address[1]} did not take it: {failed[0].str()}")
