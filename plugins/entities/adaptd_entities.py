"""Entities: which spans of a text name something, and what kind of thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import adaptd


class Entities(adaptd.Domain):
    """The entities of a text: `{"text": …}`; a label is the list of its spans, empty where it has none."""

    name = "entities"
    heads = {"entities": adaptd.Spans()}
    samples = (
        {"text": "Ada Chang moved to Wellington.", "label": [{"start": 0, "end": 9, "type": "person"},
                                                             {"start": 19, "end": 29, "type": "city"}]},
        {"text": "It rained all day.", "label": []},
    )

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the text as it stands: spans point into it."""
        text = payload.get("text")
        if not isinstance(text, str):
            raise adaptd.BadPayload("an event needs a text", field="text", hint='send {"text": "…"}')
        if not text.strip():
            raise adaptd.BadPayload("the text is empty", field="text", hint="leave out events that have none")
        return adaptd.Example(text=text)


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Entities]
