"""The door: raw JSON objects become `Item` and `Feedback`, or are rejected one by one, with field and cure.

Where: between whatever delivers (HTTP, feeds, the command line) and the journal. Pure: no database, no model, the
clock is given. Invariant: what passes can be stored and encoded. Its strings are UTF-8 and bounded, its numbers
finite and at most 64 bits, its nesting bounded, its targets checked by the domain's heads; what the domain has redacted is
not in it.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from adaptd.clock import CURE, moment
from adaptd.config import Blobs, DomainSettings, Limits
from adaptd.errors import AdaptdError, BadPayload, PluginError
from adaptd.interfaces import Domain, recognised
from adaptd.records import MISSING, Blob, Example, Feedback, Item
from adaptd.redact import Redactor, redactor
from adaptd.tagging import Tagging
from adaptd.uploads import Uploads
from adaptd.vocabulary import Vocabulary

log = logging.getLogger(__name__)
T = TypeVar("T")
Rejected = dict[str, Any]  # {"index": i, "error": {…}}

ENVELOPE = frozenset(("id", "label", "answer", "time", "source", "subject"))  # every other field is the payload
FEEDBACK = ("event", "source", "id", "label", "teacher")
DEPTH = 32
BLOCK = 64  # of SHA-256
INT64 = range(-(1 << 63), 1 << 63)
KEY_CHARACTERS, SOURCE_CHARACTERS = 256, 128
YEAR_1 = -62_135_596_800.0  # 0001-01-01, the earliest moment a datetime can show
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Door:
    """Validates what comes in for one domain; `key` is the store's HMAC key."""

    domain: Domain
    limits: Limits
    key: bytes
    clock: Callable[[], float]
    redactor: Redactor | None = None
    vocabulary: Vocabulary | None = None
    uploads: Uploads = field(default_factory=lambda: Uploads(Blobs().bytes))
    tagging: Tagging | None = None

    @classmethod
    def of(cls, domain: Domain, name: str, settings: DomainSettings, limits: Limits, blobs: Blobs, key: bytes, folder: Path,
           tagging: Tagging | None = None) -> Door:
        """Return the door of a domain as it is configured; `folder` has the configuration."""
        return cls(domain, limits, key, time.time, redactor(settings.redact, key, f"domains.{name}.redact"),
                   Vocabulary.of(domain, name, settings.vocabulary, folder),
                   Uploads(blobs.bytes, tuple(folder / one for one in blobs.folders)), tagging)

    def items(self, raw: Sequence[Any], *, source: str) -> tuple[list[tuple[int, Item]], list[Rejected]]:
        """Return the good events with their index, and the rejected ones; `source` is who sends them."""
        brought = 0  # bytes of images and sounds: files that are only named make a small request

        def item(element: Any) -> Item:
            nonlocal brought
            if brought > self.limits.bytes and self.uploads.are_in(element):
                raise BadPayload(f"the request brings more than {self.limits.bytes} bytes",
                                 hint="send the rest by itself, or raise limits.bytes")
            made = self._item(element, source)
            if made.blobs:
                brought += sum(len(blob.data) for blob in made.blobs)
            return made

        return _each(raw, item)

    def feedback(self, raw: Sequence[Any], *, source: str) -> tuple[list[tuple[int, Feedback]], list[Rejected]]:
        """Return the good late labels with their index, and the rejected ones; `source` is who teaches."""
        return _each(raw, lambda element: self._feedback(element, source))

    def targets(self, label: Any) -> dict[str, str]:
        """Return a label's targets, one per head, each checked by its head.

        Raises
        ------
        BadPayload
            The label is not one of this domain.
        """
        given = self._ask("targets", lambda: dict(self.domain.targets(label)))
        if not given:
            raise BadPayload("the label names no head", field="label", hint=f"give one or more of {self._heads()}")
        return {name: self._target(name, target, "label" if len(self.domain.heads) == 1 else f"label.{name}")
                for name, target in given.items()}

    def _targets_of(self, label: Any, example: Example) -> dict[str, str]:
        """Return the targets of a label that comes with its event: spans are held against the text."""
        targets = self.targets(label)
        if self.tagging is not None:
            self.tagging.check(targets, example.text or "")
        return targets

    def named(self, name: str) -> str:
        """Return a source's or a subject's name as the journal has it."""
        return name if self.redactor is None else self.redactor.named(name)

    def read(self, text: str) -> str:
        """Return a text that is asked about, as the remembered ones were read."""
        return text if self.redactor is None else self.redactor.text(text)

    def _redacted(self, element: Any, *, plain: bool) -> Mapping[str, Any]:
        fields = element if plain else _object(element, self.limits.characters, self.uploads)
        return fields if self.redactor is None else self.redactor.element(fields)

    def _item(self, element: Any, source: str) -> Item:
        plain = _is_plain(element, self.limits.characters)
        fields = self._redacted(element, plain=plain)
        payload = {name: value for name, value in fields.items() if name not in ENVELOPE}
        example = self._ask("example", self.domain.example, payload)
        key, content = _key(fields), self._hashed(self._content(payload, example))[:16]
        blobs = () if plain else [value for value in payload.values() if isinstance(value, Blob)]
        if len(fields) - len(payload) == (key is not None):  # most have nothing else
            return Item(payload=payload, source=source, key=key, content=content, example=example, blobs=blobs)
        label, at = _given(fields, "label"), fields.get("time")
        return Item(
            payload=payload,
            source=_name(fields, "source", SOURCE_CHARACTERS) or source,
            key=key,
            label=label,
            targets={} if label is MISSING else self._targets_of(label, example),
            content=content,
            answer=_given(fields, "answer"),
            time=None if at is None else self._time(at),
            subject=_name(fields, "subject", KEY_CHARACTERS),
            example=example,
            blobs=blobs,
        )

    def _content(self, payload: Mapping[str, Any], example: Example) -> bytes:
        """Return what an event's content is recognised by."""
        if self._content_is_example:
            return recognised(example, self.domain.reads).encode()
        return self._ask("content", lambda: self.domain.content(payload).encode())

    @cached_property
    def _content_is_example(self) -> bool:
        """Whether the domain has no `content` of its own, which would ask for the example again."""
        return getattr(self.domain.content, "__func__", None) is Domain.content

    def _hashed(self, text: bytes) -> bytes:
        """Return a content's HMAC (RFC 2104): `hmac.digest` lets go of Python's lock each time, and waits to get it again."""
        keyed = self._keyed
        inner, outer = keyed[0].copy(), keyed[1].copy()
        inner.update(text)
        outer.update(inner.digest())
        return bytes(outer.digest())

    @cached_property
    def _keyed(self) -> tuple[Any, Any]:
        """The hashes of RFC 2104, which have taken in the key."""
        key = self.key if len(self.key) <= BLOCK else hashlib.sha256(self.key).digest()
        inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in key.ljust(BLOCK, b"\0"))) for pad in (0x36, 0x5C))
        return inner, outer

    def _feedback(self, element: Any, source: str) -> Feedback:
        fields = self._redacted(element, plain=_is_plain(element, self.limits.characters))
        _refuse_unknown(fields)
        event, key, label = _name(fields, "event", KEY_CHARACTERS), _key(fields), _given(fields, "label")
        shape = 'send {"event": id, "label": …} or {"source": …, "id": …, "label": …}'
        if (event is None) == (key is None):
            wrong = "a label needs its event" if event is None else "event and id both given"
            raise BadPayload(wrong, field="event", hint=shape)
        if label is MISSING:
            raise BadPayload("feedback needs a label", field="label", hint=shape)
        targets, teacher = self.targets(label), _name(fields, "teacher", SOURCE_CHARACTERS) or source
        if event is not None:
            return Feedback(event=event, label=label, targets=targets, teacher=teacher)
        of = _name(fields, "source", SOURCE_CHARACTERS) or source
        return Feedback(source=of, key=key, label=label, targets=targets, teacher=teacher)

    def _target(self, name: Any, target: Any, field: str) -> str:
        head = self.domain.heads.get(name)
        if head is None:
            raise BadPayload(f"no head {name!a} in this domain", field="label", hint=f"known: {self._heads()}")
        checked = self._ask(f"heads[{name!r}].check", lambda: head.check(target, field))
        if "\0" in checked:
            raise BadPayload("a label must not contain NUL", field=field, hint="take the character out")
        vocabulary = self.vocabulary if self.vocabulary is not None and self.vocabulary.head == name else None
        return checked if vocabulary is None else vocabulary.named(checked, field)

    def _heads(self) -> str:
        return ", ".join(sorted(self.domain.heads))

    def _time(self, value: Any) -> float:
        at = moment(value, "time")
        if (ahead := at - self.clock()) > self.limits.future_s:
            raise BadPayload(f"the time is {ahead:.10g} s in the future; the limit is {self.limits.future_s:g} s",
                             field="time",
                             hint="set the sender's clock, send seconds (not milliseconds), or raise limits.future_s")
        if at < YEAR_1:
            raise BadPayload("the time lies before the year 1", field="time", hint=CURE)
        return at

    def _ask(self, what: str, call: Callable[..., T], *asked: Any) -> T:
        """Call the domain; whatever but BadPayload it raises is the plugin's fault."""
        try:
            return call(*asked)
        except BadPayload:
            raise
        except Exception as error:  # a plugin may raise anything, and it must cost one element, not the batch
            log.warning("domain %s failed in %s", self.domain.name, what, exc_info=True)
            raise PluginError(f"domain {self.domain.name!r} failed in {what}: {error!a:.300}",
                              hint="mend the plugin; adaptd.testing.check_domain finds such faults") from error


