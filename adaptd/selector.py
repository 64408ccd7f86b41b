"""Which events a forget is about: what was asked for, read and refused where it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adaptd.clock import CURE, moment
from adaptd.errors import BadPayload

SELECTORS = ("event", "source", "subject", "label", "since")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Which events of a domain: all of one source, subject or label, received in a time, or one event."""

    kind: str
    value: str | float
    until: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Selector:
        """Read what was asked for.

        Raises
        ------
        BadPayload
            None or several, or times that cannot be.
        """
        named = [kind for kind in SELECTORS if given.get(kind) is not None]
        if len(named) != 1:
            what = "nothing says what to forget" if not named else f"{' and '.join(named)} both given"
            raise BadPayload(what, field=named[1] if named else "event", hint=f"give exactly one of {', '.join(SELECTORS)}")
        until = None if given.get("until") is None else moment(given["until"], "until")
        if named[0] != "since":
            if until is not None:
                raise BadPayload("until goes with since", field="until", hint="leave it out, or give since")
            return cls(kind=named[0], value=str(given[named[0]]))
        since = moment(given["since"], "since")
        if since > time.time():
            raise BadPayload("since lies in the future", field="since", hint="nothing can have come since then; " + CURE)
        if until is not None and until <= since:
            raise BadPayload("until does not lie behind since", field="until", hint=CURE)
        return cls(kind="since", value=since, until=until)

    def named(self, name: Callable[[str], str]) -> Selector:
        """Return it with a source's or a subject's name as the journal has it."""
        return replace(self, value=name(str(self.value))) if self.kind in ("source", "subject") else self

    def asked(self) -> dict[str, Any]:
        """Return what was asked for, for the certificate."""
        return {self.kind: self.value} | ({} if self.until is None else {"until": self.until})

    def kept(self, token: Callable[[str, str], str]) -> dict[str, Any]:
        """Return what the history keeps of it: what may name a person or a forgotten label only as an HMAC."""
        hidden = self.kind in ("subject", "label")
        return {f"{self.kind}_hmac": token(self.kind, str(self.value))} if hidden else self.asked()
