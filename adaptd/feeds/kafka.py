"""Follow Kafka topics. The offset of each partition is kept in our own transaction; the broker's group only shows it.

Every partition is assigned by us, at our own offsets, without a group's rebalancing: one daemon follows a store. A record is
known by topic, partition, offset and time, which are the same at every delivery, and others in a topic that was made anew.
The client library is librdkafka, whose calls block: they are made one after the other in a thread of the feed's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from adaptd.errors import BadConfig
from adaptd.feeds.broker import CONNECT_S, Broker, BrokerFeed
from adaptd.feeds.elements import element
from adaptd.interfaces import FeedItem, Risk

T = TypeVar("T")
log = logging.getLogger(__name__)
LOOK_S = 30.0  # between two looks for partitions that were added
ASK_S = 5.0  # in which the broker answers what it can be asked
NO_GROUP = "adaptd"  # the library wants a name; nothing is committed under it
BUFFER_KIB = 16 << 10  # that the library reads ahead, and one of the longest elements fits in
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LOST = "give the topic a retention that covers the longest pause; send again what is missing: what came is recognised"
COPIES = ("keep 3 copies, min.insync.replicas 2, producers with acks=all; or replicated = true in this feed's options, "
          "where the storage below the broker keeps the copies")
NO_ID = "A" * 22  # of a topic of an older broker
Place = tuple[str, int]  # a topic and a partition


@dataclass(kw_only=True)
class KafkaCluster(Broker):
    """Where Kafka's brokers are, and how they are connected to."""

    schemes = "kafka", "kafkas"
    port = 9092, 9093
    library = "confluent_kafka", "kafka"

    servers: list[str] = field(default_factory=list)  # more brokers to begin with, HOST or HOST:PORT
    mechanism: str = "PLAIN"  # of SASL, with username and password

    def __post_init__(self) -> None:
        """Refuse what cannot be connected to."""
        super().__post_init__()
        if self.mechanism not in MECHANISMS:
            raise BadConfig(f"mechanism: {self.mechanism!r} is not known", field="mechanism",
                            hint=f"one of {', '.join(MECHANISMS)}")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")

    def config(self) -> dict[str, Any]:
        """Return the client library's settings."""
        host, port = self.address
        more = [parts.netloc if parts.port else f"{parts.netloc}:{self.port[self.secure]}"
                for parts in (urlsplit(f"//{one}") for one in self.servers)]
        given = {
            "bootstrap.servers": ",".join([f"[{host}]:{port}" if ":" in host else f"{host}:{port}", *more]),
            "security.protocol": f"{'SASL_' if self.username is not None else ''}{'SSL' if self.secure else 'PLAINTEXT'}",
            "sasl.mechanism": self.mechanism if self.username is not None else None,
            "sasl.username": self.username, "sasl.password": self.password, "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.cert_file, "ssl.key.location": self.key_file,
            "client.id": "adaptd", "log_level": 2,  # what goes wrong comes as errors, too
            "reconnect.backoff.max.ms": 1000,
        }
        return {key: value for key, value in given.items() if value is not None}