def _each(raw: Sequence[Any], make: Callable[[Any], T]) -> tuple[list[tuple[int, T]], list[Rejected]]:
    good: list[tuple[int, T]] = []
    rejected: list[Rejected] = []
    for index, element in enumerate(raw):
        try:
            good.append((index, make(element)))
        except AdaptdError as error:
            rejected.append({"index": index, "error": error.body()})
    return good, rejected


def _object(element: Any, characters: int, uploads: Uploads) -> Mapping[str, Any]:
    """Return the element, an object whose every value can be stored."""
    if not isinstance(element, dict):
        raise BadPayload(f"an element must be an object, not {_json_type(element)}", hint='send {"text": "…"}')
    fields = uploads.taken(element)
    _storable(fields, "", characters, 1)
    return fields


def _is_plain(element: Any, characters: int) -> bool:
    """Say that an element has nothing in it but short ASCII texts, as most have: there is nothing to look for."""
    if type(element) is not dict:
        return False
    for name, value in element.items():
        if type(value) is not str or len(value) > characters or len(name) > characters:
            return False
        if not (value.isascii() and name.isascii()):
            return False
    return True


def _storable(value: Any, field: str, characters: int, depth: int) -> None:
    """Refuse what JSON, UTF-8 or a 64-bit column cannot hold, and what is too long or too deep."""
    if isinstance(value, str):
        _storable_text(value, field, characters)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadPayload(f"{value} is not a JSON number", field=_shown(field), hint="leave the field out, or send null")
    elif isinstance(value, int) and value not in INT64:
        raise BadPayload("an integer beyond 64 bits", field=_shown(field), hint="send it as a string")
    elif isinstance(value, list | dict):
        if depth > DEPTH:
            raise BadPayload(f"nested deeper than {DEPTH}", field=_shown(field), hint="flatten the payload")
        for at, inner in _inside(value, field, characters):
            _storable(inner, at, characters, depth + 1)
    elif not isinstance(value, int | float | Blob | None):
        raise BadPayload(f"{type(value).__name__} is not a JSON value", field=_shown(field),
                         hint="send what JSON can hold")


