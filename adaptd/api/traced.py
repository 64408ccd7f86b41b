"""Traces requests that do something, where a tracer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptd.api.guard import ANONYMOUS

ROUTE = "adaptd.route"  # in a request's scope, once it is known


class RequestTracer(Protocol):
    """Makes a span of a request (`adaptd.tracing`)."""

    def request(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[Callable[[str, int], None]]:
        """Trace what is done meanwhile; what is given is called with the route and the status."""
        ...


class Traced:
    """Behind the guard: who may not come in begins no trace, nor does who comes without a token and may be anybody."""

    def __init__(self, app: ASGIApp, tracer: RequestTracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, in a span if it is a POST: the others are looks from outside."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["adaptd.grant"] is ANONYMOUS:
            await self._app(scope, receive, send)
            return
        with self._tracer.request(scope["method"], Headers(scope=scope)) as answered:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    answered(scope.get(ROUTE, "unknown"), message["status"])
                await send(message)

            await self._app(scope, receive, watched)
