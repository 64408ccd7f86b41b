"""The generic text-classification domain: always there, no plugin needed, labels learned as they appear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptd.errors import BadPayload
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Domain
from adaptd.records import Example


class Text(Domain):
    """One label per text; the payload's `text` is what is read."""

    name = "text"

    def example(self, payload: Mapping[str, Any]) -> Example:
        """Read the text."""
        text = payload.get("text")
        if text is None:
            raise BadPayload("an event needs a text", field="text", hint='send {"text": "…"}')
        if not isinstance(text, str):
            raise BadPayload(f"text must be a string, not {type(text).__name__}", field="text", hint='send {"text": "…"}')
        if not any(character.isprintable() and not character.isspace() for character in text):
            raise BadPayload("the text is empty", field="text", hint="send at least one visible character")
        return Example(text=text)


@hookimpl
def register_domains() -> Iterable[type[Domain]]:
    """Offer the generic domain."""
    return [Text]
