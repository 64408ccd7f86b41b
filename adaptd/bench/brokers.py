"""Real brokers that a run or a test starts, kills and starts again; what of their data they acknowledge is on the disk."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from adaptd.bench.waiting import until
from adaptd.errors import CannotStart

Json = dict[str, Any]
LOGIN = {"username": "ann", "password": "hunter2"}  # servers that let everybody in take it; nobody may show it
PLAIN: Mapping[str, str] = {"id": "id", "text": "text", "label": "label"}


class Absent(CannotStart):
    """A broker's program is not installed."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server(ABC):
    """One broker on a free port with a folder of its own, which it keeps over restarts."""

    kind: ClassVar[str]
    program: ClassVar[str]

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.kind}-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = self.found()
        if program is None:
            raise Absent(f"{self.program} is not there", hint="install it, or leave its broker out")
        with (self.folder / "said").open("ab") as said:
            self.process = subprocess.Popen(
                [str(program), *self.arguments()], stdout=said, stderr=said, stdin=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, **self.environment()})
        until(self.answers, f"{self.kind} answers")
        self.prepare()

    def stop(self) -> None:
        """End it as an operator does."""
        if self.process is not None:
            self._end(signal.SIGTERM)

    def close(self) -> None:
        """End it at once and remove its folder."""
        if self.process is not None:
            self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
        self.process.wait(60)
        self.process = None

    def answers(self) -> bool:
        """Say whether it takes connections."""
        assert self.process is not None and self.process.poll() is None, (self.folder / "said").read_text(errors="replace")
        with closing(socket.socket()) as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def found(self) -> str | None:
        """Return where the program is."""
        return shutil.which(self.program, path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}:/usr/sbin")

    def environment(self) -> Mapping[str, str]:
        """Return what its process needs in the environment."""
        return {}

    def prepare(self) -> None:  # noqa: B027 — not every kind has something to make
        """Make what the feed reads from; done again it changes nothing."""

    @abstractmethod
    def arguments(self) -> Sequence[str]:
        """Return the words behind the program's name."""

    @abstractmethod
    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Give it messages, in order; return when it has acknowledged them."""

    @abstractmethod
    def options(self) -> Json:
        """Return the feed's options."""

    def fields(self) -> Mapping[str, str]:
        """Return the feed's fields."""
        return PLAIN

    def table(self, name: str = "f", **over: Any) -> str:
        """Return the feed's table of the configuration; `over` are options."""
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in {**self.options(), **over}.items())
        fields = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.fields().items())
        return (f'[feeds.{name}]\nkind = "{self.kind}"\ndomain = "text"\n'
                f"options = {{ {options} }}\nfields = {{ {fields} }}\n")


def raw(message: Json | bytes) -> bytes:
    """Return a message's bytes."""
    return message if isinstance(message, bytes) else json.dumps(message).encode()


class RedisServer(Server):
    """redis-server that fsyncs each write."""

    kind, program = "redis", "redis-server"

    def arguments(self) -> Sequence[str]:
        """Return the words behind the program's name."""
        return ["--port", str(self.port), "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always",
                "--bind", "127.0.0.1", "--save", ""]

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Open a connection."""
        from redis import Redis

        with Redis(port=self.port) as client:
            yield client

    def answers(self) -> bool:
        """Say whether it has read its file."""
        from redis.exceptions import RedisError

        if not super().answers():
            return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Add entries with the message in one field."""
        with self.client() as client, client.pipeline(transaction=False) as pipe:
            for message in messages:
                pipe.xadd("events", {"json": raw(message)})
            pipe.execute()

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"redis://127.0.0.1:{self.port}", "stream": "events", "payload": "json", "wait_s": 0.2}


class NatsServer(Server):
    """nats-server with JetStream."""

    kind, program = "nats", "nats-server"

    def arguments(self) -> Sequence[str]:
        """Return the words behind the program's name."""
        return ["-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder)]

    def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do something with a client."""

        async def session() -> Any:
            import nats

            client = await nats.connect(f"nats://127.0.0.1:{self.port}")
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(session())

    def prepare(self) -> None:
        """Make the stream."""
        self.run(lambda stream: stream.add_stream(name="events", subjects=["events.>"]))

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Publish messages, one after the other."""

        async def send(stream: Any) -> None:
            for message in messages:
                await stream.publish("events.one", raw(message))

        self.run(send)

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"nats://127.0.0.1:{self.port}", "stream": "events", "synced": True, "wait_s": 0.2, **LOGIN}


class Mosquitto(Server):
    """mosquitto that keeps sessions on disk."""

    kind, program = "mqtt", "mosquitto"

    def arguments(self) -> Sequence[str]:
        """Return the words behind the program's name."""
        config = self.folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\nmax_queued_messages 0\n"
                          f"persistence_location {self.folder}/\nuser root\n")
        return ["-c", str(config)]

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Publish messages with quality of service 1, and wait until the broker has each."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2)
        client.max_inflight_messages_set(100)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        try:
            for told in [client.publish("events/one", raw(message), qos=1) for message in messages]:
                told.wait_for_publish(60)
        finally:
            client.disconnect()
            client.loop_stop()

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"mqtt://127.0.0.1:{self.port}", "topics": ["events/#"], "client_id": "adaptd-test",
                "persistent": True, "wait_s": 0.2, **LOGIN}


class RabbitServer(Server):
    """rabbitmq-server, a node of its own."""

    kind, program = "rabbitmq", "rabbitmq-server"

    def arguments(self) -> Sequence[str]:
        """Return the words behind the program's name."""
        return []

    def environment(self) -> Mapping[str, str]:
        """Return what its process needs in the environment."""
        name = f"rabbit{self.port}@localhost"
        return {"RABBITMQ_NODENAME": name, "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_DIST_PORT": str(free_port()), "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(self.folder / "log"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "RABBITMQ_PID_FILE": str(self.folder / "pid"), "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
                "HOME": str(self.folder)}  # of Erlang's cookie

    def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do something with a channel that confirms what it is given."""

        async def session() -> Any:
            import aio_pika

            connection = await aio_pika.connect(port=self.port, host="127.0.0.1", timeout=10)
            try:
                return await work(await connection.channel(publisher_confirms=True))
            finally:
                await connection.close()

        return asyncio.run(session())

    def answers(self) -> bool:
        """Say whether it lets clients in."""
        from aio_pika.exceptions import AMQPError

        async def nothing(channel: Any) -> bool:
            return True

        try:
            return super().answers() and bool(self.run(nothing))
        except (AMQPError, OSError, TimeoutError):
            return False

    def prepare(self) -> None:
        """Make the queue."""
        self.run(lambda channel: channel.declare_queue("events", durable=True))

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Publish persistent messages, and wait for the confirms."""

        async def send(channel: Any) -> None:
            import aio_pika

            made = [aio_pika.Message(raw(message), delivery_mode=aio_pika.DeliveryMode.PERSISTENT) for message in messages]
            await asyncio.gather(*(channel.default_exchange.publish(message, "events") for message in made))

        self.run(send)

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"amqp://127.0.0.1:{self.port}", "queue": "events", "wait_s": 0.2}
