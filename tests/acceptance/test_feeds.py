"""One contract for every kind of feed, against its real broker: nothing lost, nothing twice, whatever is killed.

One daemon follows all kinds at once, so that what takes long (its start, a broker's) is done once for all.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, cast

import pytest

from adaptd.bench.brokers import NatsServer, RedisServer, Server
from adaptd.bench.feeds import events as count
from adaptd.bench.feeds import killed_while_it_reads, what_became
from adaptd.bench.tansu import Tansu
from adaptd.errors import BadConfig
from adaptd.feeds import kafka
from adaptd.feeds.kafka import Kafka
from adaptd.feeds.nats import JetStream
from adaptd.feeds.redis import RedisStream
from tests.acceptance.brokers import SERVERS
from tests.acceptance.conftest import CONFIG
from tests.acceptance.daemon import SUBJECTS, Daemon, Json, texts, until

pytestmark = [pytest.mark.acceptance, pytest.mark.service]
Make = Callable[..., Daemon]
LABELS = list(SUBJECTS)
# FEED_MESSAGES=20000 FEED_KILLS=10 FEED_RESTARTS=2 for longer, FEED_KINDS=redis for one alone; with labels: adaptd bench feeds
MESSAGES, KILLS, RESTARTS = (int(os.environ.get(f"FEED_{name}", given))
                             for name, given in (("MESSAGES", "2000"), ("KILLS", "3"), ("RESTARTS", "0")))
KINDS = os.environ.get("FEED_KINDS", ",".join(SERVERS)).split(",")
LIMIT_S = 120.0
BATCH, QUEUE = 20, 40
POISON: Sequence[bytes] = (b"not json", b'["text"]', b'{"id": "p3", "text": 5, "label": "card"}')


@pytest.fixture
def servers() -> Iterator[Mapping[str, Server]]:
    """Return a broker of each kind, not started."""
    with ExitStack() as stack:
        made = {kind: cls() for kind, cls in SERVERS.items()}
        for one in made.values():
            stack.callback(one.close)
        yield made


def configured(servers: Mapping[str, Server], limits: str = "") -> str:
    return CONFIG + limits + "".join(one.table(kind, batch=BATCH) for kind, one in servers.items())


def messages(first: int, count: int, *, labelled: bool = True) -> list[Json]:
    """Return messages with ids of their own."""
    found = []
    for number in range(first, first + count):
        label = LABELS[number % len(LABELS)]
        message = {"id": f"m{number}", "text": f"{texts(label)[number % 50]} {number}"}
        found.append({**message, "label": label} if labelled else message)
    return found


def states(daemon: Daemon) -> dict[str, str]:
    return {kind: one["state"] for kind, one in daemon.status()["feeds"].items()}


def all_are(daemon: Daemon, state: str) -> None:
    until(lambda: set(states(daemon).values()) == {state}, f"all are {state}: {states(daemon)}")


def failing(daemon: Daemon) -> int:
    return sum(problem["code"] == "feed_failed" for problem in daemon.status()["problems"])


class Sent:
    """What was given to each broker, and what must have become of it."""

    def __init__(self, daemon: Daemon, servers: Mapping[str, Server]) -> None:
        self._daemon = daemon
        self._servers = servers
        self.messages: list[Json] = []

    def send(self, number: int, before: Sequence[bytes] = ()) -> None:
        """Publish the same messages to each broker."""
        fresh = messages(len(self.messages), number)
        self.messages += fresh
        for server in self._servers.values():
            server.publish([*before, *fresh])

    def check(self) -> None:
        """Wait for the messages, and check that each is an event once, in the order sent, and each label learned once."""
        total = len(self.messages) * len(self._servers)
        until(lambda: count(self._daemon) >= total, f"{count(self._daemon)} of {total} events: {self._daemon.problems()}")
        wanted = [one["id"] for one in self.messages]
        for kind in self._servers:
            found = [key for (key,) in self._daemon.rows("SELECT key FROM event WHERE source = ? ORDER BY seq", kind)]
            assert found == wanted, f"{kind}: {len(found)} events, {len(set(found))} different, of {len(wanted)}"
        learned = self._daemon.rows("SELECT event, count(*) FROM learned GROUP BY event")
        assert len(learned) == total and {times for _, times in learned} == {1}


def test_the_contract(servers: Mapping[str, Server], make: Make) -> None:
    """Start without the brokers, resume, poison, back-pressure, brokers that go and come back."""
    daemon = make(configured(servers, f"[limits]\nqueue = {QUEUE}\n")).start()  # ready: no broker need be there
    all_are(daemon, "failing")
    assert failing(daemon) == len(servers)
    sent = Sent(daemon, servers)
    for server in servers.values():
        server.start()
    all_are(daemon, "running")
    assert failing(daemon) == 0
    sent.send(30)
    sent.check()
    assert "feed_may_lose" not in daemon.problems(), daemon.problems()
    assert daemon.stop() == 0
    sent.send(30)
    daemon.start()
    sent.check()  # resumed: nothing again, nothing left out
    sent.send(5, before=POISON)
    sent.check()
    for kind in servers:
        check_dead_letters(daemon, kind)
    check_back_pressure(daemon, sent, len(servers))
    for server in servers.values():
        server.stop()
    all_are(daemon, "failing")
    for server in servers.values():
        server.start()
    sent.send(30)
    sent.check()
    all_are(daemon, "running")
    until(lambda: {one["lag"] for one in daemon.status()["feeds"].values()} == {0}, f"no lag: {daemon.status()['feeds']}")
    assert "hunter2" not in daemon.said + json.dumps(daemon.status())


def check_dead_letters(daemon: Daemon, kind: str) -> None:
    """Check that the poison is kept, listed, tried again, dropped."""
    until(lambda: daemon.status()["feeds"][kind]["dead"] == len(POISON), f"{kind}: the poison is kept")
    _, listed = daemon.ask("GET", f"/v1/feeds/{kind}/dead")
    assert [one["raw"].strip().encode() for one in listed["dead"]] == [*POISON] and "feed_rejected" in daemon.problems()
    numbers = [one["id"] for one in listed["dead"]]
    assert daemon.ask("POST", f"/v1/feeds/{kind}/dead/retry", {"ids": numbers}) == (200, {"taken": 0, "left": numbers})
    assert daemon.ask("POST", f"/v1/feeds/{kind}/dead/drop", {"ids": numbers[:2]}) == (200, {"dropped": 2})
    assert daemon.status()["feeds"][kind]["dead"] == 1


def check_back_pressure(daemon: Daemon, sent: Sent, kinds: int) -> None:
    """Check that no more waits to be learned than may, when more comes at once."""
    sent.send(100)
    total, most = len(sent.messages) * kinds, 0

    def all_there() -> bool:
        nonlocal most
        most = max(most, daemon.domain()["learn_lag"])
        return count(daemon) >= total

    until(all_there, "all is journalled", every_s=0.01)
    assert most <= QUEUE + 2 * kinds * BATCH, f"{most} entries waited to be learned"
    sent.check()


@pytest.mark.slow
def test_kill_9_of_the_daemon_gives_each_message_once(servers: Mapping[str, Server], make: Make) -> None:
    cast(Tansu, servers["kafka"]).partitions = 3  # elsewhere one, in which everything stays in order
    servers = {kind: servers[kind] for kind in KINDS}
    for server in servers.values():
        server.start()
    daemon = make(configured(servers)).start()
    all_are(daemon, "running")
    sent = messages(0, MESSAGES, labelled=False)
    amid = killed_while_it_reads(daemon, [*servers.values()], sent, KILLS, RESTARTS, LIMIT_S)
    for kind in servers:
        assert what_became(daemon, kind, sent) == {"learned": 0, "lost": 0, "twice": 0}
    assert daemon.rows("SELECT count(*) FROM event") == [(MESSAGES * len(servers),)]
    assert daemon.rows("SELECT count(*) FROM dead") == [(0,)]
    assert amid == KILLS, "a kill came after everything had been read"
    assert daemon.cli("verify")


def test_a_source_that_loses_what_it_acknowledged_is_named(make: Make) -> None:
    """In `problems` and by the doctor; and a stream that was lost and begun again is read from its start."""
    server = RedisServer()
    try:
        server.start()
        daemon = make(configured({"redis": server})).start()
        sent = Sent(daemon, {"redis": server})
        sent.send(10)
        sent.check()
        assert "feed_may_lose" not in daemon.problems()
        with server.client() as client:
            client.config_set("appendfsync", "everysec")
        found = daemon.cli("doctor", expect=1)
        assert "appendfsync" in found and "feed_may_lose" in found
        with server.client() as client:
            client.delete("events")
            client.xadd("events", {"json": '{"id": "m0", "text": "another"}'}, id="1-1")
            client.xadd("events", {"json": '{"id": "new", "text": "fresh"}'}, id="1-2")
        server.stop()
        all_are(daemon, "failing")
        server.start()
        until(lambda: count(daemon) == 11, "what is new is taken")
        named = until(lambda: daemon.problems().get("feed_may_lose"), "it is named")
        assert "ends before the place that was read up to" in named
        assert daemon.status()["feeds"]["redis"]["dead"] == 1  # m0 came before with another text
    finally:
        server.close()
    assert daemon.stop() == 0
    found = daemon.cli("doctor", expect=1)
    assert "feed_unreachable" in found


def test_a_refused_element_is_taken_after_its_cause_is_mended(make: Make) -> None:
    config = CONFIG + '[feeds.f]\nkind = "jsonl"\ndomain = "text"\noptions = { path = "f.jsonl", poll_s = 0.05 }\n'
    daemon = make(config)
    lines = '{"said": {"it": "the rain"}, "label": "weather", "id": "a"}\n{"said": {}, "id": "b"}\n'
    (daemon.folder / "f.jsonl").write_text(lines)
    daemon.start()
    until(lambda: daemon.status()["feeds"]["f"]["dead"] == 2, "both are kept")
    assert daemon.stop() == 0
    paths = 'fields = { text = "said.it", id = "id", label = "label" }\n'
    daemon.configure(config + paths)
    daemon.start()
    assert "the rain" in daemon.cli("feeds", "dead", "list", "f", "--json")
    assert daemon.cli("feeds", "dead", "retry", "f", "--all", expect=1) == "f: 1 taken, 1 left\n"
    assert daemon.rows("SELECT key, payload FROM event") == [("a", '{"text":"the rain"}')]
    assert len(daemon.rows("SELECT event FROM learned")) == 1
    assert [row[0] for row in daemon.rows("SELECT raw FROM dead")] == [b'{"said": {}, "id": "b"}\n']
    assert daemon.cli("feeds", "dead", "drop", "f", "--all") == "f: 1 dropped\n"
    done = [row[0] for row in daemon.rows("SELECT what FROM action WHERE what LIKE 'feed-%' ORDER BY id")]
    assert done == ["feed-retry", "feed-drop"]


def first_batch(feed: Any, cursor: str | None) -> tuple[list[str], str | None]:
    """Return the ids of the first batch behind a cursor, and the cursor after it."""

    async def read() -> tuple[list[str], str | None]:
        async with aclosing(feed.read(cursor)) as batches:
            async for batch in batches:
                if batch:
                    return [item.value["id"] for item in batch], batch[-1].cursor
        return [], cursor

    return asyncio.run(asyncio.wait_for(read(), 20.0))


def test_a_jetstream_that_is_made_anew_is_read_from_its_start_and_named() -> None:
    server = NatsServer()
    try:
        server.start()
        feed: Any = JetStream(**server.options() | {"synced": False})
        server.publish(messages(0, 5))
        ids, cursor = first_batch(feed, None)
        assert ids == ["m0", "m1", "m2", "m3", "m4"]
        server.run(lambda stream: stream.delete_stream("events"))
        server.prepare()
        server.publish(messages(10, 9))  # the place we were at is there, with another message
        ids, cursor = first_batch(feed, cursor)
        assert ids[0] == "m10"
        server.publish(messages(20, 2))
        assert first_batch(feed, cursor)[0] == ["m20", "m21"]
        told = [risk.message for risk in asyncio.run(feed.risks())]
        assert any("not the one that was read" in one for one in told) and any("syncs every two minutes" in one for one in told)
        server.run(lambda stream: stream.delete_stream("events"))
        queue = {"name": "events", "subjects": ["events.>"], "retention": "workqueue", "storage": "memory"}
        server.run(lambda stream: stream.add_stream(**queue))
        assert any("is in memory" in risk.message for risk in asyncio.run(feed.risks()))
        with pytest.raises(BadConfig, match="workqueue") as refused:
            first_batch(feed, None)
        assert refused.value.hint
    finally:
        server.close()


def test_a_redis_stream_that_was_trimmed_past_our_place_says_how_much_was_lost() -> None:
    server = RedisServer()
    try:
        server.start()
        feed: Any = RedisStream(**server.options(), batch=5)
        server.publish(messages(0, 20))
        ids, cursor = first_batch(feed, None)
        assert ids == ["m0", "m1", "m2", "m3", "m4"] and feed.lag() == 15
        with server.client() as client:
            client.xtrim("events", maxlen=10, approximate=False)
        assert first_batch(feed, cursor)[0] == ["m10", "m11", "m12", "m13", "m14"] and feed.lag() == 5
        assert [risk.message for risk in asyncio.run(feed.risks())] == [
            "5 entries of stream 'events' were trimmed before they were read"]
    finally:
        server.close()


def test_a_topic_is_read_on_at_the_place_of_each_partition_and_one_made_anew_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "LOOK_S", 0.5)
    server = Tansu()
    server.partitions = 2
    try:
        server.start()
        feed: Any = Kafka(**server.options(), batch=7, group="shown")
        server.publish([*messages(0, 20), None, b"\xff"])
        found, cursor, keys = records(feed, None, 10, at_once=True)
        assert 10 <= len(found) < 22 and len({*keys}) == len(keys)
        rest, cursor, more = records(feed, cursor, 22 - len(found))
        assert sorted(found + rest) == sorted([*(f"m{number}" for number in range(20)), "a tombstone", "not JSON"])
        assert not {*keys} & {*more} and feed.lag() == 0
        assert server.shown("shown") == 22
        # made anew while it is read, with one more partition and more records than our places
        server.remove()
        server.partitions = 3
        server.prepare()
        server.publish(messages(100, 60))
        found, _, again = records(feed, cursor, 60)
        assert sorted(found) == sorted(f"m{number}" for number in range(100, 160)) and not {*again} & {*keys, *more}
        assert [risk.message for risk in asyncio.run(feed.risks())] == ["topic 'events' is not the one that was read"]
        feed.replicated = False
        assert "one copy" in asyncio.run(feed.risks())[0].message
        feed.topics = ["nothing"]
        with pytest.raises(LookupError, match="there is no topic 'nothing'"):
            records(feed, None, 1)
    finally:
        server.close()


def records(feed: Kafka, cursor: str | None, number: int, *, at_once: bool = False) -> tuple[list[str], str | None, list[Any]]:
    """Read so many records, and until nothing comes (`at_once`: no more); return their ids or what is wrong, the cursor, keys."""

    async def read() -> list[Any]:
        found: list[Any] = []
        async with aclosing(feed.read(cursor)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                assert len(batch) <= feed.batch
                found += batch
                if len(found) >= number and (at_once or not batch):
                    break
        return found

    found = asyncio.run(asyncio.wait_for(read(), 30.0))
    what = [one.value["id"] if one.value else one.error.removeprefix("the message is ").split(":")[0] for one in found]
    return what, found[-1].cursor, [one.key for one in found]


def test_records_that_went_before_they_were_read_are_counted_and_named() -> None:
    """With librdkafka's own mock of a cluster: Tansu neither lets records go nor says that an offset is not there."""
    from confluent_kafka import Producer

    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
    feed: Any = Kafka(url=f"kafka://{broker.host}:{broker.port}", topics=["events"], replicated=True, wait_s=0.2)

    def publish(first: int, count: int, padding: int = 0) -> None:
        for one in messages(first, count):
            cluster.produce("events", json.dumps({**one, "padding": "x" * padding}), partition=0)
        assert cluster.flush(30) == 0

    publish(0, 10)
    found, cursor, _ = records(feed, None, 10)
    assert found == [f"m{number}" for number in range(10)]
    publish(10, 100, padding=500_000)  # the mock keeps 5 MiB of a partition
    found, cursor, _ = records(feed, cursor, 1)
    assert 0 < len(found) < 100 and found[-1] == "m109"
    (told,) = [risk.message for risk in asyncio.run(feed.risks())]
    assert told == f"{100 - len(found)} messages of topic 'events', partition 0 went before they were read"
    beyond = json.dumps({"events": {"id": None, "next": {"0": 10_000}}})
    assert records(feed, beyond, 1)[0] == found
    assert "ends before the place that was read up to (10000)" in asyncio.run(feed.risks())[1].message
