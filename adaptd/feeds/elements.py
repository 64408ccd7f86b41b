"""From the bytes of an element to an event: parsed, and its fields taken from where the configuration says they stand.

Where: between a feed and the domain's door. The same for every kind, and for a dead letter that is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptd.errors import BadPayload
from adaptd.interfaces import FeedItem

LONGEST = 8 << 20  # bytes an element may have, as a request over HTTP
KEPT = 64 << 10  # bytes of an unreadable element that are kept
BESIDE = "@"  # "@topic" is what came beside the element; "topic" is in it


def read_object(raw: bytes, encoding: str = "utf-8") -> dict[str, Any]:
    """Return the JSON object in these bytes.

    Raises
    ------
    ValueError
        They hold none; the message says what they hold.
    """
    try:
        value = json.loads(raw.decode(encoding), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("not JSON: nested too deep") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("JSON, but not an object")
    return value


def element(raw: bytes, cursor: str, *, key: str | None = None, about: Mapping[str, Any] | None = None) -> FeedItem:
    """Return a message as an item; one that cannot be read says why."""
    if len(raw) > LONGEST:
        return FeedItem(value=None, cursor=cursor, raw=raw[:KEPT], key=key, about=about or {},
                        error=f"the message is longer than {LONGEST} bytes")
    try:
        value = read_object(raw, "utf-8-sig")  # as the first line of a file may begin
    except ValueError as error:
        return FeedItem(value=None, cursor=cursor, raw=raw[:KEPT], key=key, about=about or {}, error=f"the message is {error}")
    return FeedItem(value=value, cursor=cursor, raw=raw, key=key, about=about or {})


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Where an event's fields stand in an element. No paths: an element is an event as it is."""

    paths: Mapping[str, str]
    needs_id: bool = False  # the source gives the same element again and no place by which it is known
    needs_key: bool = False  # … or a place for some elements only

    @property
    def labels(self) -> bool:
        """Whether an element is a label for an event that is there: `fields` say where it names that."""
        return "event" in self.paths

    def event(self, item: FeedItem) -> Any:
        """Return the event, or the label; raise BadPayload where a readable element cannot be one."""
        if item.error is not None:
            raise BadPayload(item.error, hint="mend what sends it, then drop this one: adaptd feeds dead drop")
        if not isinstance(item.value, dict):
            return item.value  # the door says what is wrong
        event = dict(item.value) if not self.paths else self._taken(item)
        if self.labels:
            return event
        if event.get("id") is None:
            if self.needs_id or (self.needs_key and item.key is None):
                where = f"at {self.paths['id']!r}" if "id" in self.paths else "with the message, and fields.id names no other"
                raise BadPayload(f"there is no id {where}", field="id",
                                 hint="every message needs its own id, or a second delivery would count twice")
            if item.key is not None:
                event["id"] = item.key
        return event

    def _taken(self, item: FeedItem) -> dict[str, Any]:
        found = {name: at(item.about if path.startswith(BESIDE) else item.value, path.removeprefix(BESIDE))
                 for name, path in self.paths.items()}
        return {name: value for name, value in found.items() if value is not None}


def at(value: Any, path: str) -> Any:
    """Return what stands at a dotted path, else None. A key with dots in it is found by its whole name, a list's by its place.

    >>> at({"result": [{"choices": ["card"]}], "a.b": 1}, "result.0.choices.0")
    'card'
    """
    first, _, rest = path.partition(".")
    if isinstance(value, list):
        value = dict(enumerate(value)).get(int(first)) if first.isdecimal() and len(first) < 5 else None
        return at(value, rest) if rest else value
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    return at(value.get(first), rest) if rest else None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