def _inside(value: list[Any] | dict[str, Any], field: str, characters: int) -> Iterator[tuple[str, Any]]:
    """Yield what is inside, each under its full name; the names are checked too."""
    if isinstance(value, list):
        yield from ((f"{field}[{index}]", inner) for index, inner in enumerate(value))
        return
    for name, inner in value.items():
        at = f"{field}.{name}" if field else name
        _storable_text(name, at, characters)
        yield at, inner


def _storable_text(text: str, field: str, characters: int) -> None:
    if len(text) > characters:
        raise BadPayload(f"{len(text)} characters; the limit is {characters}", field=_shown(field),
                         hint="send less, or raise limits.characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadPayload(f"a lone surrogate at character {error.start}", field=_shown(field),
                         hint="send both halves of the pair, or U+FFFD in its place") from None


def _shown(field: str) -> str:
    """Return a field's name as an error can show it: encodable and short."""
    return field.encode("utf-8", "backslashreplace").decode()[:200]


def _given(fields: Mapping[str, Any], name: str) -> Any:
    """Return a field's value; JSON's null counts as absent."""
    value = fields.get(name)
    return MISSING if value is None else value


def _name(fields: Mapping[str, Any], field: str, characters: int) -> str | None:
    """Return a field that names something: a short string without control characters."""
    value = fields.get(field)
    if value is None:
        return None
    if type(value) is str and value.isprintable() and 0 < len(value) <= characters and not value.isspace():
        return value
    hint = f"a string of 1 to {characters} characters without control characters"
    if not isinstance(value, str):
        raise BadPayload(f"{field} must be a string, not {_json_type(value)}", field=field, hint=hint)
    if not value.strip():
        raise BadPayload(f"{field} must not be empty", field=field, hint="leave the field out when there is none")
    if len(value) > characters:
        raise BadPayload(f"{field} has {len(value)} characters; the limit is {characters}", field=field, hint=hint)
    if found := CONTROL.search(value):
        raise BadPayload(f"{field} has a control character (U+{ord(found[0]):04X})", field=field, hint=hint)
    return value


def _key(fields: Mapping[str, Any]) -> str | None:
    """Return the client's id; an integer stands for its decimal string."""
    value = fields.get("id")
    if type(value) is str and value.isprintable() and 0 < len(value) <= KEY_CHARACTERS and not value.isspace():
        return value  # what `_name` would do, a call less
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _name(fields, "id", KEY_CHARACTERS)


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    if unknown := sorted(set(fields) - set(FEEDBACK)):
        near = difflib.get_close_matches(unknown[0], FEEDBACK, 1)
        raise BadPayload(f"unknown field {unknown[0][:80]!r}", field=unknown[0][:80],
                         hint=(f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(FEEDBACK)}")


def _json_type(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string",
             list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
