"""The door: raw JSON objects become `Item` and `Feedback`, or are rejected one by one, with field and cure.

Where: between whatever delivers (HTTP, feeds, the command line) and the journal. Pure: no database, no model, the
clock is given. Invariant: what passes can be stored and encoded. Its strings are UTF-8 and bounded, its numbers
finite and at most 64 bits, its nesting bounded, its targets checked by the domain's heads; what the domain has redacted is
not in it.
"""

from __future__ import annotations

import difflib
import hmac
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from adaptd.clock import CURE, moment
from adaptd.config import Limits
from adaptd.errors import AdaptdError, BadPayload, PluginError
from adaptd.interfaces import Domain
from adaptd.records import MISSING, Feedback, Item
from adaptd.redact import Redactor

log = logging.getLogger(__name__)
T = TypeVar("T")
Rejected = dict[str, Any]  # {"index": i, "error": {…}}

ENVELOPE = ("id", "label", "answer", "time", "source", "subject")  # every other field is the payload
FEEDBACK = ("event", "source", "id", "label", "teacher")
DEPTH = 32
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

    def items(self, raw: Sequence[Any], *, source: str) -> tuple[list[tuple[int, Item]], list[Rejected]]:
        """Return the good events with their index, and the rejected ones; `source` is who sends them."""
        return _each(raw, lambda element: self._item(element, source))

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

    def named(self, name: str) -> str:
        """Return a source's or a subject's name as the journal has it."""
        return name if self.redactor is None else self.redactor.named(name)

    def read(self, text: str) -> str:
        """Return a text that is asked about, as the remembered ones were read."""
        return text if self.redactor is None else self.redactor.text(text)

    def _read(self, element: Any) -> Mapping[str, Any]:
        fields = _object(element, self.limits.characters)
        return fields if self.redactor is None else self.redactor.element(fields)

    def _item(self, element: Any, source: str) -> Item:
        fields = self._read(element)
        payload = {name: value for name, value in fields.items() if name not in ENVELOPE}
        label = _given(fields, "label")
        self._ask("example", lambda: self.domain.example(payload))
        text = self._ask("content", lambda: self.domain.content(payload).encode())
        return Item(
            payload=payload,
            source=_name(fields, "source", SOURCE_CHARACTERS) or source,
            key=_key(fields),
            label=label,
            targets={} if label is MISSING else self.targets(label),
            content=hmac.digest(self.key, text, "sha256")[:16],
            answer=_given(fields, "answer"),
            time=self._time(_given(fields, "time")),
            subject=_name(fields, "subject", KEY_CHARACTERS),
        )

    def _feedback(self, element: Any, source: str) -> Feedback:
        fields = self._read(element)
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
        return checked

    def _heads(self) -> str:
        return ", ".join(sorted(self.domain.heads))

    def _time(self, value: Any) -> float | None:
        if value is MISSING:
            return None
        at = moment(value, "time")
        if (ahead := at - self.clock()) > self.limits.future_s:
            raise BadPayload(f"the time is {ahead:.10g} s in the future; the limit is {self.limits.future_s:g} s",
                             field="time",
                             hint="set the sender's clock, send seconds (not milliseconds), or raise limits.future_s")
        if at < YEAR_1:
            raise BadPayload("the time lies before the year 1", field="time", hint=CURE)
        return at

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Call the domain; whatever but BadPayload it raises is the plugin's fault."""
        try:
            return call()
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


def _object(element: Any, characters: int) -> Mapping[str, Any]:
    """Return the element, an object whose every value can be stored."""
    if not isinstance(element, dict):
        raise BadPayload(f"an element must be an object, not {_json_type(element)}", hint='send {"text": "…"}')
    _storable(element, "", characters, 1)
    return element


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
    elif not isinstance(value, int | float | None):
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
    value = _given(fields, field)
    if value is MISSING:
        return None
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
    value = _given(fields, "id")
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