@dataclass(kw_only=True)
class Kafka(BrokerFeed, KafkaCluster):
    """Each record's value a JSON object."""

    name: ClassVar[str] = "kafka"

    topics: list[str]
    group: str | None = None  # a consumer group whose place follows ours, for others to see
    replicated: bool = False  # the operator says that what lies below the broker keeps copies: it cannot be asked
    _lag: int | None = field(default=None, init=False, repr=False)
    _lost: dict[str, None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be connected to."""
        super().__post_init__()
        if not isinstance(self.topics, list) or not self.topics or any(one == "" or one.startswith("^") for one in self.topics):
            raise BadConfig("topics: names of topics, without patterns", field="topics", hint='topics = ["tickets"]')

    def lag(self) -> int | None:
        """Return the records that were not read yet, when last looked; None before that."""
        return self._lag

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield the records after the cursor; an empty batch means nothing new."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")
        session = _Session(self, cursor)
        try:
            await in_thread(thread, session.open)
            yield []
            while True:
                items = await in_thread(thread, session.next)
                self._lag = session.behind()
                yield items
                if items and self.group is not None:
                    await in_thread(thread, session.commit)
        finally:
            session.over = True
            await in_thread(thread, session.close)  # behind what still runs there
            thread.shutdown(wait=False)

    async def risks(self) -> Sequence[Risk]:
        """Say whether the topics' settings let go of what was acknowledged, as far as the broker tells."""
        return [*await asyncio.to_thread(self._settings), *(Risk(message=lost, hint=LOST) for lost in self._lost)]

    def note(self, loss: str) -> None:
        """Remember that records went before they were read."""
        self._lost[loss] = None

    def described(self, admin: Any) -> dict[str, Any]:
        """Return what the broker says of each topic (its id, its copies); nothing of those that it cannot be asked about."""
        from confluent_kafka import KafkaException, TopicCollection

        found = {}
        for topic, answer in admin.describe_topics(TopicCollection(self.topics), request_timeout=ASK_S).items():
            try:
                found[topic] = answer.result(2 * ASK_S)
            except (KafkaException, TimeoutError) as error:
                log.info("topic %r could not be described: %s", topic, error)
        return found

    def admin(self) -> Any:
        """Return what asks the broker; it must be held, since with it goes what it was asked."""
        from confluent_kafka.admin import AdminClient

        return AdminClient(self.config(), logger=log)

    def _settings(self) -> list[Risk]:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]  # it is, without saying so

        admin, found = self.admin(), []
        for topic in self.topics:
            try:
                about = admin.list_topics(topic, timeout=ASK_S).topics[topic]
            except KafkaException as error:
                raise ConnectionError(f"{self.address[0]} does not answer: {words(error)}") from None
            if about.error is not None:
                raise LookupError(f"there is no topic {topic!r}: {about.error.str()}")
        if self.replicated:
            return []
        described = self.described(admin)
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in self.topics]
        for resource, answer in admin.describe_configs(resources, request_timeout=ASK_S).items():
            topic = resource.name
            try:
                settings = {name: one.value for name, one in answer.result(2 * ASK_S).items()}
                copies = min((len(one.replicas) for one in described[topic].partitions), default=0)
            except (KafkaException, TimeoutError, KeyError) as error:
                hint = f"let the user DESCRIBE and DESCRIBE_CONFIGS the topic, or see to it yourself: {COPIES}"
                found.append(Risk(message=f"the durability of topic {topic!r} could not be checked: {words(error)}", hint=hint))
                continue
            found += [Risk(message=f"topic {topic!r}: {words}", hint=COPIES) for words in _weak(copies, settings)]
        return found


