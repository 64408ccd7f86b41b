"""Who comes in: over TCP whoever has a token; on the unix socket whom the file's permission lets. And the audit log of it.

What they may do is looked at where the route is known, in `adaptd.api.app`.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptd.api.errors import failure
from adaptd.api.openapi import OPEN, SIGNED
from adaptd.api.refusals import Refusals
from adaptd.errors import AdaptdError, BadRequest, Unauthorized
from adaptd.grants import Grant, Keyring
from adaptd.records import Report

audit = logging.getLogger("adaptd.audit")  # stable: for who ships it elsewhere
TOKEN_NAMES = ("token", "access_token", "authorization", "bearer")
SIGNED_PATH = re.compile(re.sub("{[a-z]+}", "[^/]+", SIGNED))
UNSIGNED = {401: "a wrong signature, or none", 404: "no such feed"}  # answers to what comes without a token
SOCKET = "socket"  # the actor who came over the unix socket
OPERATOR = Grant(actor=SOCKET, roles=frozenset({"admin"}))
ANONYMOUS = Grant(actor="anonymous", roles=frozenset())


def over_unix(scope: Scope) -> bool:
    """Say whether a request came over the unix socket, whose name is a path without a port; in doubt it did not."""
    server = scope.get("server")
    return server is not None and server[1] is None and str(server[0]).startswith("/")


class Guard:
    """Asks for the token and notes what it grants, before anything else looks at the request."""

    def __init__(self, app: ASGIApp, keyring: Keyring, report: Report) -> None:
        self._app = app
        self._keyring = keyring
        self._refusals = Refusals(report)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 400, 401 or 429."""
        if over_unix(scope):
            scope["adaptd.grant"] = OPERATOR
            await self._app(scope, receive, send)
            return
        try:
            scope["adaptd.grant"] = grant = self._grant(scope)
        except AdaptdError as error:
            await failure(error)(scope, receive, send)
            return
        await self._app(scope, receive, self._watched(scope, send) if grant is ANONYMOUS else _audited(scope, grant.actor, send))

    def _watched(self, scope: Scope, send: Send) -> Send:
        """Note who sends to a feed what is not signed, or to one that is not there."""
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in UNSIGNED:
                self._refusals.note(_address(scope), UNSIGNED[message["status"]], scope)
            await send(message)

        return sent

    def _grant(self, scope: Scope) -> Grant:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name.lower() in TOKEN_NAMES for name, _ in query):
            self._refusals.note(_address(scope), "a token in the query string", scope)
            raise BadRequest("a token does not belong into the query string, where logs keep it",
                             hint="send the header Authorization: Bearer …")
        if scope["path"] in OPEN or SIGNED_PATH.fullmatch(scope["path"]):
            return ANONYMOUS
        given = Headers(scope=scope).getlist("authorization")
        scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        text = text.strip()
        token = self._keyring.find(text) if scheme.lower() == "bearer" and text.isascii() else None
        if token is None:
            self._refusals.note(_address(scope), "a wrong token" if given else "no token", scope)
            raise Unauthorized
        try:
            ended = self._keyring.use(token)
        except AdaptdError as error:  # used too often
            _write(scope, token.grant.actor, error.status)
            raise
        if ended:
            self._refusals.note(_address(scope), f"{token.grant.actor}, which is {ended}", scope)
            raise Unauthorized
        return token.grant


def _audited(scope: Scope, actor: str, send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            _write(scope, actor, message["status"])
        await send(message)

    return sent


def _write(scope: Scope, actor: str, status: int) -> None:
    address, domain = _address(scope), scope.get("path_params", {}).get("domain")
    audit.info("%s %s %a %s from %s", actor, scope["method"], scope["path"][:200], status, address,
               extra={"action": "audit", "actor": actor, "address": address, "domain": domain, "status": status})


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
