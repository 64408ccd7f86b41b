"""The generic text-classification domain: always there, no plugin needed, labels learned as they appear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptd.errors import BadPayload
from adaptd.heads import of
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Domain
from adaptd.records import Example


class Text(Domain):
    """One label per text, or the heads that are configured; the payload's `text` is what is read."""

    name = "text"

    def __init__(self, heads: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        if heads:
            self.heads = {name: of(told) for name, told in heads.items()}

    def example(self, payload: Mapping[str, Any]) -> Example:
        """Read the text."""
        text = payload.get("text")
        if text is None:
            raise BadPayload("an event needs a text", field="text", hint='send {"text": "…"}')
        if not isinstance(text, str):
            raise BadPayload(f"text must be a string, not {type(text).__name__}", field="text", hint='send {"text": "…"}')
        if not text[:1].isalnum() and not any(character.isprintable() and not character.isspace() for character in text):
            raise BadPayload("the text is empty", field="text", hint="send at least one visible character")
        return Example(text=text)


@hookimpl
def register_domains() -> Iterable[type[Domain]]:
    """Offer the generic domain."""
    return [Text]
