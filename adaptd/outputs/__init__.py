"""Outputs: where predictions, verdicts, alerts and review's questions are sent, at least once.

Built-in and by the plugins' door; what a kind needs is imported when it connects (`docs/outputs.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from adaptd import plugins
from adaptd.config import OutputSettings
from adaptd.errors import BadConfig
from adaptd.feeds import FILES
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Output
from adaptd.outputs.argilla import Argilla
from adaptd.outputs.jsonl import JsonlFile
from adaptd.outputs.kafka import KafkaTopic
from adaptd.outputs.labelstudio import LabelStudio
from adaptd.outputs.mqtt import MqttTopic
from adaptd.outputs.nats import JetStreamSubject
from adaptd.outputs.rabbitmq import RabbitExchange
from adaptd.outputs.redis import RedisEntries
from adaptd.outputs.webhook import WebhookUrl


@hookimpl
def register_outputs() -> Iterable[type[Output]]:
    """Offer the built-in outputs."""
    return [JsonlFile, RedisEntries, JetStreamSubject, MqttTopic, RabbitExchange, KafkaTopic, WebhookUrl, LabelStudio, Argilla]


def build(kinds: Mapping[str, type], name: str, settings: OutputSettings, folder: Path) -> Output:
    """Make a configured output.

    Raises
    ------
    BadConfig
        Its kind or its options are wrong, or its kind does not take what it is to be sent.
    MissingExtra
        The library of its kind is not installed.
    """
    kind: type[Output] = plugins.pick(kinds, settings.kind, f"outputs.{name}.kind")
    takes = getattr(kind, "takes", None)
    if takes is not None and (refused := sorted(set(settings.what) - set(takes))):
        raise BadConfig(f"outputs.{name}.what: {settings.kind} takes no {refused[0]}", field=f"outputs.{name}.what",
                        hint=f"what = {list(takes)}")
    options = {key: str(folder / value) if key in FILES and isinstance(value, str) else value
               for key, value in settings.options.items()}
    return plugins.build(kind, options, f"outputs.{name}.options")
