"""Who may come in: over TCP whoever has a token; on the unix socket whom the file's permission lets."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptd.api.errors import failure
from adaptd.api.openapi import OPEN, SIGNED
from adaptd.errors import AdaptdError, BadRequest, Unauthorized

log = logging.getLogger(__name__)
TOKEN_NAMES = ("token", "access_token", "authorization", "bearer")
SIGNED_PATH = re.compile(re.sub("{[a-z]+}", "[^/]+", SIGNED))
SOCKET = "socket"  # the actor who came over the unix socket
TokenCheck = Callable[[str], str | None]


def over_unix(scope: Scope) -> bool:
    """Say whether a request came over the unix socket, whose name is a path without a port; in doubt it did not."""
    server = scope.get("server")
    return server is not None and server[1] is None and str(server[0]).startswith("/")


class Guard:
    """Asks for the token and notes the actor, before anything else looks at the request."""

    def __init__(self, app: ASGIApp, token_check: TokenCheck) -> None:
        self._app = app
        self._token_check = token_check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 400 or 401."""
        if scope["type"] == "http":
            try:
                scope["adaptd.actor"] = SOCKET if over_unix(scope) else self._actor(scope)
            except AdaptdError as error:
                log.warning("refused %s %a: %s", scope["method"], scope["path"][:200], error.code)
                await failure(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _actor(self, scope: Scope) -> str:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name.lower() in TOKEN_NAMES for name, _ in query):
            raise BadRequest("a token does not belong into the query string, where logs keep it",
                             hint="send the header Authorization: Bearer …")
        if scope["path"] in OPEN or SIGNED_PATH.fullmatch(scope["path"]):
            return "anonymous"
        given = Headers(scope=scope).getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        token = token.strip()
        # ASCII only: what compares in constant time takes nothing else
        if scheme.lower() != "bearer" or not token.isascii() or not (actor := self._token_check(token)):
            raise Unauthorized
        return actor
