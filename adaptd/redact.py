"""Redact: personal data is taken out at the door, before anything keeps, encodes, learns or logs it.

Where: inside `ingest`, first of all; for a feed also over what was not taken. Off unless a domain's `[redact]` names entities:
what is taken out cannot be learned from, and no pattern is without error, so that it is somebody's decision. Invariant:
redacting twice is redacting once, so that an element that is delivered or tried again is the same element.
"""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptd.config import Redact
from adaptd.errors import BadConfig, BadPayload, MissingExtra
from adaptd.interfaces import FeedItem
from adaptd.records import canonical

if TYPE_CHECKING:
    from adaptd.personal import Finder, Found

NAMES = ("id", "source", "subject", "teacher")  # they tell one from another: always under a token of their own
AS_THEY_ARE = ("time", "event")  # checked elsewhere, and by their form no one's
LETTERS = bytes.maketrans(b"0123456789abcdef", b"abcdefghijklmnop")  # no pattern finds anything in a token
PUT_IN = re.compile(r"<(EMAIL|PHONE|CARD|IBAN|ID|IP)(?::[a-p]{16})?>")
SHORTEST = 10**8  # smaller integers are no one's number


@dataclass(frozen=True)
class Redactor:
    """A domain's policy; `key` is the store's HMAC key."""

    settings: Redact
    finder: Finder
    key: bytes

    def element(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event, an input or a late label without personal data.

        Raises
        ------
        BadPayload
            Some is in its label, or anywhere where the action is "reject".
        """
        return {self._name(name, name): self._field(name, value) for name, value in fields.items()}

    def _field(self, name: str, value: Any) -> Any:
        if name in AS_THEY_ARE:
            return value
        if name == "label":
            return self._walk(value, name, self._checked)
        if name in NAMES:
            return self._walk(value, name, self._name)
        return self._walk(value, name, self._text)

    def named(self, name: str) -> str:
        """Return a source's or a subject's name as the journal has it."""
        return self.finder.replaced(name, self._token)

    def text(self, text: str) -> str:
        """Return a text as the journal has it."""
        if self.settings.action != "replace":
            return self.named(text)
        return PUT_IN.sub(r"<\1>", self.finder.replaced(text, lambda one: f"<{one.entity.upper()}>"))

    def letter(self, item: FeedItem, reason: str) -> tuple[FeedItem, str]:
        """Return what a feed gave and why it was not taken, as they may be kept: under tokens, as a retry needs them apart.

        What is not JSON may hold anything in any form: of it only the length is kept.
        """
        walk = functools.partial(self._walk, field="", each=lambda text, _: self.named(text))
        if isinstance(item.value, dict):
            raw = canonical(walk(item.value)).encode()
        else:
            mark = hmac.digest(self.key, item.raw, "sha256").hex()[:16]
            raw = canonical(f"{len(item.raw)} bytes that cannot be read, not kept as [redact] is on; {mark}").encode()
        key = None if item.key is None else self.named(item.key)
        return replace(item, raw=raw, key=key, about=walk(dict(item.about))), self.named(reason)

    def _walk(self, value: Any, field: str, each: Callable[[str, str], str]) -> Any:
        """Apply `each` to every string and to every integer that is long enough to be somebody's."""
        if isinstance(value, str):
            return each(value, field)
        if isinstance(value, int) and value >= SHORTEST:
            text = str(value)
            return value if (said := each(text, field)) == text else said
        if isinstance(value, list):
            return [self._walk(inner, f"{field}[{index}]", each) for index, inner in enumerate(value)]
        if isinstance(value, dict):
            return {self.named(name): self._walk(inner, f"{field}.{name}", each) for name, inner in value.items()}
        return value

    def _text(self, text: str, field: str) -> str:
        return self.text(text) if self.settings.action == "replace" else self._name(text, field)

    def _name(self, text: str, field: str) -> str:
        if self.settings.action == "reject" and (found := self.finder.find(text)):
            raise BadPayload(f"personal data: {found[0].entity}", field=self.named(field),
                             hint='take it out; or redact.action = "replace" takes it out here')
        return self.named(text)

    def _checked(self, text: str, field: str) -> str:
        """Refuse a label that names somebody: in its place another class would be learned."""
        if (found := self.finder.find(text)) or PUT_IN.search(text):
            entity = found[0].entity if found else "redacted"
            raise BadPayload(f"personal data in the label: {entity}", field=self.named(field),
                             hint="a label is shown to all who ask, and kept: give its class a name")
        return text

    def _token(self, one: Found) -> str:
        mark = hmac.digest(self.key, f"redact {one.entity} {one.same}".encode(), "sha256").hex()[:16]
        return f"<{one.entity.upper()}:{mark.encode().translate(LETTERS).decode()}>"


def redactor(settings: Redact, key: bytes, field: str) -> Redactor | None:
    """Return what redacts by these settings; None where they name nothing.

    Raises
    ------
    MissingExtra
        The libraries are not installed.
    BadConfig
        A region has no numbering plan.
    """
    if not settings.entities:
        return None
    try:
        from adaptd import personal
    except ImportError:
        raise MissingExtra("redaction needs phonenumbers and python-stdnum", field=field,
                           hint="pip install 'adaptd[redact]'") from None
    for region in settings.regions:
        if not personal.known_region(region):
            raise BadConfig(f"no numbering plan for region {region!r}", field=f"{field}.regions",
                            hint="two letters of ISO 3166: US, GB, CN, DE …")
    return Redactor(settings, personal.Finder(settings.entities, settings.regions), key)
