"""Who may do what: roles, what a token grants, and the ring of tokens that a running daemon knows.

Where: below the HTTP interface, which asks; `adaptd.tokens` keeps the tokens in the store. Standard library only.
A token is 256 random bits, so its plain SHA-256 can be kept: there is nothing to guess. Every digest is compared, each in
constant time, so that the time taken says nothing about which was meant.
"""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from adaptd.errors import Busy, Forbidden

ROLES: Mapping[str, str] = {
    "predict": "ask for answers",
    "ingest": "send events without labels",
    "label": "teach: labels for events, and reading the events that are to be labelled",
    "operate": "everything about versions, memory, holds and feeds that can be undone",
    "watch": "status, health and metrics, which every token for all domains may read, and nothing else",
    "admin": "everything, also forgetting and tokens",
}
SPEAKING = frozenset({"predict", "ingest", "label"})  # the roles that a token which is bound to a source may have
PREFIX = "adaptd_"  # by which one that is found lying about is recognised
LIVE = 1000  # tokens that may be valid at once: each is compared with
ENDED_S = 86_400.0  # for so long the log says of a token that it has ended, and then that it is wrong
BURST_S = 1.0  # of a token's rate may come together


def generated() -> str:
    """Return a new token."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """Return what is kept of a token."""
    return sha256(token.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What whoever came in may do. `domains` None: all; `source`: the only one that it speaks for."""

    actor: str
    roles: frozenset[str]
    domains: frozenset[str] | None = None
    source: str | None = None

    def has(self, roles: Collection[str]) -> bool:
        """Say whether one of the roles is held; an admin has all, and where none is named any will do."""
        return not roles or "admin" in self.roles or bool(self.roles & set(roles))

    def check_role(self, roles: Collection[str], what: str) -> None:
        """Refuse what none of the roles allows.

        Raises
        ------
        Forbidden
            Naming the roles that do.
        """
        if not self.has(roles):
            needed = " or ".join(roles)
            raise Forbidden(f"{what} needs the role {needed}; {self.actor} has {', '.join(sorted(self.roles))}",
                            hint=f"use a token with that role: adaptd token create NAME --role {next(iter(roles))}")

    def check_domain(self, domain: str | None) -> None:
        """Refuse another domain, and the whole store (None), to who has only some domains.

        Raises
        ------
        Forbidden
            Naming the domains that are allowed.
        """
        if self.domains is not None and domain not in self.domains:
            about = "this is about the whole store" if domain is None else f"{domain[:64]!r} is not among its domains"
            raise Forbidden(f"{about}; {self.actor} is for {', '.join(sorted(self.domains))}", field="domain",
                            hint="use a token for that domain, or for all")

    def check_source(self, claimed: object, field: str) -> None:
        """Refuse to let a token that is bound to a source speak for another.

        Raises
        ------
        Forbidden
            Naming the source that is allowed.
        """
        if self.source is not None and claimed is not None and claimed != self.source:
            raise Forbidden(f"{self.actor} speaks for the source {self.source!r} and for no other", field=field,
                            hint=f"leave {field} out")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as it is kept."""

    id: int
    name: str
    digest: bytes
    grant: Grant
    created: float
    creator: str
    expires: float | None = None
    revoked: float | None = None
    used: float | None = None

    @property
    def end(self) -> float:
        """When it ended, or will."""
        return min((at for at in (self.revoked, self.expires) if at is not None), default=math.inf)

    def ended(self, now: float) -> str | None:
        """Say why it is not valid any more."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else None


class Keyring:
    """The tokens of a running daemon. `hold` changes them at once, from any thread."""

    def __init__(self, *, rate: float = 0.0, clock: Callable[[], float] = time.time) -> None:
        self._rate, self._clock = rate, clock
        self._tokens: tuple[Token, ...] = ()
        self._own: tuple[Token, ...] = ()
        self._next: dict[int, float] = {}  # when a token's next request was due, had they come evenly
        self._used: dict[int, float] = {}

    def own(self, token: str) -> None:
        """Know the token of the store's folder, an admin's, beside those of the table."""
        grant = Grant(actor="token", roles=frozenset({"admin"}))
        self._own = (Token(id=0, name="token", digest=digest(token), grant=grant, created=0.0, creator="adaptd"),)

    def hold(self, tokens: Sequence[Token]) -> None:
        """Know these tokens and no others; those that ended long ago are let go, as each request compares all."""
        self._tokens = tuple(one for one in tokens if one.end > self._clock() - ENDED_S)

    def stands(self, grant: Grant) -> bool:
        """Say whether a token with this grant is still valid."""
        now = self._clock()
        return any(one.grant == grant and one.ended(now) is None for one in self._own + self._tokens)

    def find(self, given: str) -> Token | None:
        """Return the token that this is, also one that has ended."""
        wanted, found = digest(given), None
        for one in self._own + self._tokens:
            if hmac.compare_digest(one.digest, wanted):
                found = one  # the rest is compared as well
        return found

    def use(self, token: Token) -> str | None:
        """Note that a token is used; return why it may not be.

        Raises
        ------
        Busy
            It is used more often than the configured rate.
        """
        now = self._clock()
        if ended := token.ended(now):
            return ended
        self._used[token.id] = now
        if self._rate:
            next_due = max(self._next.get(token.id, now), now) + 1 / self._rate
            early = next_due - now - max(BURST_S, 1 / self._rate)
            if early > 1e-6:  # more than what sums of floats are off by
                raise Busy(f"{token.grant.actor} sends more than {self._rate:g} requests a second", retry_after_s=early,
                           hint="send more in one request, or raise limits.rate")
            self._next[token.id] = next_due
        return None

    def used(self) -> dict[int, float]:
        """Return when each token of the table was last used, as far as this process saw it."""
        return {number: at for number, at in self._used.copy().items() if number}
