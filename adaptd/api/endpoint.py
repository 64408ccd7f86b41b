"""One route: the one place that says what it takes, what it gives and who does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from adaptd.api.operations import Json, Operations
from adaptd.api.requests import NoQuery, Query
from adaptd.config import Limits
from adaptd.grants import Grant

ANY: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a handler is given: the request, read and checked."""

    operations: Operations
    limits: Limits
    path: Mapping[str, str]
    query: Any  # the route's query model
    body: Any  # the route's request model, a `Batch`, or bytes; None until it is read
    headers: Mapping[str, str]
    grant: Grant  # who asks, and what else they may do
    closing: asyncio.Event  # set when the server stops: open streams end
    still_allowed: Callable[[], bool]  # whether the grant still stands: open streams end with it

    @property
    def domain(self) -> str:
        """The domain in the path."""
        return self.path["domain"]

    @property
    def actor(self) -> str:
        """Who asks, as the history names them."""
        return self.grant.actor


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A row of the route table."""

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Json | Response]]
    roles: tuple[str, ...]  # any of them opens it, and so does admin's; ANY: every token does
    answer: type[BaseModel] | str  # the model of a JSON answer, or the media type of another
    request: type[BaseModel] | None = None
    query: type[Query] | None = NoQuery  # None: not looked at
    batch: bool = False  # `request` is one element of a list, or of lines
    raw: bool = False  # the body as it is
    before: Callable[[Call], None] | None = None  # looks at what comes before its body is read
    headers: tuple[str, ...] = ()  # that are looked at beside the usual ones
    whole: bool = False  # about no domain, and closed to who has only some
    may_be_empty: bool = False  # no body stands for the defaults
    success: int = 200

    @property
    def summary(self) -> str:
        """The handler's docstring."""
        return (self.handler.__doc__ or "").strip()
