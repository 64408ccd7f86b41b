"""Tokens in the store: made, listed, revoked; what is kept of one is its digest. `adaptd.grants` says what they allow."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from adaptd import tables as t
from adaptd.errors import BadName, BadRequest, Conflict, NotFound, UnknownDomain
from adaptd.grants import LIVE, ROLES, SPEAKING, Grant, Token, digest, generated
from adaptd.history import act
from adaptd.records import canonical

NAME = re.compile(r"[a-z][a-z0-9_.-]{0,62}")


def create(connection: Connection, seq: int, actor: str, name: str, *, roles: Collection[str],
           domains: Collection[str] | None = None, source: str | None = None,
           expires: float | None = None) -> tuple[str, dict[str, Any]]:
    """Make a token; return it, which is not kept, and what is.

    Raises
    ------
    BadName
        The name cannot be a token's.
    BadRequest
        Roles, source or expiry make no sense.
    UnknownDomain
        The store has no such domain.
    Conflict
        There is, or was, a token of that name, or there are too many.
    """
    now = time.time()
    _check(name, roles, source, expires, now)
    _check_domains(connection, domains)
    known = all_of(connection)
    if any(one.name == name for one in known):
        raise Conflict(f"there is a token {name!r}, or there was", field="name",
                       hint="a name is used once, so that the log stays clear: take another")
    if sum(one.ended(now) is None for one in known) >= LIVE:
        raise Conflict(f"there are {LIVE} valid tokens", hint="revoke some: adaptd token list")
    token = generated()
    connection.execute(insert(t.token).values(
        name=name, digest=digest(token), roles=canonical(sorted(roles)), source=source, created=now, creator=actor,
        expires=expires, domains=None if domains is None else canonical(sorted(domains))))
    made = next(one for one in all_of(connection) if one.name == name)
    act(connection, seq, None, "token-create", actor, "", detail={"token": shown(made, now)})
    return token, shown(made, now)


def _check(name: str, roles: Collection[str], source: str | None, expires: float | None, now: float) -> None:
    if not NAME.fullmatch(name):
        raise BadName(f"{name[:80]!r} cannot be a token's name", field="name",
                      hint="a small letter first, then small letters, digits, '.', - and _; at most 63")
    if not roles or (unknown := set(roles) - set(ROLES)):
        what = f"there is no role {sorted(unknown)[0][:40]!r}" if roles else "a token needs a role"
        raise BadRequest(what, field="roles", hint=f"one or more of {', '.join(ROLES)}")
    if source is not None and (more := set(roles) - SPEAKING):
        raise BadRequest(f"a token that is bound to a source cannot have the role {sorted(more)[0]}", field="source",
                         hint=f"roles that speak for a source: {', '.join(sorted(SPEAKING))}")
    if expires is not None and expires <= now:
        raise BadRequest("the token would have expired already", field="expires", hint="give a moment that is yet to come")


def _check_domains(connection: Connection, domains: Collection[str] | None) -> None:
    known = list(connection.execute(select(t.domain.c.name).order_by(t.domain.c.name)).scalars())
    for name in sorted(domains or ()):
        if name not in known:
            raise UnknownDomain(f"there is no domain {name[:64]!r}", field="domains", hint=f"known: {', '.join(known) or 'none'}")


def revoke(connection: Connection, seq: int, actor: str, name: str, reason: str = "") -> dict[str, Any]:
    """End a token; again it changes nothing.

    Raises
    ------
    NotFound
        There is no such token.
    """
    found = next((one for one in all_of(connection) if one.name == name), None)
    if found is None:
        raise NotFound(f"there is no token {name[:80]!r}", field="name", hint="adaptd token list")
    if found.revoked is None:
        connection.execute(update(t.token).where(t.token.c.id == found.id).values(revoked=time.time()))
        act(connection, seq, None, "token-revoke", actor, reason, detail={"token": name})
    return next(shown(one, time.time()) for one in all_of(connection) if one.id == found.id)


def all_of(connection: Connection) -> list[Token]:
    """Return all tokens, oldest first, those that have ended too."""
    return [_token(row) for row in connection.execute(select(t.token).order_by(t.token.c.id))]


def note_used(connection: Connection, used: Mapping[int, float]) -> None:
    """Keep when tokens were last used."""
    for number, at in used.items():
        connection.execute(update(t.token).where(t.token.c.id == number).values(used=at))


def listed(connection: Connection, used: Mapping[int, float] | None = None) -> list[dict[str, Any]]:
    """Return all tokens as they are shown; `used` is newer than what is kept."""
    now = time.time()
    return [shown(one, now) | ({"used": used[one.id]} if used and one.id in used else {}) for one in all_of(connection)]


def shown(token: Token, now: float) -> dict[str, Any]:
    """Return what may be said of a token: not its digest."""
    grant = token.grant
    return {"name": token.name, "state": token.ended(now) or "valid", "roles": sorted(grant.roles),
            "domains": None if grant.domains is None else sorted(grant.domains), "source": grant.source,
            "created": token.created, "creator": token.creator, "expires": token.expires, "revoked": token.revoked,
            "used": token.used}


def _token(row: Row[Any]) -> Token:
    domains = None if row.domains is None else frozenset(json.loads(row.domains))
    grant = Grant(actor=f"token:{row.name}", roles=frozenset(json.loads(row.roles)), domains=domains, source=row.source)
    return Token(id=row.id, name=row.name, digest=row.digest, grant=grant, created=row.created, creator=row.creator,
                 expires=row.expires, revoked=row.revoked, used=row.used)