class _Session:
    """One connection: what is assigned, where it stands, and what is known of the topics. Used by one thread."""

    def __init__(self, feed: Kafka, cursor: str | None) -> None:
        self._feed = feed
        self._known: dict[str, Any] = json.loads(cursor) if cursor else {}
        self._next: dict[Place, int] = {(topic, int(partition)): number for topic, known in self._known.items()
                                        for partition, number in known["next"].items()}
        self._assigned: set[Place] = set()
        self._ends: dict[Place, int] = {}
        self._consumer: Any = None
        self._admin: Any = None  # while topics can be asked about
        self.over = False  # set from outside: what waits gives up
        self._look_at = 0.0
        self._down: str | None = None  # all brokers are away, or do not let us in
        self._why: str | None = None

    def open(self) -> None:
        """Connect and take every partition at its place."""
        from confluent_kafka import Consumer

        settings = {
            **self._feed.config(), "group.id": self._feed.group or NO_GROUP, "enable.auto.commit": False,
            "enable.auto.offset.store": False, "auto.offset.reset": "error", "enable.partition.eof": True,
            "allow.auto.create.topics": False, "max.poll.interval.ms": 86_400_000, "error_cb": self._met,
            "queued.min.messages": self._feed.batch, "queued.max.messages.kbytes": BUFFER_KIB,
            "on_commit": _committed,
        }
        self._consumer, self._admin = Consumer(settings, logger=log), self._feed.admin()
        self._look()

    def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            self._consumer.close()

    def next(self) -> list[FeedItem]:
        """Return what has come, at most a batch; wait for the first."""
        if self._down is not None or time.monotonic() > self._look_at:
            self._look()
        first = self._consumer.poll(self._feed.wait_s)
        if first is None:
            return []
        more = self._consumer.consume(self._feed.batch - 1, 0.0) if self._feed.batch > 1 else []
        found, reset = [], False
        for one in [first, *more]:
            if one.error() is None:
                found.append(self._item(one))
            else:
                reset = self._told(one) or reset
        if reset:
            self._assign()
        return found

    def behind(self) -> int:
        """Return how many records lie between our places and the topics' ends, as last heard."""
        from confluent_kafka import TopicPartition

        total = 0
        for topic, partition in self._assigned:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            at = max(self._next.get((topic, partition), low), self._ends.get((topic, partition), 0), low)
            total += max(0, high - at)
        return total

    def commit(self) -> None:
        """Show our place to the broker's tools. Nothing depends on it."""
        read = {place: number for place, number in self._next.items() if place in self._assigned}
        self._consumer.commit(offsets=self._offsets(read), asynchronous=True)

    def _look(self) -> None:
        """See which partitions there are, and whether the topics are those that were read; take what is new."""
        there = self._partitions()
        described = {} if self._admin is None else self._feed.described(self._admin)
        if not described:
            self._admin = None  # asking again and again would hold up the reading
        for topic, one in described.items():
            known, now = self._known.setdefault(topic, {}).get("id"), str(one.topic_id)
            if now == NO_ID:
                continue
            if known not in (None, now):
                self._feed.note(f"topic {topic!r} is not the one that was read")
                self._forget(topic)
            self._known[topic]["id"] = now
        self._look_at, self._down = time.monotonic() + LOOK_S, None
        if there != self._assigned:
            self._assigned = there
            self._assign()

    def _forget(self, topic: str) -> None:
        """Begin a topic anew."""
        self._next = {place: number for place, number in self._next.items() if place[0] != topic}
        self._ends, self._assigned = {}, set()

    def _partitions(self) -> set[Place]:
        """Ask which partitions there are; raise when nobody answers, or there is no such topic."""
        from confluent_kafka import KafkaException

        found: set[Place] = set()
        for topic in self._feed.topics:
            end, self._down = time.monotonic() + CONNECT_S, None
            while True:
                try:
                    about = self._consumer.list_topics(topic, timeout=1.0).topics[topic]
                    break
                except KafkaException as error:
                    self._consumer.poll(0)  # tells `_met` what went wrong
                    if self._down is not None or self.over or time.monotonic() > end:
                        raise ConnectionError(self._down or f"{self._feed.address[0]} does not answer: {words(error)}") from None
            if about.error is not None or not about.partitions:
                raise LookupError(f"there is no topic {topic!r}: {about.error.str() if about.error else 'no partitions'}")
            found |= {(topic, partition) for partition in about.partitions}
        return found

    def _assign(self) -> None:
        self._consumer.assign(self._offsets({place: self._next.get(place, FIRST) for place in self._assigned}))

    @staticmethod
    def _offsets(places: Mapping[Place, int]) -> list[Any]:
        from confluent_kafka import TopicPartition

        return [TopicPartition(topic, partition, number) for (topic, partition), number in places.items()]

    def _met(self, error: Any) -> None:
        """Hear from the library what is wrong; it tries again by itself."""
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = self._why or error.str()
        elif error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self._down = error.str()
        elif error.code() in (KafkaError._TRANSPORT, KafkaError._RESOLVE):
            self._why = error.str()

    def _told(self, one: Any) -> bool:
        """Take what came instead of a record; return whether partitions have to be assigned anew."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        error, place = one.error(), (one.topic(), one.partition())
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[place] = one.offset()
            return False
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and self._feed.group is None:
            return False  # of a name under which nothing is committed
        if error.code() != KafkaError._AUTO_OFFSET_RESET:
            raise KafkaException(error)
        low, _ = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=CONNECT_S)
        at, where = self._next.get(place, low), f"topic {place[0]!r}, partition {place[1]}"
        if at < low:
            self._feed.note(f"{low - at} messages of {where} went before they were read")
        elif at > low:
            self._feed.note(f"{where} ends before the place that was read up to ({at})")
        self._next[place] = low
        return True

    def _item(self, one: Any) -> FeedItem:
        topic, partition, offset = one.topic(), one.partition(), one.offset()
        self._next[topic, partition] = offset + 1
        key = one.key()
        about = {"topic": topic, "partition": partition, "offset": offset, "key": None if key is None else _text(key),
                 "headers": {name: _text(value) for name, value in one.headers() or []}}
        # a topic that was made anew, or lost its end, has other times at the same offsets
        item = element(one.value() or b"", self._cursor(), key=f"{topic}:{partition}:{offset}:{one.timestamp()[1]}", about=about)
        return item if one.value() is not None else replace(item, error="the message is a tombstone: it has no value")

    def _cursor(self) -> str:
        places: dict[str, dict[str, int]] = {}
        for (topic, partition), number in self._next.items():
            places.setdefault(topic, {})[str(partition)] = number
        return json.dumps({topic: {"id": self._known.get(topic, {}).get("id"), "next": found} for topic, found in places.items()})


FIRST = -2  # librdkafka's name for the first record there is


async def in_thread(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Let the feed's or output's own thread do something."""
    done: Future[T] = thread.submit(work)
    return await asyncio.wrap_future(done)


def _committed(error: Any, places: Any) -> None:
    if error is not None:
        log.info("the group's place could not be set: %s", error)


def words(error: Exception) -> str:
    """Return an error of the library without its codes."""
    return str(error.args[0].str()) if error.args and hasattr(error.args[0], "str") else str(error) or type(error).__name__


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _weak(copies: int, settings: Mapping[str, str]) -> list[str]:
    """Say what of a topic's settings loses acknowledged records."""
    found = []
    if copies == 1:
        found.append("one copy: its broker's disk loses what was acknowledged")
    elif settings.get("min.insync.replicas") == "1":
        found.append("min.insync.replicas is 1: a record is acknowledged when one broker has it")
    if settings.get("unclean.leader.election.enable") == "true":
        found.append("unclean.leader.election.enable: a broker that lacks acknowledged records may take over")
    return found
