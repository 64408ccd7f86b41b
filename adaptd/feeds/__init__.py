"""Feeds: streams that are followed. Each gives batches with the cursor after every element, at least once.

Built-in and by the plugins' door; what a broker's feed needs is imported when it is read (`docs/feeds.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from adaptd import plugins
from adaptd.config import FeedSettings
from adaptd.errors import BadConfig
from adaptd.feeds.elements import Fields
from adaptd.feeds.folder import Folder
from adaptd.feeds.jsonl import Jsonl
from adaptd.feeds.kafka import Kafka
from adaptd.feeds.mqtt import Mqtt
from adaptd.feeds.nats import JetStream
from adaptd.feeds.rabbitmq import RabbitMq
from adaptd.feeds.redis import RedisStream
from adaptd.feeds.sse import ServerSentEvents
from adaptd.feeds.webhook import Webhook
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Feed

FILES = ("path", "ca_file", "cert_file", "key_file", "credentials_file")  # options seen from the configuration's folder


@hookimpl
def register_feeds() -> Iterable[type[Feed]]:
    """Offer the built-in feeds."""
    return [Jsonl, Folder, RedisStream, JetStream, Mqtt, RabbitMq, Kafka, ServerSentEvents, Webhook]


def build(kinds: Mapping[str, type], name: str, settings: FeedSettings, folder: Path) -> tuple[Feed, Fields]:
    """Make a configured feed, and what takes its events' fields.

    Raises
    ------
    BadConfig
        Its kind, its options or its fields are wrong.
    MissingExtra
        The library of its kind is not installed.
    """
    kind: type[Feed] = plugins.pick(kinds, settings.kind, f"feeds.{name}.kind")
    needs_id = bool(getattr(kind, "needs_id", False))
    if needs_id and "id" not in settings.fields:
        raise BadConfig(f"feeds.{name}.fields.id is missing: {settings.kind} delivers again, with no offset to know it by",
                        field=f"feeds.{name}.fields.id",
                        hint='say where a message has its id: fields = { id = "id", text = "text", label = "label" }')
    options = {key: str(folder / value) if key in FILES and isinstance(value, str) else value
               for key, value in settings.options.items()}
    taken = Fields(paths=settings.fields, needs_id=needs_id, needs_key=bool(getattr(kind, "needs_key", False)))
    return plugins.build(kind, options, f"feeds.{name}.options"), taken
