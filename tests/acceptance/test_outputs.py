"""One contract for every kind of output, against its real broker: nothing that was recorded is left out, whatever is killed.

One daemon sends to all kinds at once, so that what takes long (its start, a broker's) is done once for all.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from adaptd import signing
from adaptd.bench.brokers import Mosquitto, NatsServer, RabbitServer, RedisServer, Server
from adaptd.bench.tansu import Tansu
from adaptd.feeds.webhook import Webhook
from tests.acceptance.brokers import SERVERS
from tests.acceptance.conftest import CONFIG
from tests.acceptance.daemon import Daemon, Json, lesson, texts, until
from tests.acceptance.receivers import Receiver

pytestmark = [pytest.mark.acceptance, pytest.mark.service]
Make = Callable[..., Daemon]
Taken = list[tuple[str, Json]]  # the id beside the message, and the message
BROKERS = ("redis", "nats", "mqtt", "rabbitmq", "kafka")
SECRET = "whsec_" + base64.b64encode(b"a secret that both sides know").decode()
OPTIONS: Mapping[str, Json] = {
    "redis": {"stream": "out"}, "nats": {"subject": "events.out"}, "mqtt": {"topic": "out", "client_id": "adaptd-out"},
    "rabbitmq": {"routing_key": "events"}, "kafka": {"topic": "events"}}


def table(name: str, kind: str, what: list[str], **options: Any) -> str:
    given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    return f'[outputs.{name}]\nkind = "{kind}"\nwhat = {json.dumps(what)}\ndomain = "text"\noptions = {{ {given} }}\n'


class Subscriber:
    """An MQTT reader with a session that the broker keeps."""

    def __init__(self, port: int) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.taken: Taken = []
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="reader", protocol=5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = lambda _, __, message: self.taken.append(
            (dict(message.properties.UserProperty)["id"], json.loads(message.payload)))
        self._client.on_connect = lambda client, *_: client.subscribe("out", 1)
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        kept: Any = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=kept)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def of_redis(server: RedisServer) -> Taken:
    with server.client() as client:
        return [(entry[b"id"].decode(), json.loads(entry[b"json"])) for _, entry in client.xrange("out")]


def of_nats(server: NatsServer) -> Taken:
    async def read(stream: Any) -> Taken:
        last = (await stream.stream_info("events")).state.last_seq
        found = [await stream.get_msg("events", number) for number in range(1, last + 1)]
        return [(one.headers["Nats-Msg-Id"], json.loads(one.data)) for one in found]

    taken: Taken = server.run(read)
    return taken


def of_rabbitmq(server: RabbitServer) -> Taken:
    async def read(channel: Any) -> Taken:
        queue, found = await channel.get_queue("events"), []
        while (one := await queue.get(fail=False, no_ack=True)) is not None:
            found.append((one.message_id, json.loads(one.body)))
        return found

    taken: Taken = server.run(read)
    return taken


def of_kafka(server: Tansu) -> Taken:
    from confluent_kafka import Consumer, TopicPartition

    consumer, found, ended = Consumer({**server.client, "group.id": "reader", "enable.partition.eof": True}), [], False
    consumer.assign([TopicPartition("events", 0, 0)])
    while not ended:
        one = consumer.poll(20.0)
        assert one is not None
        if one.error() is not None:
            ended = True
        else:
            found.append((dict(one.headers())["id"].decode(), json.loads(one.value())))
            assert one.key().decode() == found[-1][1]["event"]
    consumer.close()
    return found


def of_webhook(receiver: Receiver) -> Taken:
    feed = Webhook(secret=SECRET, signature="standard")
    for _, headers, body in receiver.taken[-5:]:
        feed.signed(headers, body)
    return [(headers["webhook-id"], json.loads(body)) for _, headers, body in receiver.taken]


class World:
    """The brokers, the receiver, the daemon that sends to them."""

    def __init__(self, make: Make, stack: ExitStack) -> None:
        self.servers: dict[str, Server] = {kind: SERVERS[kind]() for kind in BROKERS}
        for one in self.servers.values():
            stack.callback(one.close)
        self.receiver = stack.enter_context(Receiver(status=503))
        tables = [table(kind, kind, ["predictions"], url=server.options()["url"], **OPTIONS[kind])
                  for kind, server in self.servers.items()]
        tables.append(table("webhook", "webhook", ["predictions"], url=f"{self.receiver.url}/in", secret=SECRET))
        tables.append(table("file", "jsonl", ["predictions", "verdicts", "alerts"], path="out.jsonl"))
        self.daemon = make(CONFIG + "".join(tables))
        self._stack = stack
        self.subscriber: Subscriber | None = None

    def each(self, work: Callable[[Server], None]) -> None:
        """Do something with every broker at once."""
        threads = [threading.Thread(target=work, args=(one,)) for one in self.servers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    def begin(self) -> None:
        """Start the brokers, and who has to listen from the beginning."""
        self.each(lambda server: server.start())
        self.receiver.status = 200
        self.subscriber = Subscriber(self.servers["mqtt"].port)
        self._stack.callback(self.subscriber.close)

    def outputs(self) -> dict[str, Json]:
        found: dict[str, Json] = self.daemon.status()["outputs"]
        return found

    def failing(self) -> set[str]:
        return {name for name, one in self.outputs().items() if one["state"] == "failing"}

    def all_sent(self) -> None:
        for name in self.outputs():  # rather than wait until they are tried again by themselves
            assert self.daemon.ask("POST", f"/v1/outputs/{name}/resume")[0] == 200
        until(lambda: {(one["state"], one["lag"]) for one in self.outputs().values()} == {("running", 0)},
              f"all is sent: {self.outputs()} {self.daemon.problems()}")

    def file(self) -> list[Json]:
        return [json.loads(line) for line in (self.daemon.folder / "out.jsonl").read_text().splitlines()]

    def taken(self) -> dict[str, Taken]:
        assert self.subscriber is not None
        servers: Any = self.servers
        assert isinstance(servers["mqtt"], Mosquitto)
        return {"redis": of_redis(servers["redis"]), "nats": of_nats(servers["nats"]), "mqtt": self.subscriber.taken,
                "rabbitmq": of_rabbitmq(servers["rabbitmq"]), "kafka": of_kafka(servers["kafka"]),
                "webhook": of_webhook(self.receiver),
                "file": [(one["id"], one) for one in self.file() if one["kind"] == "prediction"]}


@pytest.fixture
def world(make: Make) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(make, stack)


def recorded(daemon: Daemon) -> set[str]:
    query = "SELECT e.id || '.' || p.id FROM prediction p JOIN event e ON e.seq = p.event"
    return {one for (one,) in daemon.rows(query)}


def ask(daemon: Daemon, rounds: int, first: int = 0) -> None:
    """Ask for answers, 20 at a time, until the daemon is gone."""
    for number in range(first, first + rounds):
        try:
            daemon.predict(*(f"{text} {number}" for text in texts("card", 20)))
        except Exception:  # it was killed
            return


@pytest.mark.slow
def test_every_recorded_prediction_is_sent_to_every_kind(world: World) -> None:
    """Start without the brokers, kill -9 amid the sending, brokers that go and come back, a pause, a forget."""
    daemon = world.daemon.start()  # ready: no broker need be there
    away = {*BROKERS, "webhook"}
    ask(daemon, 2)
    until(lambda: world.failing() == away, f"those that are away are named: {world.outputs()}")
    named = [one["message"] for one in daemon.status()["problems"] if one["code"] == "output_failed"]
    assert len(named) == len(away) and all(any(f"output {kind}: " in one for one in named) for kind in away)
    assert world.outputs()["redis"]["lag"] == 40 and world.outputs()["file"]["lag"] == 0
    until(lambda: {one["code"] for one in world.file() if one["kind"] == "alert"} == {"output_failed"}, "and told as alerts")
    world.begin()
    world.all_sent()
    asking = threading.Thread(target=ask, args=(daemon, 30, 10))
    asking.start()
    until(lambda: len(recorded(daemon)) > 200 and world.file(), "amid the sending", every_s=0.01)
    daemon.crash()
    asking.join(60)
    daemon.start()
    asking = threading.Thread(target=ask, args=(daemon, 15, 50))
    asking.start()
    world.each(lambda server: server.stop())
    until(lambda: world.failing() >= {*BROKERS}, f"they are away: {world.outputs()}")
    world.each(lambda server: server.start())
    asking.join(60)
    world.all_sent()
    assert daemon.cli("outputs", "pause", "file") == "file: paused\n"
    ask(daemon, 1, 90)
    until(lambda: world.outputs()["file"]["lag"] >= 20, "what is paused waits")
    assert daemon.cli("outputs", "resume", "file") == "file: running\n"
    world.all_sent()
    wanted = recorded(daemon)
    assert len(wanted) > 500
    until(lambda: len({one for one, _ in world.subscriber.taken}) >= len(wanted), "the reader has them")  # type: ignore[union-attr]
    for kind, taken in world.taken().items():
        assert {one for one, _ in taken} == wanted, f"{kind}: {len(taken)} messages of {len(wanted)}"
        assert all(one == message["id"] and one.startswith(message["event"] + ".") for one, message in taken)
    check_forgotten(daemon, world)


def check_forgotten(daemon: Daemon, world: World) -> None:
    """The newest is forgotten: the certificate names who may hold it, and what comes then is sent under an id of its own."""
    newest = daemon.rows("SELECT e.id, p.id FROM prediction p JOIN event e ON e.seq = p.event ORDER BY p.id DESC LIMIT 1")[0]
    gone = daemon.post("text/forget", {"event": newest[0], "reason": "asked for"})
    assert gone["outputs"] == sorted(world.outputs())
    event = daemon.predict("one more")["predictions"][0]["event"]
    until(lambda: any(one.get("event") == event for one in world.file()), "what comes then is sent")
    assert daemon.rows("SELECT max(id) FROM prediction")[0][0] > newest[1]


def test_questions_go_to_people_and_their_labels_come_back(make: Make) -> None:
    """Doubles with the shapes of Label Studio's and Argilla's interfaces; the page says what was tried against the real ones."""
    questions = {"items": [{"id": "q1", "name": "label", "settings": {"type": "label_selection", "options": [
        {"value": "card", "text": "card"}, {"value": "weather", "text": "weather"}]}}]}
    with Receiver(status=500) as studio, Receiver(documents={"/api/v1/datasets/d1/questions": questions}) as argilla:
        config = CONFIG + table("studio", "labelstudio", ["review"], url=studio.url, project=7, token="t0") + table(
            "argilla", "argilla", ["review"], url=argilla.url, dataset="d1", api_key="k0") + f'''
[feeds.studio]
kind = "webhook"
domain = "text"
source = "review:studio"
options = {{ signature = "secret", secret = "{SECRET}", wait_s = 0.2 }}
fields = {{ event = "task.data.adaptd_event", label = "annotation.result.0.value.choices.0" }}
[feeds.argilla]
kind = "webhook"
domain = "text"
source = "review:argilla"
options = {{ signature = "standard", secret = "{SECRET}", wait_s = 0.2, only = {{ "data.status" = "submitted" }} }}
fields = {{ event = "data.record.external_id", label = "data.values.label.value" }}
'''
        daemon = make(config).start()
        daemon.teach(lesson(["card", "weather"], 5))
        events = [one["event"] for one in daemon.predict("snow on the road", "my card is gone")["predictions"]]
        until(lambda: studio.taken, "a first try, which fails")
        studio.status = 200
        studio.taken.clear()
        tasks = until(lambda: [one for path, _, body in studio.taken if path == "/api/projects/7/import"
                               for one in json.loads(body)], "tasks", 60.0)
        assert {one["data"]["adaptd_event"] for one in tasks} == {*events}
        guess = tasks[0]["predictions"][0]
        assert guess["result"][0]["value"]["choices"][0] in ("card", "weather") and 0 <= guess["score"] <= 1
        assert studio.taken[0][1]["authorization"] == "Token t0"
        records = until(lambda: [one for path, _, body in argilla.taken if path == "/api/v1/datasets/d1/records/bulk"
                                 for one in json.loads(body)["items"]], "records", 60.0)
        assert {one["external_id"] for one in records} == {*events} and records[0]["suggestions"][0]["question_id"] == "q1"
        assert argilla.taken[0][1]["x-argilla-api-key"] == "k0"
        done = {"action": "ANNOTATION_CREATED", "task": tasks[0], "annotation": {"id": 1, "result": guess["result"]}}
        body = json.dumps(done).encode()
        where = "/v1/feeds/studio/hook"
        assert deliver(daemon, where, body, {"X-Adaptd-Secret": "guessed"}) == 401
        assert deliver(daemon, where, body, {"X-Adaptd-Secret": SECRET}) == 202
        for number, status in enumerate(("draft", "submitted")):
            answer = json.dumps({"type": "response.created", "version": 1, "data": {
                "status": status, "values": {"label": {"value": "card"}}, "record": records[1]}}).encode()
            assert deliver(daemon, "/v1/feeds/argilla/hook", answer, signed(answer, f"msg_{number}")) == 202
        query = "SELECT l.source, e.id FROM label l JOIN event e ON e.seq = l.event WHERE l.source LIKE 'review:%'"
        assert {*daemon.rows(query)} == {("review:studio", tasks[0]["data"]["adaptd_event"]),
                                         ("review:argilla", records[1]["external_id"])}
        assert deliver(daemon, where, body.replace(events[0].encode(), b"9-none").replace(events[1].encode(), b"9-none"),
                       {"X-Adaptd-Secret": SECRET}) == 202
        until(lambda: daemon.status()["feeds"]["studio"]["dead"] == 1, "a label of nothing is kept")


def deliver(daemon: Daemon, path: str, body: bytes, headers: Mapping[str, str]) -> int:
    import http.client

    where = next(one for one in daemon.status()["listening"] if one.startswith("http://")).removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    status = connection.getresponse().status
    connection.close()
    return status


def signed(body: bytes, number: str) -> Mapping[str, str]:
    moment = str(int(time.time()))
    return {"webhook-id": number, "webhook-timestamp": moment,
            "webhook-signature": signing.signature(signing.key(SECRET), number, moment, body)}
